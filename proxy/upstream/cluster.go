package upstream

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

// Cluster is a set of endpoints that serve the same. Immutable save for its balancing state; safe for concurrent use.
type Cluster struct {
	name        string
	destination *proxy.Destination
	policy      Policy
	members     atomic.Pointer[members]
	turn        atomic.Uint64
	// original is set of a cluster whose calls go where they were made to; pending is closed once its names were looked up,
	// nil where it has none.
	original *originals
	pending  <-chan struct{}
}

// Name is Spec.Name.
func (c *Cluster) Name() string { return c.name }

// Destination is Spec.Destination, never nil.
func (c *Cluster) Destination() *proxy.Destination { return c.destination }

// Endpoints are the cluster's endpoints in the order of the Spec. The caller must not change the slice.
func (c *Cluster) Endpoints() []*Endpoint { return c.members.Load().endpoints }

// PickFor is Pick for a call that was made to an address (the zero value: to none that counts): an Original cluster sends it
// there and nowhere else.
func (c *Cluster) PickFor(to netip.AddrPort, tried []*Endpoint) *Endpoint {
	if c.original == nil {
		return c.Pick(tried)
	}
	if e := c.original.at(to); e != nil {
		return e
	}
	return c.Pick(tried)
}

// Await waits until the names of a cluster were looked up for the first time. It reports whether there was anything to wait
// for; false too when ctx ended.
func (c *Cluster) Await(ctx context.Context) bool {
	if c.pending == nil {
		return false
	}
	select {
	case <-c.pending:
	case <-ctx.Done():
		return false
	}
	return len(c.Endpoints()) > 0
}

// Endpoint is one address of a cluster. Safe for concurrent use.
type Endpoint struct {
	pool    *pool
	timeout time.Duration
	weight  uint64
	party   *proxy.Party
	zone    string
}

// Address is Target.Address.
func (e *Endpoint) Address() string { return e.pool.line.target }

// AddrPort is the address as IP and port; the zero value for a Unix socket.
func (e *Endpoint) AddrPort() netip.AddrPort { return e.pool.line.remote }

// Party is Target.Party, never nil.
func (e *Endpoint) Party() *proxy.Party { return e.party }

// Zone is Target.Zone.
func (e *Endpoint) Zone() string { return e.zone }

// MTLS reports whether the endpoint is dialled with mutual TLS.
func (e *Endpoint) MTLS() bool { return e.pool.line.tls != nil }

// Acquire borrows a connection for one exchange: the idle one used last, if it is alive, else a new one. deadline is the
// exchange's (zero: none): passing it while dialling is proxy.UpstreamTimeout, where the cluster's own connect timeout is
// proxy.UpstreamConnect; ctx is the corridor's life (its end is proxy.ShuttingDown). A server that proves another identity
// is proxy.UpstreamIdentity. Nothing is allocated for a reused connection.
func (e *Endpoint) Acquire(ctx context.Context, deadline time.Time) (*Conn, *proxy.Failure) {
	p := e.pool
	p.active.Add(1)
	if c := p.take(time.Now(), checkAfter); c != nil {
		return c, nil
	}
	return p.dial(ctx, deadline, e.timeout)
}

// AcquireChecked is Acquire for a request that can't be sent twice: however briefly an idle connection was idle, it is
// looked at before it is lent.
func (e *Endpoint) AcquireChecked(ctx context.Context, deadline time.Time) (*Conn, *proxy.Failure) {
	p := e.pool
	p.active.Add(1)
	if c := p.take(time.Now(), -1); c != nil {
		return c, nil
	}
	return p.dial(ctx, deadline, e.timeout)
}

// Dial is Acquire that always makes a new connection: for TCP streams, and after a reused one turned out to be stale.
func (e *Endpoint) Dial(ctx context.Context, deadline time.Time) (*Conn, *proxy.Failure) {
	e.pool.active.Add(1)
	return e.pool.dial(ctx, deadline, e.timeout)
}

// DialStream is Dial for a TCP stream: it offers Spec.StreamALPN where there is one.
func (e *Endpoint) DialStream(ctx context.Context, deadline time.Time) (*Conn, *proxy.Failure) {
	e.pool.active.Add(1)
	return e.pool.dialLine(ctx, deadline, e.timeout, e.pool.stream)
}

// Stats is a moment's view of an endpoint, for the admin page.
type Stats struct {
	// Active counts borrowed connections and running dials, Idle the pooled ones.
	Active, Idle int
	// Connects counts connections made, ConnectFailures dials that failed, since the endpoint was first named.
	Connects, ConnectFailures uint64
}

// Stats reads the endpoint's counters.
func (e *Endpoint) Stats() Stats {
	p := e.pool
	p.mu.Lock()
	idle := len(p.idle)
	p.mu.Unlock()
	return Stats{Active: int(p.active.Load()), Idle: idle, Connects: p.connects.Load(), ConnectFailures: p.failures.Load()}
}
