package http1

import (
	"bytes"

	"github.com/signet-mesh/signet/proxy"
)

// ParseRequest reads one request head from the start of buf into h. n is the number of bytes consumed, the empty line
// included; n == 0 with a nil error means that more bytes are needed: call again with the same h, not Reset, and a longer buf
// that starts with the same bytes. h is reset as soon as the head is complete, and shares no memory with buf.
//
// err is a *proxy.Failure: BadRequest, HeadTooLarge, TargetTooLong, UnsupportedVersion, UnsupportedTransferEncoding or
// ExpectationFailed. h then holds what had been read, for the log, and the connection can't be used again. The result does
// not depend on how the bytes were cut into calls.
//
// A Content-Length of 0 is BodyNone. Expect is false where there is no body to wait for.
func ParseRequest(buf []byte, h *proxy.Head, lim *Limits) (n int, err error) {
	start, n, f := frame(buf, h, true, lim)
	if f != nil {
		h.Reset()
		return 0, f
	}
	if n == 0 {
		return 0, nil
	}
	h.Reset()
	if f := parseRequest(h.Copy(buf[start:n]), h, lim); f != nil {
		return 0, f
	}
	return n, nil
}

func parseRequest(b []byte, h *proxy.Head, lim *Limits) *proxy.Failure {
	n, f := requestLine(b, h, lim)
	if f != nil {
		return f
	}
	m := message{h: h, length: -1}
	if f := m.fields(b[n:], true, lim); f != nil {
		return f
	}
	if f := readTarget(h); f != nil {
		return f
	}
	if f := m.judgeHost(); f != nil {
		return f
	}
	return m.judgeRequest()
}

// requestLine reads method SP target SP version CRLF (RFC 9112 section 3).
func requestLine(b []byte, h *proxy.Head, lim *Limits) (n int, f *proxy.Failure) {
	end := bytes.IndexByte(b, '\n')
	line := b[:end-1] // frame saw CRLF
	i := bytes.IndexByte(line, ' ')
	if i <= 0 || !isToken(str(line[:i])) {
		return 0, bad("method")
	}
	h.Method = str(line[:i])
	line = line[i+1:]
	i = bytes.IndexByte(line, ' ')
	if i <= 0 {
		return 0, bad("request_line")
	}
	if i > lim.targetBytes() {
		return 0, proxy.Fail(proxy.TargetTooLong, "", nil)
	}
	if !isVisible(line[:i]) {
		return 0, badValue("target", string(line[:i]))
	}
	h.Target = str(line[:i])
	minor, f := version(str(line[i+1:]), h)
	h.Minor = minor
	return end + 1, f
}

// version reads HTTP-version. Another one that is well formed is refused as such.
func version(s string, h *proxy.Head) (minor int, f *proxy.Failure) {
	switch s {
	case "HTTP/1.1":
		return 1, nil
	case "HTTP/1.0":
		return 0, nil
	}
	if len(s) == len("HTTP/1.1") && s[:5] == "HTTP/" && isDigit(s[5]) && s[6] == '.' && isDigit(s[7]) {
		detail := ""
		if h.Method == "PRI" && h.Target == "*" && s == "HTTP/2.0" {
			detail = "http1.http2_preface"
		}
		return 0, proxy.Fail(proxy.UnsupportedVersion, detail, quoted(s))
	}
	return 0, badValue("version", s)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// readTarget takes the target apart (RFC 9112 section 3.2).
func readTarget(h *proxy.Head) *proxy.Failure {
	target := h.Target
	switch {
	case h.Method == "CONNECT":
		if ok, port := isAuthority(target); !ok || !port {
			return badValue("connect_target", target)
		}
		h.Authority = target
		return nil
	case target[0] == '/':
		h.Path, h.Query = splitQuery(target)
		return nil
	case target == "*":
		if h.Method != "OPTIONS" {
			return badValue("target", target)
		}
		h.Path = "*"
		return nil
	}
	const scheme = len("http://")
	if len(target) < scheme || !equalFold(target[:4], "http") || target[4:scheme] != "://" {
		return badValue("target", target)
	}
	rest, i := target[scheme:], 0
	for i < len(rest) && rest[i] != '/' && rest[i] != '?' {
		i++
	}
	if ok, _ := isAuthority(rest[:i]); !ok {
		return badValue("target_authority", rest[:i])
	}
	h.Scheme, h.Authority = "http", rest[:i]
	h.Path, h.Query = splitQuery(rest[i:])
	if h.Path == "" {
		h.Path = "/"
		if h.Method == "OPTIONS" && h.Query == "" {
			h.Path = "*"
		}
	}
	return nil
}

func splitQuery(s string) (path, query string) {
	for i := 0; i < len(s); i++ {
		if s[i] == '?' {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// judgeHost wants exactly one Host in HTTP/1.1, at most one in HTTP/1.0, well formed; it may be empty only where the target
// names the authority, which then replaces it.
func (m *message) judgeHost() *proxy.Failure {
	if m.hosts == 0 {
		if m.h.Minor == 1 {
			return bad("no_host")
		}
		return nil
	}
	if m.host == "" && m.h.Authority != "" {
		return nil
	}
	if ok, _ := isAuthority(m.host); !ok {
		return badValue("host", m.host)
	}
	if m.h.Authority == "" {
		m.h.Authority = m.host
	}
	return nil
}

// judgeRequest settles framing, connection and expectations.
func (m *message) judgeRequest() *proxy.Failure {
	h := m.h
	if f := m.framing(); f != nil {
		return f
	}
	switch {
	case m.coded:
		h.Body = proxy.BodyChunked
	case m.length > 0:
		h.Body, h.Length = proxy.BodyLength, m.length
	}
	if h.Body != proxy.BodyNone && (h.Method == "CONNECT" || h.Method == "TRACE") {
		return badValue("body_not_allowed", h.Method)
	}
	if m.expect != "" && h.Minor == 1 {
		if !equalFold(m.expect, "100-continue") {
			return proxy.Fail(proxy.ExpectationFailed, "", quoted(m.expect))
		}
		h.Expect = h.Body != proxy.BodyNone
	}
	h.Close = !m.keeps()
	protocol, f := m.protocol()
	if h.Body == proxy.BodyNone && h.Method != "CONNECT" {
		h.Upgrade = protocol
	}
	return f
}
