package lease

import (
	"context"
	"errors"
	"time"
)

var (
	errAway    = errors.New("the store of global limits is away")
	errStopped = errors.New("the leases have ended")
)

// work makes the calls that are ordered, as many as are waiting in one round trip.
func (s *session) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-s.queue:
			orders := []order{o}
			for len(orders) < batchCalls && len(s.queue) > 0 {
				select {
				case o := <-s.queue:
					orders = append(orders, o)
				default:
				}
			}
			s.round(ctx, orders)
		}
	}
}

// round makes the calls of some orders and settles them.
func (s *session) round(ctx context.Context, orders []order) {
	calls, of := s.calls(orders)
	if len(calls) == 0 {
		return
	}
	ctx, cancel := within(ctx, callTimeout)
	defer cancel()
	s.trips.Add(1)
	err := send(ctx, s.client, calls)
	if err == nil {
		s.slow.Store(false)
	} else {
		for i, c := range calls {
			if c.reply.Err() != nil {
				s.suspect.Store(of[i].lease)
				break
			}
		}
		s.failed(err)
	}
	for i, c := range calls {
		if of[i].give > 0 { // what could not be handed back is lost: it may have been
			s.settle(of[i].lease, reply{}, nil)
			continue
		}
		r, err := parseReply(c.reply)
		s.settle(of[i].lease, r, err)
	}
}

// calls prepares what to send; orders that need no call, or can't have one, are settled.
func (s *session) calls(orders []order) (calls []*call, of []order) {
	there := state(s.state.Load()) == up
	for _, o := range orders {
		if !there {
			s.cancel(o, errAway)
			continue
		}
		o.lease.mu.Lock()
		n := -o.give
		if o.give == 0 {
			n = o.lease.batch - max(o.lease.left.Load(), 0) + o.lease.waiting.Load()
			o.lease.sent = n
		}
		c := o.lease.call(s.scripts, n, s.replicas.Load(), o.window)
		o.lease.mu.Unlock()
		if o.give == 0 && n <= 0 {
			s.settle(o.lease, reply{}, nil)
			continue
		}
		calls, of = append(calls, c), append(of, o)
	}
	return calls, of
}

// cancel ends an order for which no call was made. Tokens that were to go back are at hand again.
func (s *session) cancel(o order, err error) {
	o.lease.mu.Lock()
	if o.give > 0 && o.lease.left.Load() > closed/2 {
		o.lease.left.Add(o.give)
	}
	o.lease.mu.Unlock()
	s.settle(o.lease, reply{}, err)
}

// settle ends the pending call of a lease and wakes who waits for it.
func (l *Leases) settle(e *lease, r reply, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil && e.sent > 0 {
		l.credit(e, r)
	}
	e.sent = 0
	e.pending.Store(false)
	close(e.ready)
}

// credit books what Redis gave.
func (l *Leases) credit(e *lease, r reply) {
	now := l.now()
	e.heard++
	if e.Calendar != 0 && r.window != e.window {
		if left := e.left.Load(); left > 0 {
			e.left.CompareAndSwap(left, 0) // of the window before
		}
		e.window = r.window
	}
	e.beyond.Store(r.left)
	e.resetAt.Store(now + int64(r.reset))
	e.retryAt.Store(now + int64(r.retry))
	if r.given == 0 || r.given < e.sent && e.Calendar == 0 {
		quiet := now + int64(e.hold(r.retry))
		e.quietUntil.Store(quiet)
		if r.retry > 0 && r.retry < holdMin {
			quiet += int64(holdMin)
		}
		e.staleUntil.Store(quiet)
	}
	e.left.Add(r.given)
}

// failed marks the store as away.
func (l *Leases) failed(err error) {
	text := l.redacted(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = text
	if l.state.CompareAndSwap(int32(up), int32(lost)) || l.state.CompareAndSwap(int32(starting), int32(lost)) {
		l.since = l.clock()
		l.cfg.Log.Warn("the store of global limits is away", "error", text, "address", l.options.Addrs[0])
	}
}

// recovered marks the store as there.
func (l *Leases) recovered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.suspect.Store(nil)
	if !l.state.CompareAndSwap(int32(lost), int32(up)) && !l.state.CompareAndSwap(int32(starting), int32(up)) {
		return
	}
	l.slow.Store(false)
	gone := l.clock().Sub(l.since)
	l.err, l.since = "", l.clock()
	l.cfg.Log.Info("the store of global limits is there", "address", l.options.Addrs[0], "proxies", l.Replicas(), "after", gone.Round(time.Millisecond))
}
