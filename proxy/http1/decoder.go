package http1

import (
	"github.com/signet-mesh/signet/proxy"
)

// Decoder takes a body off a byte stream. It keeps no body bytes: what Next returns lies in its argument. The zero value must
// be Reset before use; a Decoder is reused from body to body.
type Decoder struct {
	// Response makes failures UpstreamProtocol in place of BadRequest (or HeadTooLarge). Reset keeps it.
	Response bool

	kind  proxy.Body
	state state
	// left is what is missing of the body (BodyLength) or of the chunk at hand.
	left int64
	// line counts bytes of the chunk-size line or the trailer section at hand, digits those of the size.
	line, digits int
	// excess is by how much chunk extensions outweigh data so far.
	excess int64

	maxLine, maxTrailer, maxFields int

	section  []byte // the trailer section as received
	trailers []proxy.Field
}

// state is where in a body the decoder stands.
type state uint8

const (
	finished   state = iota
	data             // in data; left counts
	dataCR           // a chunk's data ended: CR, then LF
	dataLF           //
	size             // in the digits of chunk-size
	extension        // in chunk extensions
	sizeLF           // CR of a chunk-size line was seen
	trailer          // in the trailer section, at the start of a line
	trailerLF        // CR at the start of a line was seen: the end
	inTrailer        // in a trailer field line
	failed           // an error was returned
	untilClose       // data without end
)

// Reset prepares for a body framed as kind, of length bytes if that is BodyLength. Trailers of the last body are void.
func (d *Decoder) Reset(kind proxy.Body, length int64, lim *Limits) {
	*d = Decoder{
		Response: d.Response, kind: kind, section: d.section[:0], trailers: d.trailers[:0],
		maxLine: lim.chunkLine(), maxTrailer: lim.trailerBytes(), maxFields: lim.fields(),
	}
	switch {
	case kind == proxy.BodyLength && length > 0:
		d.state, d.left = data, length
	case kind == proxy.BodyChunked:
		d.state = size
	case kind == proxy.BodyUntilClose:
		d.state = untilClose
	}
}

// Next takes bytes off src. consumed is how many, framing included; data, a piece of src (or empty), is body; done says that
// the body and its trailers ended, after which src[consumed:] belongs to the next message. Call it again with src[consumed:]
// until done, or until it consumes nothing because more bytes are needed. Call it at once after Reset, with no bytes if there
// are none: an empty body is done without any.
//
// err is a *proxy.Failure; the connection can't be used again, and every later call fails as well.
func (d *Decoder) Next(src []byte) (consumed int, body []byte, done bool, err error) {
	switch d.kind {
	case proxy.BodyChunked:
		return d.chunked(src)
	case proxy.BodyUntilClose:
		return len(src), src, false, nil
	case proxy.BodyLength:
		n := min(d.left, int64(len(src)))
		d.left -= n
		if d.left == 0 {
			d.state = finished
		}
		return int(n), src[:n], d.left == 0, nil
	}
	return 0, nil, true, nil
}

// Trailers are the trailer fields of a chunked body, without those that no trailer may carry. Valid after done, until Reset.
func (d *Decoder) Trailers() []proxy.Field {
	if d.state != finished {
		return nil
	}
	return d.trailers
}

// CloseOK says whether the end of the stream now is a legal end of the body.
func (d *Decoder) CloseOK() bool { return d.state == finished || d.state == untilClose }

// chunked decodes up to one piece of data and the framing around it (RFC 9112 section 7.1).
func (d *Decoder) chunked(src []byte) (n int, body []byte, done bool, err error) {
	if d.state == failed {
		return 0, nil, false, d.fail(bad("after_failure"))
	}
	for d.state != finished && n < len(src) {
		if d.state == data {
			if body != nil {
				return n, body, false, nil
			}
			take := min(d.left, int64(len(src)-n))
			body = src[n : n+int(take)]
			n += int(take)
			if d.left -= take; d.left == 0 {
				d.state = dataCR
			}
			continue
		}
		used, f := d.framing(src[n:])
		if f != nil {
			return 0, nil, false, d.fail(f)
		}
		n += used
	}
	return n, body, d.state == finished, nil
}

func (d *Decoder) fail(f *proxy.Failure) error {
	d.state, d.trailers = failed, d.trailers[:0]
	if d.Response {
		return fromUpstream(f)
	}
	return f
}

// framing takes at least one byte that is not data. src is not empty.
func (d *Decoder) framing(src []byte) (n int, f *proxy.Failure) {
	switch d.state {
	case size:
		return d.size(src)
	case extension:
		return d.extension(src)
	case dataCR:
		return d.one(src[0], '\r', dataLF)
	case dataLF:
		return d.one(src[0], '\n', size)
	case sizeLF:
		return d.sizeEnd(src[0])
	}
	return d.trailer(src)
}

// one takes exactly the byte want.
func (d *Decoder) one(c, want byte, next state) (int, *proxy.Failure) {
	if c != want {
		return 0, bad("chunk_end")
	}
	d.state = next
	return 1, nil
}

// size takes the digits of chunk-size: hexadecimal, at least one, below 2^63.
func (d *Decoder) size(src []byte) (n int, f *proxy.Failure) {
	for _, c := range src {
		v, ok := unhex(c)
		if !ok {
			if d.digits == 0 {
				return 0, bad("chunk_size")
			}
			switch c {
			case '\r':
				d.state = sizeLF
			case ';':
				d.state = extension
			default:
				return 0, bad("chunk_size")
			}
			d.line++
			return n + 1, d.checkLine()
		}
		if d.left > (1<<63-1)>>4 {
			return 0, bad("chunk_size_overflow")
		}
		d.left = d.left<<4 | v
		d.digits++
		d.line++
		n++
		if f := d.checkLine(); f != nil {
			return 0, f
		}
	}
	return n, nil
}

// extension skips chunk extensions. They are hop-by-hop and mean nothing to us.
func (d *Decoder) extension(src []byte) (n int, f *proxy.Failure) {
	for _, c := range src {
		n++
		d.line++
		switch {
		case c == '\r':
			d.state = sizeLF
			return n, d.checkLine()
		case c < ' ' && c != '\t' || c == 0x7f:
			return 0, bad("control_in_chunk_extension")
		}
		if f := d.checkLine(); f != nil {
			return 0, f
		}
	}
	return n, nil
}

// checkLine bounds a chunk-size line, whose CR is counted too.
func (d *Decoder) checkLine() *proxy.Failure {
	if d.line > d.maxLine+1 {
		return bad("chunk_line_too_long")
	}
	return nil
}

// sizeEnd takes the LF of a chunk-size line.
func (d *Decoder) sizeEnd(c byte) (int, *proxy.Failure) {
	if c != '\n' {
		return 0, bad("bare_cr")
	}
	// A body of many small chunks with long extensions costs us more than it brings anybody.
	d.excess = max(0, d.excess+int64(d.line-d.digits-1)-d.left)
	if d.excess > maxExcess {
		return 0, bad("chunk_extensions_too_long")
	}
	d.state = data
	if d.left == 0 {
		d.state = trailer
	}
	d.line, d.digits = 0, 0
	return 1, nil
}

func unhex(c byte) (int64, bool) {
	switch {
	case c >= '0' && c <= '9':
		return int64(c - '0'), true
	case c >= 'a' && c <= 'f':
		return int64(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return int64(c-'A') + 10, true
	}
	return 0, false
}
