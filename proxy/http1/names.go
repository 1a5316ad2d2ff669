package http1

import "strings"

// kind says what a field name means to the codec.
type kind uint8

const (
	plain kind = iota // an end-to-end field: into Fields
	hop               // hop-by-hop: dropped
	host
	contentLength
	transferEncoding
	connection
	upgrade
	expect
	te
)

// classify tells the fields that Head keeps in members, or drops, from all others. name is lower case.
func classify(name string) kind {
	switch name {
	case "host":
		return host
	case "content-length":
		return contentLength
	case "transfer-encoding":
		return transferEncoding
	case "connection":
		return connection
	case "upgrade":
		return upgrade
	case "expect":
		return expect
	case "te":
		return te
	case "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "trailer", "http2-settings":
		return hop
	}
	return plain
}

// guarded starts the names that protected covers by prefix.
var guarded = [...]string{"x-forwarded-", "x-envoy-", "x-b3-", "x-istio-", "content-", "sec-"}

// protected tells names that a message can't have removed by naming them in Connection, that no trailer may carry, and that
// no request may spell with underscores: framing, routing, credentials, and what a proxy says of a request's origin.
func protected(name string) bool {
	switch name {
	case "host", "transfer-encoding", "authorization", "cookie", "set-cookie", "expect", "forwarded", "via", "x-real-ip",
		"x-request-id", "traceparent", "tracestate", "b3", "cache-control", "date", "location", "vary", "age", "expires",
		"www-authenticate", "authentication-info", "range", "max-forwards", "origin", "referer", "user-agent":
		return true
	}
	for _, prefix := range guarded {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// disguised reports whether a name with underscores is one that matters once they are read as dashes.
func disguised(name string) bool {
	var buf [64]byte
	if len(name) > len(buf) {
		name = name[:len(buf)]
	}
	for i := 0; i < len(name); i++ {
		buf[i] = name[i]
		if buf[i] == '_' {
			buf[i] = '-'
		}
	}
	dashed := str(buf[:len(name)])
	return classify(dashed) != plain || protected(dashed)
}
