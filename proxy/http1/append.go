package http1

import (
	"bytes"
	"strconv"

	"github.com/signet-mesh/signet/proxy"
)

// ChunkEnd follows the data of a chunk whose header was written by AppendChunkHeader.
const ChunkEnd = "\r\n"

// AppendRequest appends a request head made from h's members: request line in origin-form (authority-form for CONNECT), Host,
// Fields, framing, Connection. Always HTTP/1.1. Names in Fields that the members stand for, or that are hop-by-hop, are not
// written, so that nothing added to Fields can change the framing. A BodyNone of POST, PUT or PATCH says content-length: 0.
//
// Members that hold CR, LF or NUL (nothing parsed does) are written with '_' in their place.
func AppendRequest(dst []byte, h *proxy.Head) []byte {
	start, lines := len(dst), 3
	dst = append(dst, h.Method...)
	dst = append(dst, ' ')
	if h.Method == "CONNECT" {
		dst = append(dst, h.Authority...)
	} else {
		if h.Path == "" || h.Path[0] != '/' && h.Path != "*" {
			dst = append(dst, '/')
		}
		dst = append(dst, h.Path...)
		dst = append(dst, h.Query...)
	}
	dst = append(dst, " HTTP/1.1\r\nhost: "...)
	dst = append(dst, h.Authority...)
	dst = append(dst, '\r', '\n')
	dst, n := appendFields(dst, h.Fields)
	lines += n
	switch {
	case h.Method == "CONNECT":
	case h.Body == proxy.BodyLength:
		dst, lines = appendLength(dst, h.Length), lines+1
	case h.Body != proxy.BodyNone:
		dst, lines = append(dst, "transfer-encoding: chunked\r\n"...), lines+1
	case h.Method == "POST" || h.Method == "PUT" || h.Method == "PATCH":
		dst, lines = appendLength(dst, 0), lines+1
	}
	if h.Expect {
		dst, lines = append(dst, "expect: 100-continue\r\n"...), lines+1
	}
	if h.Trailers {
		dst, lines = append(dst, "te: trailers\r\n"...), lines+1
	}
	dst, n = appendConnection(dst, h, h.Close)
	dst = append(dst, '\r', '\n')
	if !sealed(dst[start:], lines+n) {
		return AppendRequest(dst[:start], defused(h))
	}
	return dst
}

// AppendResponse appends a response head made from h's members; like AppendRequest, always HTTP/1.1. Framing:
//
//   - 1xx and 204: none.
//   - BodyLength: Content-Length. BodyChunked: Transfer-Encoding. BodyUntilClose: neither, and Connection: close.
//   - BodyNone: Content-Length of Length, where it is not negative: 0 for an empty response, what GET would have had for
//     HEAD. On 304 only where it is positive. For CONNECT's 2xx Length must be -1.
//
// Connection: close is written for Close, keep-alive for KeepAlive. Date is not added. An empty Reason is written as the
// usual phrase where there is one.
func AppendResponse(dst []byte, h *proxy.Head) []byte {
	start, lines := len(dst), 2
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(h.Status), 10)
	dst = append(dst, ' ')
	if h.Reason != "" {
		dst = append(dst, h.Reason...)
	} else {
		dst = append(dst, phrase(h.Status)...)
	}
	dst = append(dst, '\r', '\n')
	dst, n := appendFields(dst, h.Fields)
	lines += n
	interim, closing := h.Status < 200, h.Close
	switch {
	case interim || h.Status == 204:
	case h.Body == proxy.BodyUntilClose:
		closing = true
	case h.Body == proxy.BodyChunked && h.Status != 304:
		dst, lines = append(dst, "transfer-encoding: chunked\r\n"...), lines+1
	case h.Status == 304 && h.Length <= 0:
	case h.Length >= 0:
		dst, lines = appendLength(dst, h.Length), lines+1
	}
	dst, n = appendConnection(dst, h, closing && !interim)
	dst = append(dst, '\r', '\n')
	if !sealed(dst[start:], lines+n) {
		return AppendResponse(dst[:start], defused(h))
	}
	return dst
}

// appendFields appends the end-to-end fields and counts them.
func appendFields(dst []byte, fields []proxy.Field) ([]byte, int) {
	n := 0
	for i := range fields {
		f := &fields[i]
		if classify(f.Name) != plain || f.Name == "" {
			continue
		}
		dst = append(dst, f.Name...)
		dst = append(dst, ':', ' ')
		dst = append(dst, f.Value...)
		dst = append(dst, '\r', '\n')
		n++
	}
	return dst, n
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "content-length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, '\r', '\n')
}

// appendConnection appends Upgrade and Connection, and counts the lines.
func appendConnection(dst []byte, h *proxy.Head, closing bool) ([]byte, int) {
	lines := 0
	if h.Upgrade != "" {
		dst = append(dst, "upgrade: "...)
		dst = append(dst, h.Upgrade...)
		dst = append(dst, '\r', '\n')
		lines++
	}
	const name, comma = "connection: ", ", "
	before := name
	if closing {
		dst, before = append(append(dst, before...), "close"...), comma
	} else if h.KeepAlive && h.Status >= 200 {
		dst, before = append(append(dst, before...), "keep-alive"...), comma
	}
	if h.Upgrade != "" {
		dst, before = append(append(dst, before...), "upgrade"...), comma
	}
	if h.Trailers {
		dst, before = append(append(dst, before...), "te"...), comma
	}
	if before == name {
		return dst, lines
	}
	return append(dst, '\r', '\n'), lines + 1
}

// sealed reports whether a head has exactly its lines: no member, wherever it came from, may add one of its own (response
// splitting). If one does, the head is written again from a defused copy.
func sealed(head []byte, lines int) bool {
	return bytes.Count(head, []byte{'\n'}) == lines && bytes.Count(head, []byte{'\r'}) == lines && bytes.IndexByte(head, 0) < 0
}

// AppendChunk appends data as one chunk; nothing for no data, since an empty chunk would end the body.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = AppendChunkHeader(dst, len(data))
	dst = append(dst, data...)
	return append(dst, ChunkEnd...)
}

// AppendChunkHeader appends the line before the n bytes of a chunk's data; nothing if n is not positive. After the data the
// caller writes ChunkEnd.
func AppendChunkHeader(dst []byte, n int) []byte {
	if n <= 0 {
		return dst
	}
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, '\r', '\n')
}

// AppendLastChunk ends a chunked body, with trailers if there are any. Those that no trailer may carry are not written.
func AppendLastChunk(dst []byte, trailers []proxy.Field) []byte {
	dst = append(dst, "0\r\n"...)
	for _, f := range trailers {
		if f.Name == "" || classify(f.Name) != plain || protected(f.Name) {
			continue
		}
		dst = append(dst, defuse(f.Name)...)
		dst = append(dst, ':', ' ')
		dst = append(dst, defuse(f.Value)...)
		dst = append(dst, '\r', '\n')
	}
	return append(dst, '\r', '\n')
}
