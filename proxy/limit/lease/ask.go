package lease

import (
	"context"
	"time"

	"github.com/signet-mesh/signet/proxy/limit"
)

// answer is what a look at a lease gives.
type answer uint8

const (
	away    answer = iota // the store can't be asked
	gone                  // the lease has left the table
	decided               // there is a grant
	wait                  // a call is on its way
)

// ask decides a request for which no token was at hand.
func (l *Leases) ask(ctx context.Context, b *limit.Bucket, key limit.Key) (limit.Grant, bool) {
	if b.Requests == 0 || b.Calendar == 0 && (b.Burst == 0 || b.Period <= 0) {
		return limit.Grant{Retry: time.Second}, true // a limit of nothing
	}
	var timer *time.Timer
	var before uint64
	for first := true; ; {
		e := l.table.add(b, key)
		if e == nil {
			l.full.Add(1)
			return limit.Grant{}, false
		}
		g, a, ready, heard := l.look(e)
		switch a {
		case away:
			return g, false
		case decided:
			return g, true
		case gone:
			continue
		}
		if first {
			timer, before, first = time.NewTimer(waitMax), heard, false
			defer timer.Stop()
		}
		select {
		case <-ready:
			e.waiting.Add(-1)
		case <-ctx.Done():
			e.waiting.Add(-1)
			return limit.Grant{}, false
		case <-timer.C:
			e.waiting.Add(-1)
			return l.late(e, before)
		}
	}
}

// look takes a token if there is one, else says why not, and sees to it that a call is on its way if one may be.
func (l *Leases) look(e *lease) (limit.Grant, answer, chan struct{}, uint64) {
	e.touched.Store(true)
	if g, ok := l.held(e); ok {
		return g, decided, nil, 0
	}
	if state(l.state.Load()) != up {
		return limit.Grant{}, away, nil, 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	left := e.left.Load()
	if left < closed/2 {
		return limit.Grant{}, gone, nil, 0
	}
	if e.Calendar != 0 && left > 0 && l.now() >= e.resetAt.Load() {
		e.left.CompareAndSwap(left, 0) // the window of these is over
	}
	if left, ok := l.hand(e); ok {
		return l.allowed(e, left), decided, nil, 0
	}
	if !l.order(e) || l.slow.Load() {
		return limit.Grant{}, away, nil, 0
	}
	e.waiting.Add(1)
	return limit.Grant{}, wait, e.ready, e.heard
}

// late answers a request whose time is up. A token may have come in the same moment. When Redis was heard meanwhile, others were faster and it is refused; else
// nobody waits until something is heard.
func (l *Leases) late(e *lease, before uint64) (limit.Grant, bool) {
	e.mu.Lock()
	heard := e.heard
	e.mu.Unlock()
	if left, ok := l.hand(e); ok {
		return l.allowed(e, left), true
	}
	if heard != before {
		return e.refused(l.now()), true
	}
	l.slow.Store(true)
	return limit.Grant{}, false
}

// order queues a call for more tokens if none is on its way, and reports whether one is. e.mu is held.
func (l *Leases) order(e *lease) bool {
	if e.pending.Load() {
		return true
	}
	if e.left.Load() < closed/2 {
		return false
	}
	select {
	case l.queue <- order{lease: e}:
	default:
		return false
	}
	now := l.now()
	l.size(e, now)
	e.asked = now
	e.ready = make(chan struct{})
	e.pending.Store(true)
	return true
}

// What makes a batch grow and shrink: calls that follow each other faster than the one, slower than the other.
const (
	growBelow   = 100 * time.Millisecond
	shrinkAbove = 800 * time.Millisecond
)

// size fits the batch to how fast it was used. A lease of one token is not topped up in the background: a key that is asked
// for now and then would cost three calls a request.
func (l *Leases) size(e *lease, now int64) {
	switch gone := time.Duration(now - e.asked); {
	case e.heard == 0 || e.quietUntil.Load() > e.asked: // the first; or Redis had no more
	case gone < growBelow:
		e.batch *= 2
	case gone > shrinkAbove:
		e.batch /= 2
	}
	e.batch = max(min(e.batch, l.most(e)), 1)
	low := e.batch / 2
	if e.batch == 1 {
		low = -1
	}
	e.low.Store(low)
}

// most is how many tokens may be at hand: all proxies together hold no more than half the burst, so that what one of them
// does not use is there for the others.
func (l *Leases) most(e *lease) int64 {
	whole := int64(e.Burst)
	if e.Calendar != 0 {
		whole = int64(e.Requests)
	}
	return max(whole/(2*l.replicas.Load()), 1)
}

// hold is how long a refusal stands before Redis is asked again.
func (e *lease) hold(retry time.Duration) time.Duration {
	least := float64(holdMin)
	if e.Calendar == 0 {
		least = min(least, float64(e.Period)/float64(e.Requests)*float64(e.Burst)/4)
	}
	return min(max(retry, time.Duration(least)), holdMax)
}
