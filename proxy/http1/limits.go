// Package http1 is the HTTP/1.1 codec of the corridor. It knows nothing of I/O: bytes in, heads and body pieces out; bytes
// out are appended. It reads an accept-list of RFC 9110 and RFC 9112 and refuses on doubt, and what it writes is made from
// the members of a proxy.Head, never from the bytes received, so that nothing it did not understand passes on.
//
// Where the RFCs leave a choice:
//
//   - One empty line is skipped before a request, none before a response.
//   - HTTP/1.0 and HTTP/1.1 only. The target is origin-form, absolute-form of scheme http, authority-form (CONNECT, port
//     required) or "*" (OPTIONS). Visible ASCII save '#'; percent-escapes and dot segments are the canonicaliser's to judge.
//   - A host is letters, digits, '-', '.', '_' or an IPv6 address in brackets; a port has no leading zero and is not 0.
//   - Content-Length at most once and as digits only, Transfer-Encoding at most once and exactly "chunked", never both.
//   - A field that Connection names is dropped. A name that end-to-end security depends on (Host, Content-*, Authorization,
//     Cookie, X-Forwarded-*, ...; see protected) can't be dropped that way: such a message is refused.
//   - A request field that is such a name but for '_' in place of '-' is refused too: programs behind CGI-like interfaces
//     can't tell the two apart.
//   - Upgrade counts only where Connection names it, in HTTP/1.1, on a request without a body; h2c never.
//   - Trailers: Content-Length, Transfer-Encoding and Host are refused, other protected or hop-by-hop names dropped.
//
// Nothing here is safe for concurrent use on the same Head or Decoder; nothing here is shared between two of them.
package http1

// Limits bounds what is read. A nil *Limits, and a zero member, mean the default.
type Limits struct {
	// HeadBytes is the most a head may take, from its first byte to its empty line; default 64 KiB. Beyond it: HeadTooLarge.
	HeadBytes int
	// Fields is the most field lines a head, or trailers a body may have; default 100. Beyond it: HeadTooLarge.
	Fields int
	// TargetBytes is the longest request target; default 8 KiB. Beyond it: TargetTooLong.
	TargetBytes int
	// ChunkLine is the longest chunk-size line with its extensions, without CRLF; default 256 bytes. Beyond it: BadRequest.
	ChunkLine int
	// TrailerBytes is the most a trailer section may take; default 8 KiB. Beyond it: HeadTooLarge.
	TrailerBytes int
}

// The defaults, in bytes and fields. See Limits.
const (
	DefaultHeadBytes    = 64 << 10
	DefaultFields       = 100
	DefaultTargetBytes  = 8 << 10
	DefaultChunkLine    = 256
	DefaultTrailerBytes = 8 << 10
)

// Limits that are not for configuration: nothing real comes near them.
const (
	maxMethod    = 64       // bytes of a method
	maxAuthority = 260      // bytes of host and port: a DNS name (253), its root dot, ":65535"
	maxNamed     = 16       // field names that Connection may list
	maxExcess    = 16 << 10 // bytes by which a body's chunk extensions may exceed its data
)

func (l *Limits) headBytes() int {
	if l == nil || l.HeadBytes <= 0 {
		return DefaultHeadBytes
	}
	return l.HeadBytes
}

func (l *Limits) fields() int {
	if l == nil || l.Fields <= 0 {
		return DefaultFields
	}
	return l.Fields
}

func (l *Limits) targetBytes() int {
	if l == nil || l.TargetBytes <= 0 {
		return DefaultTargetBytes
	}
	return l.TargetBytes
}

func (l *Limits) chunkLine() int {
	if l == nil || l.ChunkLine <= 0 {
		return DefaultChunkLine
	}
	return l.ChunkLine
}

func (l *Limits) trailerBytes() int {
	if l == nil || l.TrailerBytes <= 0 {
		return DefaultTrailerBytes
	}
	return l.TrailerBytes
}
