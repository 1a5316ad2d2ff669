package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/socket"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// tunnelIdle ends a tunnel that carries nothing in either direction (Envoy's tcp_proxy idle_timeout).
const tunnelIdle = time.Hour

// tunnel is two connections joined byte by byte.
type tunnel struct {
	last    atomic.Int64 // when a byte passed last, Unix nanoseconds
	spliced atomic.Bool  // the kernel moves the bytes and nobody sees them pass: no idle timeout, TCP keep-alive only
}

// Tunnel joins a client to an upstream until both directions ended, with half-closes passed on. fromDown and fromUp are
// bytes that were read already. sent went to the client, received came from it. Either connection's deadline set in the
// past ends the tunnel.
func Tunnel(down, up net.Conn, fromDown, fromUp []byte) (sent, received uint64) {
	t := &tunnel{}
	t.last.Store(time.Now().UnixNano())
	var idle *time.Timer
	idle = time.AfterFunc(tunnelIdle, func() {
		quiet := time.Since(time.Unix(0, t.last.Load()))
		if quiet >= tunnelIdle && !t.spliced.Load() {
			stop(down, up)
			return
		}
		idle.Reset(max(tunnelIdle-quiet, time.Minute))
	})
	defer idle.Stop()
	done := make(chan uint64, 1)
	go func() { done <- t.copy(up, down, fromDown) }()
	sent = t.copy(down, up, fromUp)
	received = <-done
	return sent, received
}

// copy moves bytes from src to dst until src ends (then dst's writing side is closed) or either fails (then both are ended).
func (t *tunnel) copy(dst, src net.Conn, early []byte) (n uint64) {
	if len(early) > 0 {
		m, err := dst.Write(early)
		n += uint64(m)
		if err != nil {
			stop(dst, src)
			return n
		}
	}
	if d, s := socket.TCP(dst), socket.TCP(src); d != nil && s != nil {
		t.spliced.Store(true)
		m, err := io.Copy(d, s)
		n += uint64(m)
		t.end(dst, src, err)
		return n
	}
	m, err := t.pass(dst, src)
	t.end(dst, src, err)
	return n + m
}

func (t *tunnel) end(dst, src net.Conn, err error) {
	if err != nil {
		stop(dst, src)
		return
	}
	closeWrite(dst)
}

// stop ends both directions of both connections.
func stop(a, b net.Conn) {
	_ = a.SetDeadline(time.Unix(1, 0))
	_ = b.SetDeadline(time.Unix(1, 0))
}

// pass copies through a buffer that starts small, so that idle connections are cheap, and grows with the flow.
func (t *tunnel) pass(dst, src net.Conn) (n uint64, err error) {
	buf := make([]byte, 2<<10)
	var big *[]byte
	defer func() {
		if big != nil {
			bigBuffers.Put(big)
		}
	}()
	for {
		m, rerr := src.Read(buf)
		if m > 0 {
			t.last.Store(time.Now().UnixNano())
			w, werr := dst.Write(buf[:m])
			n += uint64(w)
			if werr != nil {
				return n, werr
			}
			if m == len(buf) && big == nil {
				big = bigBuffers.Get().(*[]byte)
				buf = *big
			}
		}
		if rerr != nil {
			if errors.Is(rerr, io.EOF) {
				rerr = nil
			}
			return n, rerr
		}
	}
}

// Way is where a TCP connection goes.
type Way struct {
	Cluster *upstream.Cluster
	// To is where the call was made to, for a Cluster that leads there; the zero value for none.
	To netip.AddrPort
}

// TCP carries a TCP connection to one endpoint of a cluster. It demands a permit, as Forward does.
func TCP(ctx context.Context, permit authz.Permit, way Way, down net.Conn, preread []byte, live *Live, rec *proxy.Record) *proxy.Failure {
	if !permit.Valid() {
		return proxy.Fail(proxy.Internal, "forward_without_permit", nil)
	}
	u, fail := way.Dial(ctx, rec)
	if fail != nil {
		return fail
	}
	return TCPOver(u, down, preread, live, rec)
}

// Dial makes a connection of its own to one endpoint of a cluster, or to another when that fails, and notes in the record
// where it went.
func Dial(ctx context.Context, c *upstream.Cluster, rec *proxy.Record) (*upstream.Conn, *proxy.Failure) {
	return Way{Cluster: c}.Dial(ctx, rec)
}

// Dial is the function of that name, for a call that was made to an address.
func (w Way) Dial(ctx context.Context, rec *proxy.Record) (*upstream.Conn, *proxy.Failure) {
	c := w.Cluster
	rec.UpstreamCluster = c.Name()
	var tried []*upstream.Endpoint
	for {
		ep := c.PickFor(w.To, tried)
		if ep == nil && c.Await(ctx) {
			ep = c.PickFor(w.To, tried)
		}
		if ep == nil {
			return nil, proxy.Fail(proxy.NoHealthyUpstream, "", nil)
		}
		rec.UpstreamHost = ep.AddrPort()
		if rec.Side == proxy.SourceSide {
			rec.Destination = ep.Party()
		}
		u, fail := ep.DialStream(ctx, time.Time{})
		if fail == nil {
			return u, nil
		}
		if tried = append(tried, ep); len(tried) >= min(3, len(c.Endpoints())) {
			return nil, fail
		}
	}
}

// TCPOver joins a client to an upstream connection, which it takes over.
func TCPOver(u *upstream.Conn, down net.Conn, preread []byte, live *Live, rec *proxy.Record) *proxy.Failure {
	defer u.Discard()
	rec.UpstreamLocal = u.Local()
	_ = down.SetDeadline(time.Time{})
	live.setUp(u)
	if live.over() {
		return nil
	}
	rec.BytesSent, rec.BytesReceived = Tunnel(down, u.Conn, preread, nil)
	return nil
}

// Note writes how a TCP connection ended into its record.
func Note(rec *proxy.Record, f *proxy.Failure, live *Live) {
	if d := live.Denied(); d != nil {
		d.note(rec)
		return
	}
	if f == nil {
		return
	}
	a := f.Code.Answer()
	rec.Flag, rec.Detail = a.Flag, f.Detail
	if rec.Detail == "" {
		rec.Detail = a.Detail
	}
	if f.Cause != nil && a.Flag == "UF" {
		rec.TransportFailure = f.Cause.Error()
	}
}
