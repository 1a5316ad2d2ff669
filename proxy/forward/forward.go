// Package forward drives the corridors: it reads requests off a downstream connection with the HTTP/1.1 codec, lets a
// Corridor decide, and carries the exchange to an upstream connection and back. It owns the sockets, buffers and
// deadlines; it decides nothing.
//
// A connection is served by one goroutine. A second one runs only while a request body is still arriving (so that an early
// response, 100-continue and full duplex work), while a slow upstream is waited for (to notice that the client has gone),
// and for the other direction of a tunnel.
package forward

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// Limits of one downstream connection; see docs/limits.md.
const (
	headTimeout   = 10 * time.Second       // from the first byte of a request head to its last
	idleTimeout   = time.Hour              // between requests (Istio's default for HTTP connections)
	streamIdle    = time.Hour              // without a byte in either direction of a body: quiet streams live, as Istio leaves them
	upstreamWatch = 2 * time.Second        // how long an upstream is waited for before the client is watched too
	halfClosed    = 5 * time.Second        // how long a client that closed its sending side may wait for an upstream that is silent
	stalled       = 10 * time.Minute       // how long a receiver may take nothing before its connection is given up
	lingerTime    = 2 * time.Second        // how long unread request bytes are drained after an answer that closes
	bodyGrace     = time.Second            // how long a request body may still go on when its answer is complete
	partingTime   = 100 * time.Millisecond // how long a server that stopped reading is listened to
	drainIdle     = 250 * time.Millisecond // how long an idle connection of a listener that ends may still bring a request
	smallBuffer   = 4 << 10
	bigBuffer     = 32 << 10
	keepBuffer    = 16 << 10 // a larger buffer is given up when its connection goes idle
)

// Corridor decides what becomes of one request. Implemented by proxy/inbound and proxy/outbound.
type Corridor interface {
	// Handle judges x.Req and calls exactly one of x.Forward, x.Connect and x.Respond, or returns the failure that stopped it.
	// x.Rec is filled as far as the corridor knows; Serve records it afterwards, once.
	Handle(x *Exchange) *proxy.Failure
	// Begin fills x.Rec's connection-level members for a new exchange.
	Begin(x *Exchange)
	// Recorder takes the finished record.
	Recorder() proxy.Recorder
}

// Exchange is one downstream connection and the request that is being served on it. Owned by the connection's goroutine;
// live is shared with Live.Rejudge.
type Exchange struct {
	Conn      net.Conn
	Req, Resp proxy.Head
	Auth      authz.Connection
	Judged    authz.Request
	Scratch   judge.Scratch
	Rec       proxy.Record
	// Edits are made to the server's response head before it is relayed. The corridor sets it for each request.
	Edits []authz.HeaderEdit
	// Session is the corridor's own state for this connection.
	Session any

	live     *Live
	limits   http1.Limits
	corridor Corridor
	buf      []byte // bytes read and not yet consumed: buf[r:w]
	r, w     int
	out      []byte
	limited  limited
	peeked   []byte          // a chunked body that was looked at, decoded
	read     readDeadline    // of Conn
	upRead   readDeadline    // of the upstream connection in use
	life     context.Context // the listener's, without its cancellation: what is in flight may finish
	stale    *route.Retry
	reqBody  http1.Decoder
	respBody http1.Decoder
	answered bool // a response head was written
	mustEnd  bool // the connection can't be used for another request
	consumed bool // body bytes were taken off buf: no attempt may follow
	pump     *pump
	written  writeDeadline // of Conn
	drainBy  time.Time     // until when the listener's end leaves the connection idle
	unread   bool          // part of the last request's body is still to come
	reached  bool          // something of the request went to a server
	severed  bool          // the response can't be ended properly: the client is to see a reset
	pending  int           // body bytes in buf that an attempt has sent but that are consumed only when it is final
}

// readDeadline arms a connection's read deadline lazily: re-arming costs a system-wide timer operation, so a deadline that
// still lies between d/2 and d ahead is left as it is.
type readDeadline struct{ at time.Time }

func (d *readDeadline) within(c net.Conn, now time.Time, dur time.Duration) {
	if left := d.at.Sub(now); left >= dur/2 && left <= dur {
		return
	}
	d.exactly(c, now.Add(dur))
}

func (d *readDeadline) exactly(c net.Conn, at time.Time) {
	d.at = at
	_ = c.SetReadDeadline(at)
}

// writeDeadline arms a connection's write deadline as lazily as readDeadline does.
type writeDeadline struct{ at time.Time }

func (d *writeDeadline) within(c net.Conn, now time.Time, dur time.Duration) {
	if left := d.at.Sub(now); left >= dur/2 && left <= dur {
		return
	}
	d.at = now.Add(dur)
	_ = c.SetWriteDeadline(d.at)
}

var bigBuffers = sync.Pool{New: func() any { b := make([]byte, bigBuffer); return &b }}

// Live is a connection in the registry of its listener.
type Live struct {
	conn net.Conn
	life context.Context // ends when the connection is cut off
	// mu guards auth, request and up between the connection's goroutine and Rejudge.
	mu      sync.Mutex
	auth    *authz.Connection
	request *authz.Request // nil for TCP, and between requests
	tcp     bool
	up      net.Conn
	denied  atomic.Pointer[Denial]
	// draining is set once by the listener; idle says that the connection waits for its next request.
	draining atomic.Bool
	idle     atomic.Bool
	// leaving is the listener's: its connections are still served, and each is asked to be the client's last request.
	leaving *atomic.Bool
	// cut is set when the listener's patience is over: whatever still goes on ends.
	cut atomic.Bool
}

// Life ends when the connection is cut off, which is later than its listener ends: dials for it are made under Life.
func (l *Live) Life() context.Context { return l.life }

// last reports whether the request being served is to be the last of its connection.
func (l *Live) last() bool { return l.draining.Load() || l.leaving != nil && l.leaving.Load() }

// over reports whether whatever goes on over the connection must end.
func (l *Live) over() bool { return l.denied.Load() != nil || l.cut.Load() }

// Begin publishes what the connection is judged by, so that a new program can judge it again. request is nil for TCP.
func (l *Live) Begin(a *authz.Connection, request *authz.Request, up net.Conn) {
	l.mu.Lock()
	l.auth, l.request, l.tcp, l.up = a, request, request == nil, up
	l.mu.Unlock()
}

// End says that nothing is in flight any more.
func (l *Live) End() {
	l.mu.Lock()
	l.auth, l.request, l.up, l.tcp = nil, nil, nil, false
	l.mu.Unlock()
}

// Denied is the denial that closed the connection while it lived, nil if none did.
func (l *Live) Denied() *Denial { return l.denied.Load() }

// Denial is what ended something that was in flight, as the record shows it. Immutable.
type Denial struct{ By, Detail string }

// note writes the denial into a record.
func (d *Denial) note(rec *proxy.Record) { rec.Detail, rec.DeniedBy = d.Detail, d.By }

// Judgement judges a connection again, and the request in flight on it (nil for TCP); nil is for going on.
type Judgement func(*authz.Connection, *authz.Request) *Denial

// Rejudge asks about what is in flight and closes the connection if it is denied now.
func (l *Live) Rejudge(judge Judgement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.auth == nil {
		return
	}
	if d := judge(l.auth, l.request); d != nil {
		l.denied.Store(d)
		if l.up != nil {
			_ = l.up.SetDeadline(time.Unix(1, 0))
		}
		_ = l.conn.SetDeadline(time.Unix(1, 0))
	}
}

// setUp names the upstream connection of the exchange in flight.
func (l *Live) setUp(c net.Conn) {
	l.mu.Lock()
	l.up = c
	l.mu.Unlock()
}

// settle closes the connection u, or gives it back when the exchange on it ended cleanly.
func settle(u *upstream.Conn, clean bool) {
	if clean {
		u.Release()
		return
	}
	u.Discard()
}
