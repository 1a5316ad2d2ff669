package judge

import (
	"unsafe"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// The details of a BadPath failure: what in the path can't be accepted, in any mode.
const (
	DetailNUL      = "path_normalization_failed{nul}"                   // a NUL, raw or as %00
	DetailControl  = "path_normalization_failed{control_character}"     // below 0x20 or 0x7F, raw or encoded
	DetailPercent  = "path_normalization_failed{malformed_percent}"     // '%' without two hexadecimal digits
	DetailRelative = "path_normalization_failed{missing_leading_slash}" // also an empty path
	DetailFragment = "path_normalization_failed{fragment}"              // a raw '#'
	DetailQuery    = "path_normalization_failed{query}"                 // a raw '?': the query isn't part of the path
	DetailRaw      = "path_normalization_failed{not_ascii}"             // a raw space or a raw byte above 0x7F

	// DetailAmbiguous is a path that, decoded, leads elsewhere if slashes are merged before ".." is resolved than after.
	DetailAmbiguous = "path_normalization_failed{ambiguous}"
)

// Scratch is the memory in which paths that are not clean are rewritten, and failures are reported. It belongs to one
// connection; what it hands out is valid until its next use. The zero value is ready.
type Scratch struct {
	canonical, decoded, merged []byte
	failure                    proxy.Failure
	shadows                    []authz.Shadow
	client                     []authz.HeaderEdit
	kept                       kept
}

func (s *Scratch) fail(c proxy.Code, detail string) *proxy.Failure {
	s.failure = proxy.Failure{Code: c, Detail: detail}
	return &s.failure
}

// Canonical reads a path (without query) in a mode of Istio's pathNormalization, and what is canonical once more fully
// decoded.
//
//   - NONE leaves it as it is.
//   - BASE is RFC 3986 section 6.2.2 as Envoy does it: percent-encoded unreserved characters are decoded, '\' is '/', dot
//     segments are resolved (never above the root). Other escapes stay as they are written, with their case.
//   - MERGE_SLASHES is BASE, then runs of '/' become one.
//   - DECODE_AND_MERGE_SLASHES first decodes %2F and %5C to '/', then does the same.
//
// Fully decoded is what a program makes of the canonical path that decodes and cleans it: each escape decoded once, '\'
// is '/', slashes merged, dot segments resolved. It may hold any byte but controls. If the order of the last two matters,
// as in /x%2F%2F..%2Fy, the path is ambiguous and a failure.
//
// Nothing is decoded twice, and what is canonical stays as it is. Path parameters (;x) belong to their segment: "..;" is
// an ordinary segment. Stricter than Envoy, in every mode: a path that is not a path of RFC 3986 is a failure, of code
// BadPath with one of the Details above.
//
// The results are the path itself where it is clean, which costs no allocation; else they are in the scratch.
func Canonical(path string, mode mesh.Normalization, s *Scratch) (canonical, decoded string, failure *proxy.Failure) {
	clean, detail := inspect(path)
	if detail != "" {
		return "", "", s.fail(proxy.BadPath, detail)
	}
	if clean {
		return path, path, nil
	}
	canonical = path
	if mode != mesh.NoNormalization {
		s.canonical = rewrite(s.canonical[:0], path, mode == mesh.DecodeAndMergeSlashes, mode != mesh.Base)
		canonical = reuse(s.canonical, path)
	}
	if !s.decode(canonical) {
		return "", "", s.fail(proxy.BadPath, DetailAmbiguous)
	}
	return canonical, reuse(s.decoded, canonical), nil
}

// decode leaves the fully decoded reading of a canonical path in s.decoded. It is false for an ambiguous path.
func (s *Scratch) decode(path string) bool {
	dst, slashes := s.decoded[:0], false
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			c, _ = escaped(path[i:])
			i += 2
		}
		if c == '\\' {
			c = '/'
		}
		slashes = slashes || c == '/' && len(dst) > 0 && dst[len(dst)-1] == '/'
		dst = append(dst, c)
	}
	if !slashes {
		s.decoded = resolveDots(dst)
		return true
	}
	s.merged = resolveDots(merge(append(s.merged[:0], dst...)))
	s.decoded = merge(resolveDots(dst))
	return string(s.merged) == string(s.decoded)
}

// reuse is the original where rewriting changed nothing, else the bytes as a string.
func reuse(b []byte, original string) string {
	if string(b) == original {
		return original
	}
	return unsafe.String(&b[0], len(b)) // never empty: a rewritten path begins with '/'
}

// class says what a byte means to inspect.
type class uint8

const (
	plain     class = iota
	slash           // '/'
	rewritten       // '.', '\', '%': may need rewriting, depending on what is around it
	refused         // what no path may hold
)

var classes = classify()

func classify() (c [256]class) {
	for i := range c {
		if i <= ' ' || i >= 0x7f {
			c[i] = refused
		}
	}
	c['/'] = slash
	c['.'], c['\\'], c['%'] = rewritten, rewritten, rewritten
	c['#'], c['?'] = refused, refused
	return c
}

// inspect judges a path, and reports whether every reading would leave it as it is. It errs on the side of no.
func inspect(path string) (clean bool, detail string) {
	if path == "" || path[0] != '/' {
		return false, DetailRelative
	}
	clean = true
	for i := 1; i < len(path); i++ {
		c := path[i]
		switch classes[c] {
		case plain:
		case slash:
			if path[i-1] == '/' {
				clean = false
			}
		case rewritten:
			switch {
			case c == '\\':
				clean = false
			case c == '%':
				if detail := inspectEscape(path[i:]); detail != "" {
					return false, detail
				}
				clean = false
			case path[i-1] == '/': // a segment that begins with a dot
				clean = clean && !dotSegment(path[i:])
			}
		default:
			return false, refusal(c)
		}
	}
	return clean, ""
}

// dotSegment reports whether "." or ".." and then the end or a separator stand at the beginning of rest.
func dotSegment(rest string) bool {
	n := 1
	if len(rest) > 1 && rest[1] == '.' {
		n = 2
	}
	return n == len(rest) || rest[n] == '/' || rest[n] == '\\' || rest[n] == '%'
}

func inspectEscape(s string) (detail string) {
	b, ok := escaped(s)
	switch {
	case !ok:
		return DetailPercent
	case b == 0:
		return DetailNUL
	case b < ' ' || b == 0x7f:
		return DetailControl
	}
	return ""
}

func refusal(c byte) string {
	switch {
	case c == 0:
		return DetailNUL
	case c < ' ' || c == 0x7f:
		return DetailControl
	case c == '#':
		return DetailFragment
	case c == '?':
		return DetailQuery
	}
	return DetailRaw
}

// escaped is the byte that the escape at the beginning of s stands for.
func escaped(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, ok1 := unhex(s[1])
	low, ok2 := unhex(s[2])
	return high<<4 | low, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case c-'0' <= 9:
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c-'0' <= 9 || c == '-' || c == '.' || c == '_' || c == '~'
}

// rewrite appends the canonical form of an inspected path to an empty dst.
func rewrite(dst []byte, path string, decodeSlashes, mergeSlashes bool) []byte {
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch c {
		case '\\':
			c = '/'
		case '%':
			b, _ := escaped(path[i:])
			switch {
			case unreserved(b):
				c = b
			case decodeSlashes && (b == '/' || b == '\\'):
				c = '/'
			default:
				dst = append(dst, path[i:i+3]...)
				i += 2
				continue
			}
			i += 2
		}
		dst = append(dst, c)
	}
	dst = resolveDots(dst)
	if mergeSlashes {
		dst = merge(dst)
	}
	return dst
}

// resolveDots removes dot segments in place (RFC 3986 section 5.2.4).
func resolveDots(b []byte) []byte {
	w := 0 // b[:w] is done; what follows at r begins with '/'
	for r := 0; r < len(b); {
		end := r + 1
		for end < len(b) && b[end] != '/' {
			end++
		}
		switch segment := b[r+1 : end]; {
		case string(segment) == ".":
		case string(segment) == "..":
			for w > 0 {
				w--
				if b[w] == '/' {
					break
				}
			}
		default:
			w += copy(b[w:], b[r:end])
			r = end
			continue
		}
		if end == len(b) { // a dot segment at the end leaves its '/'
			b[w] = '/'
			w++
		}
		r = end
	}
	return b[:w]
}

// merge makes runs of '/' one, in place.
func merge(b []byte) []byte {
	w := 0
	for r, c := range b {
		if c == '/' && r > 0 && b[w-1] == '/' {
			continue
		}
		b[w] = c
		w++
	}
	return b[:w]
}
