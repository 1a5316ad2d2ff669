package http1

import (
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// Reframe fits a response head to a client of HTTP/1.minor before it is appended: HTTP/1.0 knows no chunks, so such a body
// ends with the connection, and HTTP/1.1 gets a body that ended with the upstream's connection in chunks. closing says that
// this side will close its connection to the client anyway; what the upstream said of its own is forgotten. The body is then
// to be written as h.Body says, and is still to be decoded as it was parsed.
func Reframe(h *proxy.Head, minor int, closing bool) {
	switch {
	case minor == 0 && h.Body == proxy.BodyChunked:
		h.Body = proxy.BodyUntilClose
	case minor > 0 && h.Body == proxy.BodyUntilClose:
		h.Body = proxy.BodyChunked
	}
	h.Close = closing || h.Body == proxy.BodyUntilClose
	h.KeepAlive = minor == 0 && !h.Close
}

// defused is a copy of h whose strings can't end a line.
func defused(h *proxy.Head) *proxy.Head {
	safe := &proxy.Head{
		Method: defuse(h.Method), Authority: defuse(h.Authority), Path: defuse(h.Path), Query: defuse(h.Query),
		Status: h.Status, Reason: defuse(h.Reason), Minor: h.Minor, Body: h.Body, Length: h.Length,
		Close: h.Close, KeepAlive: h.KeepAlive, Upgrade: defuse(h.Upgrade), Expect: h.Expect, Trailers: h.Trailers,
	}
	for _, f := range h.Fields {
		safe.Add(defuse(f.Name), defuse(f.Value))
	}
	return safe
}

func defuse(s string) string {
	if !strings.ContainsAny(s, "\r\n\x00") {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if c == '\r' || c == '\n' || c == 0 {
			b[i] = '_'
		}
	}
	return string(b)
}

// phrase is the usual reason phrase (RFC 9110 section 15) of the statuses that a proxy answers by itself.
func phrase(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 200:
		return "OK"
	case 204:
		return "No Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 408:
		return "Request Timeout"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 417:
		return "Expectation Failed"
	case 426:
		return "Upgrade Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	}
	return ""
}
