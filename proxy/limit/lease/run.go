package lease

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
)

const (
	workers     = 4
	batchCalls  = 64 // script calls in one round trip
	queueLength = 4096

	probe       = 250 * time.Millisecond // between heartbeats while the store is away
	beats       = 4                      // so many times longer while it is there
	proxyLife   = 5 * time.Second        // a proxy that was not heard of for so long no longer counts
	sweepEvery  = 50 * time.Millisecond
	idleSweeps  = 3  // 150 ms: then tokens go back
	dropSweeps  = 20 // 1 s: then the lease is dropped
	farewellMax = time.Second
)

// order is work for a worker: more tokens for a lease, or with give > 0 so many of that window back.
type order struct {
	lease  *lease
	give   int64
	window int64
}

// session is one Run.
type session struct {
	*Leases
	client  redis.UniversalClient
	scripts *scripts
}

// Run keeps the leases until ctx ends; then it gives back what was not used and returns nil. It may be called once. The
// messages that go-redis would write to standard error are dropped for the whole process: Status has the last error.
func (l *Leases) Run(ctx context.Context) error {
	redis.SetLogger(&logging.VoidLogger{})
	s := &session{Leases: l, client: redis.NewUniversalClient(l.options), scripts: newScripts()}
	defer s.client.Close()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { s.work(ctx) })
	}
	all.Go(func() { s.beat(ctx) })
	all.Go(func() { s.sweep(ctx) })
	<-ctx.Done()
	was := state(l.state.Swap(int32(stopped)))
	all.Wait()
	s.farewell(context.WithoutCancel(ctx), was == up)
	return nil
}

// within bounds one round trip, which an ending Run doesn't cut short: a reply that nobody reads is tokens lost.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// beat says that this proxy is there, hears how many are, and finds out when the store is back.
func (s *session) beat(ctx context.Context) {
	tick := time.NewTicker(probe)
	defer tick.Stop()
	for n := 0; ; n++ {
		if state(s.state.Load()) != up || n%beats == 0 {
			if err := s.hello(ctx); err != nil {
				s.failed(err)
			} else {
				s.recovered()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hello is one heartbeat. After a failure the server of the key that failed must answer too: in a Cluster it is another.
func (s *session) hello(ctx context.Context) error {
	ctx, cancel := within(ctx, callTimeout)
	defer cancel()
	calls := []*call{{script: s.scripts.proxies, key: keyProxies, args: []any{s.cfg.ID, proxyLife.Milliseconds(), 0}}}
	if e := s.suspect.Load(); e != nil {
		calls = append(calls, e.call(s.scripts, 0, 1, 0))
	}
	s.trips.Add(1)
	if err := send(ctx, s.client, calls); err != nil {
		return err
	}
	n, err := calls[0].reply.Int64()
	if err != nil {
		return err
	}
	s.replicas.Store(max(n, 1))
	return nil
}

// sweep gives back tokens that nobody uses and drops leases that nobody asks for.
func (s *session) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.table.all(s.tend)
		}
	}
}

// tend is the sweep's look at one lease.
func (s *session) tend(e *lease) {
	left := e.left.Load()
	if left != e.seen || e.touched.Swap(false) || e.pending.Load() {
		e.seen, e.idle = left, 0
		return
	}
	e.idle++
	there := state(s.state.Load()) == up
	switch {
	case left > 0 && there && e.idle >= idleSweeps:
		s.giveBack(e, left)
	case e.idle >= dropSweeps && (left <= 0 || e.Calendar == 0) && s.now() >= e.quietUntil.Load():
		s.drop(e, left)
	}
}

// giveBack orders that tokens go back. They are taken first, so that nobody uses them meanwhile.
func (s *session) giveBack(e *lease, left int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending.Load() || !e.left.CompareAndSwap(left, 0) {
		return
	}
	select {
	case s.queue <- order{e, left, e.window}:
		e.batch = max(e.batch/2, 1)
		e.ready = make(chan struct{})
		e.pending.Store(true) // who asks now waits: a call for more must not overtake this one
	default:
		e.left.Add(left)
	}
}

// drop takes a lease out of the table. Tokens of a rate that were not used for so long, with the store away, are lost.
func (s *session) drop(e *lease, left int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.pending.Load() && e.left.CompareAndSwap(left, closed) {
		s.table.remove(e)
	}
}

// farewell gives back all that is left and leaves the list of proxies. No worker and no sweep runs any more.
func (s *session) farewell(ctx context.Context, there bool) {
	ctx, cancel := within(ctx, farewellMax)
	defer cancel()
	for len(s.queue) > 0 {
		s.cancel(<-s.queue, errStopped)
	}
	var calls []*call
	s.table.all(func(e *lease) {
		left := e.left.Load()
		for left > closed/2 && !e.left.CompareAndSwap(left, closed) {
			left = e.left.Load()
		}
		if left > 0 {
			calls = append(calls, e.call(s.scripts, -left, 1, e.window))
		}
		s.table.remove(e)
	})
	if !there {
		return
	}
	calls = append(calls, &call{script: s.scripts.proxies, key: keyProxies, args: []any{s.cfg.ID, proxyLife.Milliseconds(), 1}})
	for len(calls) > 0 {
		n := min(len(calls), batchCalls)
		s.trips.Add(1)
		if send(ctx, s.client, calls[:n]) != nil {
			return
		}
		calls = calls[n:]
	}
}
