package forward

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/http1"
)

// Bounds of a body that is read before it is forwarded.
const (
	peekTime = 15 * time.Second // from the wish to see it to its last byte that is wanted
	// peekFraming is how many bytes of chunk framing may come with each byte of body, and peekExtra how many besides.
	peekFraming = 8
	peekExtra   = 64 << 10
)

// continueLine is the interim answer that a client with Expect: 100-continue waits for.
const continueLine = "HTTP/1.1 100 Continue\r\n\r\n"

// PeekBody implements judge.Body: the bytes stay in the exchange's buffer and are forwarded as if nobody had looked.
func (x *Exchange) PeekBody(max int) (body []byte, whole bool, failure *proxy.Failure) {
	if x.Req.Body == proxy.BodyNone || x.consumed {
		return nil, true, nil
	}
	by := time.Now().Add(peekTime)
	defer func() { x.read.exactly(x.Conn, time.Time{}) }()
	if x.Req.Body == proxy.BodyLength {
		want := int(min(x.Req.Length, int64(max)))
		for x.w-x.r < want {
			if failure := x.peekMore(by); failure != nil {
				return nil, false, failure
			}
		}
		return x.buf[x.r : x.r+want], x.Req.Length <= int64(max), nil
	}
	return x.peekChunks(max, by)
}

// peekChunks decodes a copy of what has arrived of a chunked body.
func (x *Exchange) peekChunks(max int, by time.Time) (body []byte, whole bool, failure *proxy.Failure) {
	var d http1.Decoder
	d.Reset(x.Req.Body, x.Req.Length, &x.limits)
	x.peeked = x.peeked[:0]
	for seen := 0; ; {
		used, data, done, err := d.Next(x.buf[x.r+seen : x.w])
		seen += used
		x.peeked = append(x.peeked, data...)
		switch {
		case err != nil:
			return nil, false, asFailure(err, proxy.BadRequest)
		case len(x.peeked) > max:
			return x.peeked[:max], false, nil
		case done:
			return x.peeked, true, nil
		case seen > peekFraming*max+peekExtra:
			return nil, false, proxy.Fail(proxy.BodyTooLarge, "chunk_framing_too_large", nil)
		case used > 0 && x.r+seen < x.w:
			continue
		}
		if failure := x.peekMore(by); failure != nil {
			return nil, false, failure
		}
	}
}

// peekMore waits for more of the body, after telling a client that waits for leave to send it.
func (x *Exchange) peekMore(by time.Time) *proxy.Failure {
	if x.Req.Expect {
		x.Req.Expect = false // answered here: the server is not asked again
		if x.Req.Minor > 0 && !x.write([]byte(continueLine)) {
			return proxy.Fail(proxy.DownstreamGone, "", nil)
		}
	}
	x.makeRoom()
	x.read.exactly(x.Conn, by)
	if x.live.over() {
		return proxy.Fail(proxy.DownstreamGone, "", nil)
	}
	n, err := x.Conn.Read(x.buf[x.w:])
	x.w += n
	switch {
	case n > 0 || err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return proxy.Fail(proxy.RequestTimeout, "request_body_timeout", err)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return proxy.Fail(proxy.DownstreamGone, "", err)
}
