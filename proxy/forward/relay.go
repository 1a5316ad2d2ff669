package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// viaUpstream is Envoy's response code detail of a response that a server gave.
const viaUpstream = "via_upstream"

// relay sends the response whose head is in x.Resp to the client and ends the loan of the upstream connection.
func (x *Exchange) relay(res *result, p *Plan, deadline time.Time) *proxy.Failure {
	u, resp := res.held, &x.Resp
	if resp.Status == 101 {
		return x.upgrade(res, p)
	}
	if !x.consumed { // no attempt can follow: the body is spent
		x.r += x.pending
		x.Rec.BytesReceived += uint64(x.pending)
		x.pending, x.consumed = 0, true
	}
	// A server that closes before it has read the request won't read the rest: the client is told.
	x.mustEnd = x.mustEnd || x.live.last() || resp.Close && !x.pump.finished()
	x.respBody.Response = true
	reusable := !resp.Close && resp.Body != proxy.BodyUntilClose
	x.respBody.Reset(resp.Body, resp.Length, &x.limits)
	x.editResponse(p)
	http1.Reframe(resp, x.Req.Minor, x.mustEnd)
	x.mustEnd = x.mustEnd || resp.Close
	x.out = http1.AppendResponse(x.out[:0], resp)
	x.answered, x.Rec.Status, x.Rec.Detail = true, resp.Status, viaUpstream
	fail, rest := x.relayBody(u, u.Buf[res.n:res.w], deadline)
	reusable = reusable && fail == nil && rest == 0 && x.Rec.Flag != "DC"
	if reusable && !x.mustEnd {
		x.graceForPump()
	}
	whole := x.stopPump(u)
	x.live.End() // before u is anybody else's
	settle(u, reusable && whole)
	return fail
}

// editResponse makes the changes to a server's response head that authorities, limits and the route ask for.
func (x *Exchange) editResponse(p *Plan) {
	x.Resp.Del(Untouched)
	for _, e := range x.Edits {
		judge.Edit(&x.Resp, e)
	}
	if p.Route != nil {
		p.Route.ApplyResponse(&x.Resp, p.Destination)
	}
}

// relayBody writes the head in x.out and the body behind it. src is what of the body was read already; rest is how many
// bytes the upstream sent after the body's end.
func (x *Exchange) relayBody(u *upstream.Conn, src []byte, deadline time.Time) (fail *proxy.Failure, rest int) {
	chunked := x.Resp.Body == proxy.BodyChunked
	var big *[]byte
	defer func() {
		if big != nil {
			bigBuffers.Put(big)
		}
	}()
	for {
		used, data, done, err := x.respBody.Next(src)
		src = src[used:]
		if err != nil {
			return x.cutOff(proxy.UpstreamProtocol, "upstream_reset_after_response_started{protocol_error}", err), 0
		}
		x.Rec.BytesSent += uint64(len(data))
		if !x.put(data, chunked, done) {
			return nil, len(src)
		}
		if done {
			return nil, len(src)
		}
		if used > 0 && len(src) > 0 {
			continue
		}
		if !x.flush() {
			return nil, 0
		}
		if big == nil {
			big = bigBuffers.Get().(*[]byte)
		}
		n := copy(*big, src)
		m, err := x.readBody(u, (*big)[n:], deadline)
		src = (*big)[:n+m]
		if m > 0 {
			continue
		}
		if errors.Is(err, io.EOF) && x.respBody.CloseOK() {
			x.put(nil, chunked, true)
			return nil, 0
		}
		if f := asFailure(err, proxy.UpstreamReset); f.Detail != "" {
			return x.cutOff(f.Code, f.Detail, err), 0
		}
		return x.cutOff(proxy.UpstreamReset, "upstream_reset_after_response_started{connection_termination}", err), 0
	}
}

// put appends a piece of body to x.out, or writes it through where it is large; the end is flushed.
func (x *Exchange) put(data []byte, chunked, done bool) bool {
	switch {
	case chunked:
		if len(data) > 0 {
			x.out = http1.AppendChunk(x.out, data)
		}
		if done {
			x.out = http1.AppendLastChunk(x.out, x.respBody.Trailers())
		}
	case len(data) > 0 && len(x.out)+len(data) > keepBuffer:
		if !x.flush() {
			return false
		}
		return x.write(data)
	default:
		x.out = append(x.out, data...)
	}
	if done || len(x.out) > keepBuffer {
		return x.flush()
	}
	return true
}

func (x *Exchange) flush() bool {
	ok := x.write(x.out)
	x.out = x.out[:0]
	return ok
}

// readBody reads more of a response body, minding the exchange's deadline, policies and the client.
func (x *Exchange) readBody(u *upstream.Conn, b []byte, deadline time.Time) (int, error) {
	var watch *watch
	defer func() { watch.stop() }()
	now := time.Now()
	by, late := deadline, "response_timeout"
	if by.IsZero() {
		by, late = now.Add(streamIdle), "stream_idle_timeout"
	}
	for {
		x.armUpstream(u, now, by)
		if x.lost(watch) {
			return 0, proxy.Fail(proxy.DownstreamGone, proxy.DownstreamGone.Answer().Detail, nil)
		}
		n, err := u.Read(b)
		if n > 0 || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		x.upRead = readDeadline{}
		if now = time.Now(); !now.Before(by) {
			return 0, proxy.Fail(proxy.UpstreamTimeout, late, err)
		}
		if watch == nil && x.pump.finished() {
			watch = x.watchClient(u)
		}
	}
}

// lost reports whether the client, or its right to the answer, is gone. It is asked after every arming of a deadline, which
// whoever ends the exchange may have set before.
func (x *Exchange) lost(w *watch) bool {
	return x.live.over() || x.pump.failure() != nil || w.gone()
}

// cutOff ends a response in its middle so that the client can tell: a chunked or counted one by its missing end, one that
// ends with the connection by a reset.
func (x *Exchange) cutOff(code proxy.Code, detail string, cause error) *proxy.Failure {
	if x.Resp.Body == proxy.BodyUntilClose {
		x.severed = true
	} else {
		x.flush()
	}
	x.mustEnd = true
	return proxy.Fail(code, detail, cause)
}

// upgrade answers 101 and joins the two connections.
func (x *Exchange) upgrade(res *result, p *Plan) *proxy.Failure {
	u := res.held
	defer u.Discard()
	if x.Req.Upgrade == "" {
		return proxy.Fail(proxy.UpstreamProtocol, "unexpected_upgrade", nil)
	}
	x.mustEnd = true
	x.editResponse(p)
	x.stopPump(u)
	x.Resp.Close = false
	x.out = http1.AppendResponse(x.out[:0], &x.Resp)
	x.answered, x.Rec.Status, x.Rec.Detail = true, 101, viaUpstream
	if !x.flush() {
		return nil
	}
	x.tunnel(u.Conn, u.Buf[res.n:res.w])
	return nil
}

// Connect answers a CONNECT with 200 and joins the client to an upstream connection, which it takes over.
func (x *Exchange) Connect(u *upstream.Conn) {
	defer u.Discard()
	x.mustEnd, x.answered, x.Rec.Status = true, true, 200
	x.out = append(x.out[:0], "HTTP/1.1 200 OK\r\n\r\n"...)
	if x.flush() {
		x.tunnel(u.Conn, nil)
	}
}

// tunnel joins the two connections; both can be half closed.
func (x *Exchange) tunnel(u net.Conn, early []byte) {
	x.consumed, x.answered = true, false // nothing to linger for
	_ = x.Conn.SetDeadline(time.Time{})
	_ = u.SetDeadline(time.Time{})
	x.live.setUp(u)
	if x.live.over() { // ended before the deadlines were cleared
		return
	}
	sent, received := Tunnel(x.Conn, u, x.buf[x.r:x.w], early)
	x.Rec.BytesReceived += received
	x.Rec.BytesSent += sent
	x.r = x.w
}
