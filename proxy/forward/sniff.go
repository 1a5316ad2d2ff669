package forward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"
)

// Spoken is what the first bytes of a connection say it speaks.
type Spoken uint8

// What a connection may speak. Only HTTP/1.x is read here; the rest is carried as it is.
const (
	Silent Spoken = iota // nothing came in time: the server may speak first
	HTTP1
	HTTP2
	TLS
	Other
)

// maxLine bounds what is looked at for a request line; one that goes on beyond it is HTTP if it begins like that.
const maxLine = 16 << 10

// http2Preface begins every HTTP/2 connection of a client (RFC 9113 section 3.4).
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// recordHandshake is the first byte of every TLS connection (RFC 8446 section 5.1).
const recordHandshake = 0x16

// methods are those of which a target that begins like one tells HTTP from other protocols whose commands look the same.
var methods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"}

// blanks are what lenient servers skip before and in a request line (RFC 9112 sections 2.2 and 3).
const blanks = " \t\r\n"

// Sniff says what bytes speak that a client sent first; more: they are too few to tell, and the answer is the best guess. HTTP1 is
// also what only a lenient server takes for it, such as a request behind empty lines: it must not come to one unread.
func Sniff(b []byte) (s Spoken, more bool) {
	switch {
	case len(b) == 0:
		return Silent, true
	case b[0] == recordHandshake:
		return TLS, false
	case bytes.HasPrefix(b, []byte(http2Preface[:min(len(b), len(http2Preface))])):
		return HTTP2, len(b) < len("PRI * HTTP/2")
	}
	long := len(b) >= maxLine
	b = bytes.TrimLeft(b, blanks)
	if len(b) == 0 {
		if long {
			return HTTP1, false
		}
		return Other, true
	}
	line, _, ended := bytes.Cut(b, []byte{'\n'})
	word := bytes.IndexAny(line, " \t\r")
	method := line[:max(word, 0)]
	if word < 0 {
		method = line
	}
	if len(method) == 0 || len(method) > 32 || !isToken(method) {
		return Other, false
	}
	if string(method) == "CONNECT" && word >= 0 { // what follows is anybody's: it is carried to whom it was sent
		return Other, false
	}
	if ended {
		if isVersion(line) {
			return HTTP1, false
		}
		return Other, false
	}
	if word < 0 {
		return Other, true
	}
	if target := line[word+1:]; begins(target) && (long || slices.Contains(methods[:], string(method))) {
		return HTTP1, !long
	}
	return Other, !long
}

// isVersion reports whether a whole line ends in a version of HTTP/1.x, however that is written.
func isVersion(line []byte) bool {
	line = bytes.TrimRight(line, blanks)
	version := line[bytes.LastIndexAny(line, blanks)+1:]
	const name = "HTTP/"
	return len(version) > len(name) && len(version) < len(line) && bytes.EqualFold(version[:len(name)], []byte(name)) &&
		version[len(name)] != '2' && version[len(name)] != '3'
}

// begins reports whether an unfinished request line has a target as far as it goes.
func begins(target []byte) bool {
	return len(target) > 0 && (target[0] == '/' || target[0] == '*') || bytes.HasPrefix(target, []byte("http"))
}

// isToken reports whether a word could be a method (RFC 9110 section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0:
		default:
			return false
		}
	}
	return true
}

// Detect reads the first bytes of a connection until they say what it speaks, early being those that were read before, but
// not longer than within. A connection that ended before its first byte is an error; one that is silent in time is Silent.
func Detect(c net.Conn, early []byte, within time.Duration) (b []byte, s Spoken, err error) {
	s, more := Sniff(early)
	if !more {
		return early, s, nil
	}
	_ = c.SetReadDeadline(time.Now().Add(within))
	defer c.SetReadDeadline(time.Time{})
	b = append(make([]byte, 0, max(2048, 2*len(early))), early...)
	for more {
		if len(b) == cap(b) {
			b = append(b, make([]byte, len(b))...)[:len(b)]
		}
		n, err := c.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		s, more = Sniff(b)
		if n > 0 || err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 && errors.Is(err, io.EOF) {
			return b, s, nil
		}
		return b, s, err
	}
	return b, s, nil
}
