package forward

import (
	"errors"
	"net"
	"time"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/socket"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// parting is an attempt whose request was not taken whole: the server may have answered before it closed.
// On a reused connection what is there to read may be older than the request.
func (x *Exchange) parting(u *upstream.Conn, cause error) result {
	if u.Reused() {
		return x.broken(u, cause)
	}
	n, w, err := x.await(u, time.Now().Add(partingTime))
	if err != nil {
		return x.broken(u, cause)
	}
	x.Resp.Close = true
	return result{held: u, n: n, w: w}
}

// broken is an attempt whose connection ended before a byte of the response.
func (x *Exchange) broken(u *upstream.Conn, err error) result {
	reused := u.Reused()
	if !reused && refusedByPeer(err) {
		u.Discard()
		return result{fail: proxy.Fail(proxy.UpstreamConnect, "", err), outcome: route.Outcome{ConnectFailure: true}}
	}
	u.Discard()
	if x.live.over() {
		return result{fail: proxy.Fail(proxy.DownstreamGone, "", err)}
	}
	return result{fail: proxy.Fail(proxy.UpstreamReset, "", err), outcome: route.Outcome{Reset: true, Stale: reused}}
}

// refusedByPeer says that the server did not take our certificate: in TLS 1.3 that shows only after the client's side of the
// handshake is done.
func refusedByPeer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// linger drains what the client still sends after an answer that closes, so that the answer is not lost to a reset.
func (x *Exchange) linger() {
	if !x.answered || x.live.over() || x.Req.Close && !x.unread && x.r == x.w {
		return
	}
	if h, ok := x.Conn.(half); !ok || h.CloseWrite() != nil {
		return
	}
	_ = x.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	buf := bigBuffers.Get().(*[]byte)
	defer bigBuffers.Put(buf)
	for !x.live.over() {
		if _, err := x.Conn.Read(*buf); err != nil {
			return
		}
	}
}

// sever closes a connection so that its peer sees a reset, and nothing that could be taken for a proper end.
func sever(c net.Conn) {
	for {
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	if t := socket.TCP(c); t != nil {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// half is what both *net.TCPConn and *tls.Conn can do.
type half interface{ CloseWrite() error }

func closeWrite(c net.Conn) {
	if h, ok := c.(half); ok {
		_ = h.CloseWrite()
		return
	}
	_ = c.Close()
}
