package route

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// Rewrite changes a request before it is forwarded (Istio's HTTPRewrite). The zero value changes nothing.
type Rewrite struct {
	// URI replaces the matched prefix; the whole path where the match was exact or by expression; the leading "/" where
	// the match named no URI. "" leaves the path as it is. The query always stays.
	URI string
	// Authority replaces the request's, "" leaves it.
	Authority string

	pattern  *regexp.Regexp
	template string // in Go's syntax
}

// NewRegexRewrite builds a rewrite (uriRegexRewrite) that replaces every match of the RE2 expression in the path by
// substitution, in which \1 to \9 are groups, \0 is the whole match and \\ is a backslash.
func NewRegexRewrite(expr, substitution, authority string) (*Rewrite, error) {
	if len(expr) > MaxPatternBytes {
		return nil, fmt.Errorf("parsing regular expression: %d bytes are more than %d", len(expr), MaxPatternBytes)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("parsing regular expression %q: %w", expr, err)
	}
	if err := CheckPath(substitution); err != nil {
		return nil, err
	}
	var b strings.Builder
	for i := 0; i < len(substitution); i++ {
		c := substitution[i]
		switch {
		case c == '$':
			b.WriteString("$$")
		case c != '\\':
			b.WriteByte(c)
		case i+1 == len(substitution):
			return nil, fmt.Errorf("parsing rewrite %q: it ends in a lone backslash", substitution)
		default:
			i++
			d := substitution[i]
			switch {
			case d == '\\':
				b.WriteByte('\\')
			case d < '0' || d > '9':
				return nil, fmt.Errorf("parsing rewrite %q: \\%c is neither a group nor a backslash", substitution, d)
			case int(d-'0') > re.NumSubexp():
				return nil, fmt.Errorf("parsing rewrite %q: \\%c: the expression has %d groups", substitution, d, re.NumSubexp())
			default:
				b.WriteString("${" + string(d) + "}")
			}
		}
	}
	return &Rewrite{Authority: authority, pattern: re, template: b.String()}, nil
}

// CheckPath refuses what can't stand in the path of a request line: controls, space, '?' and '#'.
func CheckPath(p string) error {
	for i := range len(p) {
		if c := p[i]; c <= ' ' || c == 0x7f || c == '?' || c == '#' {
			return fmt.Errorf("path %q may not contain %q", p, c)
		}
	}
	return nil
}

// ApplyRewrite changes path and authority of a request that matched this route.
func (r *Route) ApplyRewrite(h *proxy.Head) {
	rw := r.Rewrite
	if rw == nil {
		return
	}
	if rw.Authority != "" {
		h.Authority = rw.Authority
	}
	if !strings.HasPrefix(h.Path, "/") { // OPTIONS *, CONNECT
		return
	}
	switch {
	case rw.pattern != nil:
		h.Path = rooted(rw.pattern.ReplaceAllString(h.Path, rw.template))
	case rw.URI != "":
		h.Path = rooted(rw.URI + r.Condition.rest(h.Path))
	}
}

// rest is what is left of the path behind the part that the URI condition matched.
func (c *Condition) rest(path string) string {
	switch c.URI.kind {
	case prefix:
		if len(path) >= len(c.URI.value) {
			return path[len(c.URI.value):]
		}
		return ""
	case exact, expression:
		return ""
	}
	return path[1:]
}

func rooted(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return "/" + p
}

// ByPrefix reports whether the condition has a prefix that a rewrite or redirect can replace: a match by URI prefix, or
// none on the URI, which counts as the prefix "/".
func (c *Condition) ByPrefix() bool { return c.URI.kind == prefix || c.URI.kind == anyText }
