// Package proxy holds the words of the corridor: the head of a message, the failures a step can return and the one table
// that turns them into an answer, and the record that is written exactly once for each exchange.
package proxy

import (
	"unsafe"
)

// Body says how a message body is framed.
type Body uint8

// The framings of RFC 9112 section 6.
const (
	BodyNone       Body = iota // no body
	BodyLength                 // Content-Length; Head.Length bytes
	BodyChunked                // Transfer-Encoding: chunked
	BodyUntilClose             // a response that ends with the connection
)

// Field is one header or trailer field. Name is lower case. Both are borrowed from the head's arena.
type Field struct{ Name, Value string }

// Head is the head of one request or response, free of its framing: hop-by-hop fields (Connection and what it names,
// Keep-Alive, Proxy-Connection, Proxy-Authenticate, Proxy-Authorization, TE, Trailer, Transfer-Encoding, Upgrade), Host, Content-Length and Expect are not in Fields but
// in the members that they mean. A Head is written again from its members, never copied raw.
//
// A Head belongs to one connection and is reused: its strings are valid until Reset. Whoever keeps one clones it.
type Head struct {
	// Method, Target and what was read of it: request heads only.
	Method string
	Target string // as received
	Scheme string // of an absolute-form target, else ""
	// Authority is the Host field, or the authority of an absolute-form or authority-form (CONNECT) target, which wins.
	Authority string
	Path      string // without query; "*" for OPTIONS *, "" for CONNECT
	Query     string // with its leading '?', or ""

	// Status and Reason: response heads only.
	Status int
	Reason string

	// Minor is the x of HTTP/1.x.
	Minor  int
	Fields []Field

	Body   Body
	Length int64 // of BodyLength; -1 when a response to HEAD (or a 304) has none
	// Close is true when the sender will not use the connection again (Connection: close, or HTTP/1.0 without keep-alive).
	Close bool
	// Upgrade is the value of Upgrade when Connection names it, else "".
	Upgrade string
	// Expect is true for Expect: 100-continue.
	Expect bool
	// Trailers is true when TE names trailers.
	Trailers bool
	// KeepAlive makes a response say "connection: keep-alive", which a client of HTTP/1.0 needs to go on. Responses only,
	// never set by parsing.
	KeepAlive bool

	arena   []byte
	scanned int
}

// keptArena is the most memory in bytes that a head keeps for the next message.
const keptArena = 16 << 10

// Reset empties the head and keeps its memory, up to 16 KiB of it. Every string it handed out is void.
func (h *Head) Reset() {
	arena := h.arena[:0]
	if cap(arena) > keptArena {
		arena = nil
	}
	*h = Head{Fields: h.Fields[:0], arena: arena}
}

// Scanned is where the search for the end of an incomplete head goes on; 0 after Reset. It belongs to the codec.
func (h *Head) Scanned() int { return h.scanned }

// SetScanned remembers for the codec how far an incomplete head has been searched for its end.
func (h *Head) SetScanned(n int) { h.scanned = n }

// Copy copies b into the head's arena, where the caller may still write to it until it hands out strings of it. Valid until Reset.
func (h *Head) Copy(b []byte) []byte {
	n := len(h.arena)
	h.arena = append(h.arena, b...)
	return h.arena[n:len(h.arena):len(h.arena)]
}

// Intern copies b into the head's arena and returns it as a string that is valid until Reset.
func (h *Head) Intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	n := len(h.arena)
	h.arena = append(h.arena, b...)
	// Sound because bytes of the arena below its length are never written again before Reset, and a grown arena leaves the
	// old array to the strings that point into it.
	return unsafe.String(&h.arena[n], len(b))
}

// HeaderValue implements authz.Headers.
func (h *Head) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i < len(h.Fields); i++ {
		if h.Fields[i].Name == name {
			return h.Fields[i].Value, i + 1, true
		}
	}
	return "", len(h.Fields), false
}

// EachField calls f for each field in order; names are lower case. It is what authorities need that look at all of them.
func (h *Head) EachField(f func(name, value string)) {
	for i := range h.Fields {
		f(h.Fields[i].Name, h.Fields[i].Value)
	}
}

// Get is the first value of the field of that lower-case name, or "".
func (h *Head) Get(name string) string {
	v, _, _ := h.HeaderValue(name, 0)
	return v
}

// Del removes every field of that lower-case name.
func (h *Head) Del(name string) {
	out := h.Fields[:0]
	for _, f := range h.Fields {
		if f.Name != name {
			out = append(out, f)
		}
	}
	h.Fields = out
}

// Add appends a field; name must be lower case, and both strings must outlive the head's use.
func (h *Head) Add(name, value string) { h.Fields = append(h.Fields, Field{name, value}) }

// Set replaces every field of that lower-case name by one.
func (h *Head) Set(name, value string) {
	h.Del(name)
	h.Add(name, value)
}
