package forward

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
)

// New prepares an exchange for a connection whose first bytes, preread, were already taken off it.
func New(c net.Conn, live *Live, preread []byte, corridor Corridor) *Exchange {
	x := &Exchange{Conn: c, live: live, corridor: corridor}
	x.buf = make([]byte, max(smallBuffer, len(preread)))
	x.w = copy(x.buf, preread)
	return x
}

// Serve reads requests until the connection ends, ctx ends (which lets the one in flight finish) or a request forbids
// another. It returns when nothing of the connection is in use any more; the caller closes it.
func (x *Exchange) Serve(ctx context.Context) {
	x.life = x.live.life
	x.stale = stale()
	for {
		fail, end := x.readHead(ctx)
		if end {
			return
		}
		x.serveOne(fail)
		if x.severed {
			sever(x.Conn)
			return
		}
		if x.mustEnd {
			x.linger()
			return
		}
	}
}

// serveOne takes one request through the corridor and records it, exactly once.
func (x *Exchange) serveOne(fail *proxy.Failure) {
	x.answered, x.consumed, x.reached, x.pending, x.pump, x.Edits = false, false, false, 0, nil, nil
	if fail == nil {
		x.mustEnd = x.mustEnd || x.Req.Close || x.live.last()
		x.reqBody.Reset(x.Req.Body, x.Req.Length, &x.limits)
	} else {
		x.mustEnd, x.unread = true, true
	}
	x.corridor.Begin(x)
	x.describe()
	if fail == nil {
		fail = x.corridor.Handle(x)
	}
	if fail != nil {
		x.fail(fail)
	}
	x.live.End()
	if !x.skipBody() {
		x.mustEnd, x.unread = true, true
	}
	if d := x.live.Denied(); d != nil {
		d.note(&x.Rec)
		x.mustEnd = true
	}
	x.Rec.Duration = time.Since(x.Rec.Start)
	x.corridor.Recorder().Record(&x.Rec)
}

// Life ends when the connection is cut off.
func (x *Exchange) Life() context.Context { return x.life }

// InFlight shows the request to Live.Rejudge until its exchange ends. Req must not be read for policies' sake after it is
// changed: what is judged again is Judged over the head as it is then.
func (x *Exchange) InFlight() { x.live.Begin(&x.Auth, &x.Judged, nil) }

// describe fills the record with what the head says.
func (x *Exchange) describe() {
	r, h := &x.Rec, &x.Req
	r.Method, r.Authority, r.Path, r.Query, r.Minor = h.Method, h.Authority, h.Path, h.Query, h.Minor
	r.UserAgent, r.RequestID, r.ForwardedFor = h.Get("user-agent"), h.Get("x-request-id"), h.Get("x-forwarded-for")
	if r.Flag == "" {
		r.Flag = "-"
	}
}

// readHead fills x.Req. end says that the connection is over and there is nothing to record.
func (x *Exchange) readHead(ctx context.Context) (fail *proxy.Failure, end bool) {
	var started time.Time
	x.Req.Reset() // once: the codec remembers in the head how far it has searched
	defer func() {
		if !started.IsZero() {
			x.read.exactly(x.Conn, time.Time{})
		}
	}()
	for {
		if x.r < x.w {
			n, err := http1.ParseRequest(x.buf[x.r:x.w], &x.Req, &x.limits)
			if err != nil {
				x.startRecord(started)
				return asFailure(err, proxy.BadRequest), false
			}
			if n > 0 {
				x.r += n
				x.startRecord(started)
				return nil, false
			}
		}
		now := time.Now()
		if x.r == x.w {
			if !x.awaitRequest(ctx, now) {
				return nil, true
			}
		} else if started.IsZero() {
			started = now
			x.read.exactly(x.Conn, now.Add(headTimeout))
		}
		x.makeRoom()
		n, err := x.Conn.Read(x.buf[x.w:])
		x.live.idle.Store(false)
		x.w += n
		if n > 0 {
			continue
		}
		if err == nil {
			continue
		}
		if x.r == x.w {
			if x.live.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return nil, true
		}
		x.startRecord(started)
		x.Req.Reset()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return proxy.Fail(proxy.RequestTimeout, "", err), false
		}
		return proxy.Fail(proxy.DownstreamGone, "", err), false
	}
}

// awaitRequest prepares for the wait for a request's first byte. A listener that ends leaves its idle connections a moment
// in which a request that is on its way is still served. false: that moment is over.
func (x *Exchange) awaitRequest(ctx context.Context, now time.Time) bool {
	x.shrink()
	x.read.within(x.Conn, now, idleTimeout)
	x.live.idle.Store(true)
	if !x.live.draining.Load() && ctx.Err() == nil {
		return true
	}
	if x.drainBy.IsZero() {
		x.drainBy = now.Add(drainIdle)
	}
	x.read.exactly(x.Conn, x.drainBy)
	return now.Before(x.drainBy) && !x.live.over()
}

func (x *Exchange) startRecord(started time.Time) {
	if started.IsZero() {
		started = time.Now()
	}
	x.Rec = proxy.Record{Start: started}
}

func asFailure(err error, or proxy.Code) *proxy.Failure {
	var f *proxy.Failure
	if errors.As(err, &f) {
		return f
	}
	return proxy.Fail(or, "", err)
}

// makeRoom leaves space behind w for a read.
func (x *Exchange) makeRoom() {
	if x.r > 0 && x.w == len(x.buf) {
		x.w = copy(x.buf, x.buf[x.r:x.w])
		x.r = 0
	}
	if x.w == len(x.buf) {
		grown := make([]byte, 2*len(x.buf))
		copy(grown, x.buf[:x.w])
		x.buf = grown
	}
}

// shrink resets an empty buffer, and gives up one that an unusual request has grown.
func (x *Exchange) shrink() {
	x.r, x.w = 0, 0
	if len(x.buf) > keepBuffer {
		x.buf = make([]byte, smallBuffer)
	}
	if cap(x.out) > keepBuffer {
		x.out = nil
	}
}

// Respond answers from here, without an upstream. Fields of x.Resp that the caller set go along.
func (x *Exchange) Respond(status int, body string) {
	if x.answered {
		x.mustEnd = true
		return
	}
	h := &x.Resp
	h.Status, h.Reason, h.Minor = status, "", 1
	h.Body, h.Length = proxy.BodyLength, int64(len(body))
	bare := x.Req.Method == "HEAD" || status == 204 || status == 304
	if bare {
		h.Body = proxy.BodyNone
	}
	if body != "" && h.Get("content-type") == "" {
		h.Add("content-type", "text/plain")
	}
	// What is left of a body that has not fully arrived can't be told from the next request cheaply: end here.
	if !x.bodyHere() || x.live.last() {
		x.mustEnd = true
	}
	http1.Reframe(h, x.Req.Minor, x.mustEnd)
	x.out = http1.AppendResponse(x.out[:0], h)
	if !bare {
		x.out = append(x.out, body...)
		x.Rec.BytesSent += uint64(len(body))
	}
	x.answered = true
	x.Rec.Status = status
	x.write(x.out)
}

// fail turns a failure into its answer.
func (x *Exchange) fail(f *proxy.Failure) {
	a := f.Code.Answer()
	x.Rec.Flag = a.Flag
	if x.Rec.Detail = f.Detail; f.Detail == "" {
		x.Rec.Detail = a.Detail
	}
	if a.Close {
		x.mustEnd = true
	}
	if f.Cause != nil && (a.Flag == "UF" || a.Flag == "UC") {
		x.Rec.TransportFailure = f.Cause.Error()
	}
	if a.Status == 0 || x.answered {
		// Cut off in the middle: the client must not take what it has for the whole.
		x.mustEnd = true
		return
	}
	body := a.Body
	if f.Body != "" {
		body = f.Body
	}
	status := a.Status
	if f.Status >= 200 && f.Status <= 599 {
		status = f.Status
	}
	x.Resp.Reset()
	for _, h := range f.Fields {
		x.Resp.Add(h.Name, h.Value)
	}
	if x.untouched(f) {
		x.Resp.Add(Untouched, "1")
	}
	x.Respond(status, body)
}

// write sends to the client; an error ends the connection.
func (x *Exchange) write(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	x.written.within(x.Conn, time.Now(), stalled)
	if x.live.over() { // the deadline that ends it may have been pushed back
		x.mustEnd = true
		return false
	}
	if _, err := x.Conn.Write(b); err != nil {
		x.mustEnd = true
		if x.Rec.Flag == "-" {
			x.Rec.Flag, x.Rec.Detail = "DC", proxy.DownstreamGone.Answer().Detail
		}
		return false
	}
	return true
}

// bodyHere reports whether the whole request body is in the buffer (or there is none).
func (x *Exchange) bodyHere() bool {
	switch x.Req.Body {
	case proxy.BodyNone:
		return true
	case proxy.BodyLength:
		return !x.consumed && int64(x.w-x.r) >= x.Req.Length
	}
	return false
}

// skipBody takes a body that nobody wanted off the buffer. false: it has not fully arrived.
func (x *Exchange) skipBody() bool {
	if x.consumed || x.Req.Body == proxy.BodyNone {
		return true
	}
	if !x.bodyHere() {
		return false
	}
	x.r += int(x.Req.Length)
	x.consumed = true
	return true
}
