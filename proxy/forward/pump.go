package forward

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// pump carries a request body that is still arriving to the upstream while the exchange waits for the response. Until done
// is closed it owns the exchange's buffer, its reading side and the upstream's writing side.
type pump struct {
	done chan struct{}
	// fail is why the request itself can't be finished (the client left, or sent a bad chunk).
	fail atomic.Pointer[proxy.Failure]
	// stop is set before the deadlines that end the pump, so that it does not push them back.
	stop atomic.Bool
	// whole says that the body was sent to its end. Read after done.
	whole bool
	n     uint64
}

func (x *Exchange) startPump(u *upstream.Conn) {
	p := &pump{done: make(chan struct{})}
	x.pump = p
	go func() {
		defer close(p.done)
		if f := x.pumpBody(p, u); f != nil {
			p.fail.Store(f)
			_ = u.SetReadDeadline(time.Unix(1, 0)) // wakes the exchange
		}
	}()
}

// pumpBody moves the body in pieces as they come. It returns a failure of the client's side only; an upstream that no longer
// takes the body is noticed by whoever reads its response.
func (x *Exchange) pumpBody(p *pump, u *upstream.Conn) *proxy.Failure {
	small := x.swapBig()
	defer x.swapBack(small)
	out := make([]byte, 0, 512)
	var written writeDeadline
	chunked := x.Req.Body == proxy.BodyChunked
	for {
		used, data, done, err := x.reqBody.Next(x.buf[x.r:x.w])
		x.r += used
		if err != nil {
			return asFailure(err, proxy.BadRequest)
		}
		p.n += uint64(len(data))
		out = out[:0]
		switch {
		case chunked:
			if len(data) > 0 {
				out = http1.AppendChunk(out, data)
			}
			if done {
				out = http1.AppendLastChunk(out, x.reqBody.Trailers())
			}
		default:
			out = data
		}
		if len(out) > 0 {
			written.within(u, time.Now(), stalled)
			if p.stop.Load() {
				return nil
			}
			if _, err := u.Write(out); err != nil {
				return nil
			}
		}
		if !chunked {
			out = nil
		}
		if done {
			p.whole = true
			return nil
		}
		if used > 0 && x.r < x.w {
			continue
		}
		if f := x.fill(p); f != nil {
			return f
		}
	}
}

// fill reads more of a body.
func (x *Exchange) fill(p *pump) *proxy.Failure {
	if x.r == x.w {
		x.r, x.w = 0, 0
	}
	x.makeRoom()
	x.read.within(x.Conn, time.Now(), streamIdle)
	if p.stop.Load() || x.live.over() {
		return proxy.Fail(proxy.DownstreamGone, "", nil)
	}
	n, err := x.Conn.Read(x.buf[x.w:])
	x.w += n
	if n > 0 || err == nil {
		return nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return proxy.Fail(proxy.RequestTimeout, "stream_idle_timeout", err)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return proxy.Fail(proxy.DownstreamGone, "", err)
}

// swapBig gives the exchange a pooled buffer for the length of a body.
func (x *Exchange) swapBig() (small []byte) {
	small = x.buf
	if len(small) >= bigBuffer {
		return nil
	}
	big := *bigBuffers.Get().(*[]byte)
	x.w = copy(big, x.buf[x.r:x.w])
	x.r = 0
	x.buf = big
	return small
}

func (x *Exchange) swapBack(small []byte) {
	if small == nil {
		return
	}
	big := x.buf
	rest := big[x.r:x.w]
	if len(rest) > len(small) {
		small = make([]byte, len(rest))
	}
	x.w = copy(small, rest)
	x.r = 0
	x.buf = small
	if len(big) == bigBuffer {
		bigBuffers.Put(&big)
	}
}

// finished reports whether no body is being pumped.
func (p *pump) finished() bool {
	if p == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure is why the request can't be finished, nil if it can.
func (p *pump) failure() *proxy.Failure {
	if p == nil {
		return nil
	}
	return p.fail.Load()
}

// graceForPump waits a moment for a request body whose response is complete: without its end the connection is lost.
func (x *Exchange) graceForPump() {
	if x.pump.finished() {
		return
	}
	t := time.NewTimer(bodyGrace)
	defer t.Stop()
	select {
	case <-x.pump.done:
	case <-t.C:
	}
}

// stopPump ends a pump and waits for it. true: the body went to the upstream whole (or there was no pump).
func (x *Exchange) stopPump(u *upstream.Conn) bool {
	p := x.pump
	if p == nil {
		return true
	}
	if !p.finished() {
		p.stop.Store(true)
		_ = x.Conn.SetReadDeadline(time.Unix(1, 0))
		if u != nil {
			_ = u.SetWriteDeadline(time.Unix(1, 0))
		}
		<-p.done
		x.read.exactly(x.Conn, time.Time{})
		if p.whole && u != nil {
			_ = u.SetWriteDeadline(time.Time{})
		}
	}
	x.pump = nil
	x.Rec.BytesReceived += p.n
	if !p.whole {
		x.mustEnd, x.unread = true, true
	}
	return p.whole
}
