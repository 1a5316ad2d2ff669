package limit

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Registry keeps the state of limits over changes of configuration: a rule of the same policy with the same selectors and
// unit goes on counting, wherever it stands and however much it allows. A quota keeps how much is used, a rate when its
// bucket will be full again: who had used up the old limit waits under a new one no longer than until then. State that no Set
// has any more goes with the next garbage collection; two Sets with the same rule count together. Safe for concurrent use.
type Registry struct {
	now     func() time.Time // nil is the system's clock
	base    time.Time
	seed    maphash.Seed
	offline bool
	store   atomic.Pointer[Store]

	mu    sync.Mutex
	cells map[cellKey]weak.Pointer[cell] // guarded by mu
}

// cellKey names a rule over changes of configuration.
type cellKey struct {
	policy  mesh.Key
	global  bool
	content [32]byte // the hash of selectors and unit; zero for a quarantined policy
	twin    int      // how many rules of the scope with the same content are above it
}

// cell is the state of one rule. Its own lines of the cache keep state and counts apart.
type cell struct {
	_     [64]byte
	state atomic.Int64
	_     [56]byte
	// keys is nil for a rule without Distinct selectors.
	keys     *table
	rule     atomic.Pointer[statusOf]
	counters counters
}

// statusOf is what Status says of a cell besides its counts, as the latest configuration has it.
type statusOf struct {
	rule   *Rule
	shadow bool
	order  cellKey
}

// NewRegistry builds an empty registry. now is the clock, time.Now where nil.
func NewRegistry(now func() time.Time) *Registry {
	r := &Registry{now: now, seed: maphash.MakeSeed(), cells: map[cellKey]weak.Pointer[cell]{}}
	r.base = r.clock()
	return r
}

// NewOffline builds a registry for objects that nothing runs: what its Sets Explain is Known only of rules that never allow anything.
func NewOffline() *Registry {
	r := NewRegistry(nil)
	r.offline = true
	return r
}

// SetStore changes the store of global limits; nil is no store: then global limits refuse.
func (r *Registry) SetStore(s Store) {
	if s == nil {
		r.store.Store(nil)
		return
	}
	r.store.Store(&s)
}

func (r *Registry) clock() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

// moment reads the clock: only the monotonic one, which costs half as much, unless there are quotas.
func (r *Registry) moment(quotas bool) moment {
	if r.now == nil && !quotas {
		return moment{mono: units(time.Since(r.base))}
	}
	t := r.clock()
	m := moment{mono: units(t.Sub(r.base))}
	if quotas {
		m.wall = t.UnixNano()
	}
	return m
}

// cell is the state of a rule, that of an earlier Set where there is one. keyed follows from the content.
func (r *Registry) cell(key cellKey, keyed bool) *cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.cells[key].Value(); c != nil {
		return c
	}
	c := &cell{}
	c.state.Store(fresh)
	if keyed {
		c.keys = newTable(MaxKeys)
	}
	r.cells[key] = weak.Make(c)
	return c
}

// sweep forgets state that was collected.
func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range r.cells {
		if c.Value() == nil {
			delete(r.cells, key)
		}
	}
}

// Set is the limits of one listener or route. Immutable but for its counters; safe for concurrent use. The nil *Set has no
// limits.
type Set struct {
	registry *Registry
	rules    []*rule
	quotas   bool
}

// Compile reads policies; an error is a *FieldError that names the policy and the field. State of rules that an earlier Set
// of the registry had is taken over.
func (r *Registry) Compile(policies []*mesh.Typed[*policy.RateLimitPolicy]) (*Set, error) {
	r.sweep()
	s := &Set{registry: r}
	for _, p := range policies {
		rules, err := r.compilePolicy(p)
		if err != nil {
			return nil, err
		}
		s.rules = append(s.rules, rules...)
	}
	for _, rl := range s.rules {
		s.quotas = s.quotas || rl.shape.calendar != 0
		rl.cell.rule.Store(&statusOf{rule: &rl.Rule, shadow: rl.shadow, order: rl.cellKey})
	}
	return s, nil
}

// Status lists the rules of all Sets in use, sorted by policy and rule. A rule that no Set has any more goes with the next
// garbage collection.
func (r *Registry) Status() []Status {
	var at []*statusOf
	cells := map[*statusOf]*cell{}
	r.mu.Lock()
	for _, w := range r.cells {
		if c := w.Value(); c != nil {
			if of := c.rule.Load(); of != nil {
				at, cells[of] = append(at, of), c
			}
		}
	}
	r.mu.Unlock()
	slices.SortFunc(at, func(a, b *statusOf) int {
		return cmp.Or(cmp.Compare(a.order.policy.Namespace, b.order.policy.Namespace), cmp.Compare(a.order.policy.Name, b.order.policy.Name),
			cmp.Compare(a.rule.Ref.Rule, b.rule.Ref.Rule))
	})
	out := make([]Status, len(at))
	for i, of := range at {
		out[i] = cells[of].status(of)
	}
	return out
}

// Status lists the rules of one Set in order.
func (s *Set) Status() []Status {
	if s == nil {
		return nil
	}
	out := make([]Status, len(s.rules))
	for i, rl := range s.rules {
		out[i] = rl.cell.status(&statusOf{rule: &rl.Rule, shadow: rl.shadow})
	}
	return out
}

func (c *cell) status(of *statusOf) Status {
	s := Status{Rule: of.rule, Shadow: of.shadow}
	c.counters.fill(&s)
	if c.keys != nil {
		s.Keys, s.Slots, s.Evictions = c.keys.size()
	}
	return s
}
