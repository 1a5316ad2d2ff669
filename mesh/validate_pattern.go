package mesh

import (
	"errors"
	"fmt"
	slashpath "path"
	"strings"

	"github.com/signet-mesh/signet/identity"
)

// literal is what a pattern of Istio's string match demands, and where it may go on.
type literal struct {
	text       string
	begin, end bool // whether text is where the value begins and ends: false where there is a *
}

func readLiteral(v string) literal {
	l := literal{text: strings.TrimPrefix(v, "*")}
	l.begin = l.text == v
	if l.begin {
		l.text = strings.TrimSuffix(v, "*")
		l.end = l.text == v
	} else {
		l.end = v != "*"
	}
	return l
}

// whole reports whether the pattern is exact.
func (l literal) whole() bool { return l.begin && l.end }

// write is the pattern with another literal.
func (l literal) write(text string) string {
	if !l.begin {
		return "*" + text
	}
	if !l.end {
		return text + "*"
	}
	return text
}

// live refuses a pattern that dead gives a reason why it can't match anything, or what pattern refuses.
func (j *judge) live(field, v string, dead func(literal) string) {
	n := len(j.problems)
	if j.pattern(field, v); len(j.problems) > n || v == "*" {
		return
	}
	if why := dead(readLiteral(v)); why != "" {
		j.refuse(field, "%q would never match: %s", clip(v), why)
	}
}

// deadPath says why no path that is judged can match: those are without query, percent-encoded, and have no encoded
// unreserved characters, no empty segments and no dot segments.
func deadPath(l literal) string {
	if l.begin && (l.text == "" || l.text[0] != '/') {
		return fmt.Sprintf("a path begins with /: write %q", clip(l.write("/"+l.text)))
	}
	var written strings.Builder
	why := ""
	for i := 0; i < len(l.text); i++ {
		switch c := l.text[i]; {
		case c == '?' || c == '#':
			return fmt.Sprintf("a path ends before %q: the query and the fragment are not judged", c)
		case c < ' ' || c == 0x7f:
			return "a path with a control character is answered 400"
		case c == ' ' || c > 0x7f:
			why = "spaces and bytes beyond ASCII are percent-encoded"
			fmt.Fprintf(&written, "%%%02X", c)
		case c == '\\':
			why = `\ is read as /`
			written.WriteByte('/')
		case c == '%':
			b, ok := unescape(l.text[i:])
			switch {
			case !ok:
				return "a % stands before two hexadecimal digits, here too; for the character itself write %25"
			case b < ' ' || b == 0x7f:
				return "a path with an encoded control character is answered 400"
			case unreserved(b):
				why = "characters that need no encoding are decoded before a path is judged"
				written.WriteByte(b)
			default:
				written.WriteString(l.text[i : i+3])
			}
			i += 2
		default:
			written.WriteByte(c)
		}
	}
	if why != "" {
		return fmt.Sprintf("%s: write %q", why, clip(l.write(written.String())))
	}
	return deadSegments(l)
}

// deadSegments says which segments no path has: a literal's first and last segment may be parts of one.
func deadSegments(l literal) string {
	if strings.Contains(l.text, "//") {
		merged := l.text
		for strings.Contains(merged, "//") {
			merged = strings.ReplaceAll(merged, "//", "/")
		}
		return fmt.Sprintf("slashes are merged before a path is judged: write %q", clip(l.write(merged)))
	}
	segments := strings.Split(l.text, "/")
	for i, s := range segments {
		if (s == "." || s == "..") && i > 0 && (l.end || i < len(segments)-1) {
			if !l.whole() {
				return fmt.Sprintf("the segment %q is resolved before a path is judged: leave it out", s)
			}
			clean := slashpath.Clean(l.text)
			if clean != "/" && (i == len(segments)-1 || segments[len(segments)-1] == "") {
				clean += "/"
			}
			return fmt.Sprintf("dot segments are resolved before a path is judged: write %q", clip(clean))
		}
	}
	return ""
}

// unescape is the byte that the escape at the beginning of s stands for.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	const digits = "0123456789abcdef"
	high, low := strings.IndexByte(digits, lowerHex(s[1])), strings.IndexByte(digits, lowerHex(s[2]))
	return byte(high<<4 | low), high >= 0 && low >= 0
}

func lowerHex(c byte) byte {
	if c >= 'A' && c <= 'F' {
		return c + 'a' - 'A'
	}
	return c
}

// unreserved is RFC 3986 section 2.3.
func unreserved(c byte) bool { return alphanumeric(c) || strings.IndexByte("-._~", c) >= 0 }

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// deadMethod says why no method can match: case counts, and a method is a token.
func deadMethod(l literal) string {
	for _, c := range []byte(l.text) {
		if !alphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return fmt.Sprintf("a method is one word without %q", c)
		}
	}
	switch upper := strings.ToUpper(l.text); upper {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE":
		if l.whole() && upper != l.text {
			return fmt.Sprintf("methods are compared with their case: write %q", upper)
		}
	}
	return ""
}

// deadPrincipal says why no SPIFFE ID can match.
func deadPrincipal(l literal) string {
	td, rest, slash := strings.Cut(l.text, "/")
	if l.whole() {
		if !slash {
			return "it names no workload: write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or TRUST-DOMAIN/* for all of a trust domain"
		}
		if _, err := identity.Parse("spiffe://" + l.text); err != nil {
			return fmt.Sprintf("it is no SPIFFE ID (%v): write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, the trust domain in lower case", errors.Unwrap(err))
		}
		return ""
	}
	if l.begin {
		if why := deadTrustDomain(literal{td, true, slash}); why != "" {
			return why
		}
		l.text = "/" + rest
		if !slash {
			return ""
		}
	}
	for _, c := range []byte(l.text) {
		if !alphanumeric(c) && strings.IndexByte("-._/", c) < 0 {
			return fmt.Sprintf("no SPIFFE ID holds %q: want letters, digits, -, . and _ between slashes", c)
		}
	}
	if strings.Contains(l.text, "//") || l.end && strings.HasSuffix(l.text, "/") {
		return "no SPIFFE ID has an empty segment"
	}
	if deadSegments(l) != "" {
		return "no SPIFFE ID has a dot segment"
	}
	return ""
}

// deadRequestPrincipal says why no token's ISSUER/SUBJECT can match.
func deadRequestPrincipal(l literal) string {
	if l.whole() && !strings.Contains(l.text, "/") {
		return "a request principal is ISSUER/SUBJECT, as in https://issuer.example/user"
	}
	return ""
}

// deadTrustDomain says why no name of a trust domain can match.
func deadTrustDomain(l literal) string {
	if l.text == "" && l.whole() {
		return "a trust domain has a name"
	}
	for _, c := range []byte(l.text) {
		if !alphanumeric(c) && strings.IndexByte("-._", c) < 0 || c >= 'A' && c <= 'Z' {
			return fmt.Sprintf("no trust domain holds %q: want lower-case letters, digits, -, . and _", c)
		}
	}
	return ""
}

// deadNamespace says why no name of a namespace can match.
func deadNamespace(l literal) string {
	if l.whole() {
		if err := checkLabel(l.text); err != nil {
			return err.Error()
		}
		return ""
	}
	for _, c := range []byte(l.text) {
		if !alphanumeric(c) && c != '-' || c >= 'A' && c <= 'Z' {
			return fmt.Sprintf("no namespace holds %q: want lower-case letters, digits and hyphens", c)
		}
	}
	return ""
}

// deadHost says why no authority of a request can match.
func deadHost(l literal) string {
	text := l.text
	if _, rest, ok := strings.Cut(text, "://"); ok && l.begin {
		host, _, _ := strings.Cut(rest, "/")
		return fmt.Sprintf("a host has no scheme: write %q", clip(l.write(host)))
	}
	if host, _, ok := strings.Cut(text, "/"); ok {
		return fmt.Sprintf("a host has no path: write %q and put the path into paths", clip(l.write(host)))
	}
	for _, c := range []byte(text) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?@\\^`{|}", c) >= 0 {
			return fmt.Sprintf("no host holds %q", c)
		}
	}
	return ""
}
