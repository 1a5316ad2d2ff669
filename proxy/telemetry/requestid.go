package telemetry

import (
	"math/rand/v2"

	"github.com/signet-mesh/signet/proxy"
)

// RequestIDHeader is the field in which Envoy and Istio carry a request's id.
const RequestIDHeader = "x-request-id"

// EnsureRequestID returns the request's x-request-id: the caller's where there is one, as it is, else a new random UUID
// (version 4, RFC 9562 section 5.4) that is added to the head. The id is borrowed from the head. Trace context of
// others (traceparent, tracestate, b3, x-b3-*) is in the head's fields and goes on untouched.
func EnsureRequestID(h *proxy.Head) string {
	if id := h.Get(RequestIDHeader); id != "" {
		return id
	}
	var b [36]byte
	appendUUID(b[:0], rand.Uint64(), rand.Uint64())
	id := h.Intern(b[:])
	h.Set(RequestIDHeader, id)
	return id
}

// appendUUID formats a version 4 UUID from 128 random bits, of which six are overwritten.
func appendUUID(dst []byte, hi, lo uint64) []byte {
	const digits = "0123456789abcdef"
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 1<<63
	for i := range 32 {
		switch i {
		case 8, 12, 16, 20:
			dst = append(dst, '-')
		}
		w := hi
		if i >= 16 {
			w = lo
		}
		dst = append(dst, digits[w>>(60-4*(i%16))&0xf])
	}
	return dst
}
