package http1

import (
	"bytes"

	"github.com/signet-mesh/signet/proxy"
)

// trailer takes bytes of the trailer section. Its lines are kept until the empty one, and then read as fields.
func (d *Decoder) trailer(src []byte) (n int, f *proxy.Failure) {
	switch {
	case d.state == trailerLF:
		if src[0] != '\n' {
			return 0, bad("bare_cr")
		}
		if f := d.readTrailers(); f != nil {
			return 0, f
		}
		d.state = finished
		return 1, nil
	case d.state == trailer && src[0] == '\r':
		d.state = trailerLF
		return 1, nil
	}
	n = len(src)
	d.state = inTrailer
	if i := bytes.IndexByte(src, '\n'); i >= 0 {
		n = i + 1
		d.state = trailer
	}
	if len(d.section)+n > d.maxTrailer {
		return 0, tooLarge("http1.trailers_too_large")
	}
	d.section = append(d.section, src[:n]...)
	if end := len(d.section); d.state == trailer && (end < 2 || d.section[end-2] != '\r') {
		return 0, bad("bare_lf")
	}
	return n, nil
}

// readTrailers reads the whole section. Trailers that would frame or route a message are refused; others that no trailer may
// carry (RFC 9110 section 6.5.1), and hop-by-hop ones, are dropped.
func (d *Decoder) readTrailers() *proxy.Failure {
	for b, count := d.section, 0; len(b) > 0; count++ {
		if count >= d.maxFields {
			return tooLarge("http1.too_many_trailers")
		}
		name, value, n, under, f := fieldLine(b)
		if f != nil {
			return f
		}
		b = b[n:]
		switch classify(name) {
		case host, contentLength, transferEncoding:
			return badValue("trailer", name)
		case plain:
			if !protected(name) && !(under && disguised(name)) {
				d.trailers = append(d.trailers, proxy.Field{Name: name, Value: value})
			}
		}
	}
	return nil
}
