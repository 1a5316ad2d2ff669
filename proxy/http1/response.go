package http1

import (
	"bytes"

	"github.com/signet-mesh/signet/proxy"
)

// ParseResponse reads one response head like ParseRequest. method is the request's: HEAD and CONNECT change the framing.
// Interim responses (1xx) come out as heads of their own, without a body; the final one follows in the stream. Whether a 101
// was asked for is for the caller to check.
//
// err is a *proxy.Failure of code UpstreamProtocol; the connection can't be used again.
//
// Length is -1 where BodyNone comes with no Content-Length (HEAD, 304, and always 1xx, 204 and CONNECT's 2xx). BodyUntilClose
// sets Close. Upgrade is kept on 101, which must have it, and 426.
func ParseResponse(buf []byte, h *proxy.Head, method string, lim *Limits) (n int, err error) {
	_, n, f := frame(buf, h, false, lim)
	if f != nil {
		h.Reset()
		return 0, fromUpstream(f)
	}
	if n == 0 {
		return 0, nil
	}
	h.Reset()
	if f := parseResponse(h.Copy(buf[:n]), h, method, lim); f != nil {
		return 0, fromUpstream(f)
	}
	return n, nil
}

func parseResponse(b []byte, h *proxy.Head, method string, lim *Limits) *proxy.Failure {
	n, f := statusLine(b, h)
	if f != nil {
		return f
	}
	m := message{h: h, length: -1}
	if f := m.fields(b[n:], false, lim); f != nil {
		return f
	}
	h.Trailers = false // of no meaning in a response
	return m.judgeResponse(method)
}

// statusLine reads HTTP-version SP 3DIGIT [SP [reason]] CRLF (RFC 9112 section 4). The second space, which the RFC wants
// even where no reason follows, may be missing with it.
func statusLine(b []byte, h *proxy.Head) (n int, f *proxy.Failure) {
	end := bytes.IndexByte(b, '\n')
	line := b[:end-1] // frame saw CRLF
	const status = len("HTTP/1.1 ")
	if len(line) < status+3 || line[status-1] != ' ' {
		return 0, badValue("status_line", string(line))
	}
	if h.Minor, f = version(str(line[:status-1]), h); f != nil {
		return 0, f
	}
	for _, c := range line[status : status+3] {
		if !isDigit(c) {
			return 0, badValue("status", string(line[status:status+3]))
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || h.Status > 599 {
		return 0, badValue("status", string(line[status:status+3]))
	}
	if reason := line[status+3:]; len(reason) > 0 {
		if reason[0] != ' ' || !isFieldValue(reason) {
			return 0, badValue("status_line", string(line))
		}
		h.Reason = str(reason[1:])
	}
	return end + 1, nil
}

// judgeResponse settles framing (RFC 9112 section 6.3) and connection.
func (m *message) judgeResponse(method string) *proxy.Failure {
	h := m.h
	if f := m.framing(); f != nil {
		return f
	}
	h.Close = !m.keeps()
	protocol, f := m.protocol()
	if f != nil {
		return f
	}
	if h.Status == 101 || h.Status == 426 {
		h.Upgrade = protocol
	}
	h.Length = -1
	switch {
	case h.Status < 200 || h.Status == 204:
		if m.coded || m.length > 0 {
			return badValue("body_not_allowed", h.Reason)
		}
		if h.Status == 101 && h.Upgrade == "" {
			return bad("switching_without_upgrade")
		}
	case method == "CONNECT" && h.Status < 300:
	case method == "HEAD" || h.Status == 304:
		h.Length = m.length
	case m.coded:
		h.Body = proxy.BodyChunked
	case m.length > 0:
		h.Body, h.Length = proxy.BodyLength, m.length
	case m.length == 0:
		h.Length = 0
	default:
		h.Body, h.Close = proxy.BodyUntilClose, true
	}
	return nil
}
