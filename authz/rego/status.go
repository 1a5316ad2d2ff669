package rego

import (
	"sync/atomic"
	"time"
)

// Status is how a Policy does, for the admin page and metrics. Counters begin at 0 with the process.
type Status struct {
	// Ready is false while a policy with a bundle has none: everything is denied.
	Ready bool
	// Revision is the active bundle's; "" without one.
	Revision string
	// Lowered says that the policy runs as native code, NotLowered else why not.
	Lowered    bool
	NotLowered string
	// Evaluations counts readings of requests that were judged, Natively those of them without topdown.
	Evaluations, Natively uint64
	// CanaryDifferences counts lowered decisions that topdown did not share; after the first the policy is no longer
	// lowered.
	CanaryDifferences uint64
	// Errors counts denials for want of a proper result, Timeouts among them; Undefined is counted apart.
	Errors, Timeouts, Undefined uint64
	// LastError is the latest of Errors, at LastErrorAt; "" without one, and when it was that there was no bundle yet and
	// there is one now.
	LastError   string
	LastErrorAt time.Time
	// Bundle and DecisionLog are nil without one.
	Bundle      *BundleStatus
	DecisionLog *DecisionLogStatus
}

// tally counts in several places, so that cores don't fight for one.
type tally [8]struct {
	n atomic.Uint64
	_ [120]byte // two cache lines: they are fetched in pairs
}

func (t *tally) add(shard int) uint64 { return t[shard%len(t)].n.Add(1) }
func (t *tally) undo(shard int)       { t[shard%len(t)].n.Add(^uint64(0)) }

func (t *tally) sum() (n uint64) {
	for i := range t {
		n += t[i].n.Load()
	}
	return n
}

// counters are what a Policy counts of itself.
type counters struct {
	natively tally
	// evaluations are those by topdown.
	evaluations, undefined, errors, timeouts, differences atomic.Uint64
	// distrusted is set for good by the first difference between native code and topdown.
	distrusted atomic.Bool
	last       atomic.Pointer[failure]
}

type failure struct {
	text string
	at   time.Time
}

// fail counts one denial for want of a result.
func (c *counters) fail(err error) {
	c.errors.Add(1)
	c.last.Store(&failure{text: err.Error(), at: time.Now()})
}

// Status reports. It is cheap.
func (p *Policy) Status() Status {
	s := Status{
		Evaluations: p.evaluations.Load(), Natively: p.natively.sum(), CanaryDifferences: p.differences.Load(),
		Errors: p.errors.Load(), Timeouts: p.timeouts.Load(), Undefined: p.undefined.Load(),
	}
	s.Evaluations += s.Natively
	if cur := p.current.Load(); cur != nil {
		s.Ready, s.Revision = true, cur.revision
		s.Lowered, s.NotLowered = cur.native != nil, cur.notLowered
	}
	if f := p.last.Load(); f != nil && !(s.Ready && f.text == errNothing.Error()) {
		s.LastError, s.LastErrorAt = f.text, f.at
	}
	if p.distrusted.Load() {
		s.Lowered, s.NotLowered = false, "a lowered decision differed from OPA's"
	}
	p.remote.status(&s)
	return s
}
