package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
)

// checkAfter is how long a connection may have been idle to be used without looking whether the server closed it.
const checkAfter = 50 * time.Millisecond

// leaveGrace is how long a target that left may still take to accept a connection: one that shuts down gracefully does at once, and
// the address of one that is gone answers nothing at all, so that its caller would wait for the whole connect timeout before another
// endpoint is tried.
const leaveGrace = time.Second

var errLeft = errors.New("the endpoint has left the cluster")

// pool keeps the connections to one target of one cluster.
type pool struct {
	opts    *Options
	cluster string
	line    *line
	stream  *line // for TCP streams; line itself where nothing is different

	active             atomic.Int64
	connects, failures atomic.Uint64
	logged             atomic.Int64 // Unix nanoseconds of the last line about a failed dial
	muted              atomic.Uint64

	named   context.Context // ends when no cluster names the target any more
	unnamed context.CancelFunc

	mu       sync.Mutex // guards idle and draining
	idle     []*Conn    // the one released last is at the end
	draining bool
}

func newPool(src certs.Source, opts *Options, spec *Spec, t *Target) *pool {
	local := spec.Local
	if at, err := netip.ParseAddrPort(t.Address); err == nil && spec.Local6.IsValid() && at.Addr().Unmap().Is6() {
		local = spec.Local6
	}
	p := &pool{opts: opts, cluster: spec.Name, line: newLine(t.Address, local)}
	p.line.private = opts.Private
	p.stream = p.line
	p.named, p.unnamed = context.WithCancel(context.Background())
	if !t.MTLS {
		return p
	}
	p.line.tls = clientTLS(src, spec, t, spec.ALPN)
	if spec.StreamALPN != "" && spec.StreamALPN != spec.ALPN {
		p.stream = newLine(t.Address, local)
		p.stream.tls = clientTLS(src, spec, t, spec.StreamALPN)
	}
	return p
}

// take pops the idle connection released last that is still good, nil if there is none. One that was idle for longer than
// unseen is looked at first.
func (p *pool) take(now time.Time, unseen time.Duration) *Conn {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		idle := now.Sub(c.since)
		if idle > p.opts.IdleTimeout || (idle > unseen && !c.quiet()) {
			c.shut()
			continue
		}
		c.reused = true
		c.lent.Store(true)
		return c
	}
}

// put takes a connection back, or closes it.
func (p *pool) put(c *Conn, now time.Time) {
	c.since = now
	aged := p.opts.MaxAge > 0 && now.Sub(c.born) > p.opts.MaxAge
	p.mu.Lock()
	keep := !aged && !p.draining && len(p.idle) < p.opts.MaxIdlePerEndpoint
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.shut()
	}
}

// leave is drain for a target that is named no longer. Who dials it waits at most leaveGrace more.
func (p *pool) leave() {
	p.drain()
	p.unnamed()
}

// drain closes the idle connections, now and those that come back later.
func (p *pool) drain() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.draining = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.shut()
	}
}

// sweep closes the idle connections that are past their time or that the server closed.
func (p *pool) sweep(now time.Time) {
	var gone []*Conn
	p.mu.Lock()
	kept := p.idle[:0]
	for _, c := range p.idle {
		idle := now.Sub(c.since)
		if idle > p.opts.IdleTimeout || (idle > checkAfter && !c.quiet()) {
			gone = append(gone, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	p.mu.Unlock()
	for _, c := range gone {
		c.shut()
	}
}

// dial makes a connection for an exchange that active counts already.
func (p *pool) dial(ctx context.Context, deadline time.Time, timeout time.Duration) (*Conn, *proxy.Failure) {
	return p.dialLine(ctx, deadline, timeout, p.line)
}

func (p *pool) dialLine(ctx context.Context, deadline time.Time, timeout time.Duration, l *line) (*Conn, *proxy.Failure) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.named, func() { time.AfterFunc(leaveGrace, func() { cancel(errLeft) }) })()
	c, f := l.open(ctx, deadline, timeout)
	if f != nil {
		p.active.Add(-1)
		p.failures.Add(1)
		p.complain(f)
		return nil, f
	}
	p.connects.Add(1)
	c.pool = p
	return c, nil
}

// complain logs a failed dial, at most once a second, with the number of those it kept silent about.
func (p *pool) complain(f *proxy.Failure) {
	now, last := time.Now().UnixNano(), p.logged.Load()
	if f.Code == proxy.ShuttingDown {
		return
	}
	if now-last < int64(time.Second) || !p.logged.CompareAndSwap(last, now) {
		p.muted.Add(1)
		return
	}
	p.opts.Log.Warn("connecting upstream failed", slog.String("cluster", p.cluster),
		slog.String("endpoint", p.line.target), slog.Any("error", f.Cause), slog.Uint64("suppressed", p.muted.Swap(0)))
}
