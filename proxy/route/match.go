package route

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// MaxPatternBytes is the longest regular expression that is taken.
const MaxPatternBytes = 4096

// kind is how a Text is compared.
type kind uint8

const (
	anyText kind = iota
	present
	exact
	prefix
	expression
)

// Text is a condition on one piece of text (Istio's StringMatch). The zero value asks for nothing.
type Text struct {
	kind    kind
	value   string
	pattern *regexp.Regexp
}

// Exact matches the value itself, case-sensitively.
func Exact(v string) Text { return Text{kind: exact, value: v} }

// Prefix matches what begins with v, case-sensitively, without regard to segments.
func Prefix(v string) Text { return Text{kind: prefix, value: v} }

// Present matches whatever is there at all.
func Present() Text { return Text{kind: present} }

// Regex matches when the whole text matches the RE2 expression, as Istio and Envoy mean it.
func Regex(expr string) (Text, error) {
	if len(expr) > MaxPatternBytes {
		return Text{}, fmt.Errorf("parsing regular expression: %d bytes are more than %d", len(expr), MaxPatternBytes)
	}
	if _, err := regexp.Compile(expr); err != nil { // as it stands: "a)(b" must not become valid in the group below
		return Text{}, fmt.Errorf("parsing regular expression %q: %w", expr, err)
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return Text{}, fmt.Errorf("parsing regular expression %q: %w", expr, err)
	}
	return Text{kind: expression, value: expr, pattern: re}, nil
}

// IsZero reports whether the condition asks for nothing.
func (t Text) IsZero() bool { return t.kind == anyText }

// String shows the condition, for explanations and goldens.
func (t Text) String() string {
	switch t.kind {
	case anyText:
		return "any"
	case present:
		return "present"
	case exact:
		return "exact " + strconv.Quote(t.value)
	case prefix:
		return "prefix " + strconv.Quote(t.value)
	}
	return "regex " + strconv.Quote(t.value)
}

// Matches judges one text that is there.
func (t Text) Matches(s string) bool {
	switch t.kind {
	case exact:
		return s == t.value
	case prefix:
		return strings.HasPrefix(s, t.value)
	case expression:
		return t.pattern.MatchString(s)
	}
	return true
}

// matchesFold is Matches without regard to ASCII case; an expression keeps its case (Istio's ignoreUriCase).
func (t Text) matchesFold(s string) bool {
	switch t.kind {
	case exact:
		return len(s) == len(t.value) && equalFold(s, t.value)
	case prefix:
		return len(s) >= len(t.value) && equalFold(s[:len(t.value)], t.value)
	}
	return t.Matches(s)
}

func equalFold(a, b string) bool {
	for i := range len(a) {
		if lowerASCII(a[i]) != lowerASCII(b[i]) {
			return false
		}
	}
	return true
}

// Named is a condition on a header field (lower-case name) or a query parameter.
type Named struct {
	Name string
	Text Text
}

// Condition is one HTTPMatchRequest, all of which must hold. The zero value matches every request.
type Condition struct {
	URI           Text
	IgnoreURICase bool // exact and prefix only
	// Scheme is compared with that of an absolute-form target, "http" where the request names none.
	Scheme, Method, Authority Text
	Headers, WithoutHeaders   []Named
	// QueryParams are compared with the first value of the parameter, undecoded, as Envoy does.
	QueryParams []Named
}

// Matches judges a request head whose path is canonical.
func (c *Condition) Matches(h *proxy.Head) bool {
	if !c.matchesURI(h.Path) || !c.Method.Matches(h.Method) || !c.Authority.Matches(h.Authority) {
		return false
	}
	if !c.Scheme.IsZero() && !c.Scheme.Matches(schemeOf(h)) {
		return false
	}
	for i := range c.Headers {
		if !matchesField(h, &c.Headers[i]) {
			return false
		}
	}
	for i := range c.WithoutHeaders {
		if matchesField(h, &c.WithoutHeaders[i]) {
			return false
		}
	}
	for i := range c.QueryParams {
		v, ok := queryParam(h.Query, c.QueryParams[i].Name)
		if !ok || !c.QueryParams[i].Text.Matches(v) {
			return false
		}
	}
	return true
}

func (c *Condition) matchesURI(path string) bool {
	if c.IgnoreURICase {
		return c.URI.matchesFold(path)
	}
	return c.URI.Matches(path)
}

func schemeOf(h *proxy.Head) string {
	if h.Scheme == "" {
		return "http"
	}
	return h.Scheme
}

// matchesField compares a header field; one that comes several times is compared as its values joined by commas, as Envoy
// does. What is not there never matches.
func matchesField(h *proxy.Head, n *Named) bool {
	if v, ok, special := memberField(h, n.Name); special {
		return ok && n.Text.Matches(v)
	}
	first, next, ok := h.HeaderValue(n.Name, 0)
	if !ok {
		return false
	}
	if _, _, more := h.HeaderValue(n.Name, next); !more {
		return n.Text.Matches(first)
	}
	switch n.Text.kind {
	case exact, prefix:
		return consumeJoined(h, n, first, next)
	case expression:
		return n.Text.Matches(joined(h, n.Name))
	}
	return true
}

// consumeJoined compares exact and prefix with the joined values without building them.
func consumeJoined(h *proxy.Head, n *Named, v string, next int) bool {
	want := n.Text.value
	for {
		if n.Text.kind == prefix && len(want) <= len(v) {
			return strings.HasPrefix(v, want)
		}
		if !strings.HasPrefix(want, v) {
			return false
		}
		want = want[len(v):]
		var ok bool
		if v, next, ok = h.HeaderValue(n.Name, next); !ok {
			return want == ""
		}
		if want == "" {
			return n.Text.kind == prefix
		}
		if want[0] != ',' {
			return false
		}
		want = want[1:]
	}
}

func joined(h *proxy.Head, name string) string {
	var b strings.Builder
	for at := 0; ; {
		v, next, ok := h.HeaderValue(name, at)
		if !ok {
			return b.String()
		}
		if at > 0 {
			b.WriteByte(',')
		}
		b.WriteString(v)
		at = next
	}
}

// memberField gives the fields that a Head keeps as members. special is false for an ordinary field.
func memberField(h *proxy.Head, name string) (v string, ok, special bool) {
	switch name {
	case "host", ":authority":
		return h.Authority, h.Authority != "", true
	case ":method":
		return h.Method, true, true
	case ":scheme":
		return schemeOf(h), true, true
	case "upgrade":
		return h.Upgrade, h.Upgrade != "", true
	case "expect":
		return "100-continue", h.Expect, true
	case "te":
		return "trailers", h.Trailers, true
	case "content-length":
		if h.Body != proxy.BodyLength {
			return "", false, true
		}
		return strconv.FormatInt(h.Length, 10), true, true
	}
	return "", false, false
}

// CheckMatchName says whether a header of that name can be compared: lower case, and not one that is void before the
// routing step (connection-level fields, :path).
func CheckMatchName(name string) error {
	switch name {
	case "", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer",
		"proxy-authorization", "proxy-authenticate":
		return fmt.Errorf("header %q can't be matched: it ends at this hop", name)
	case ":authority", ":method", ":scheme":
		return nil
	case "uri", "scheme", "method", "authority":
		return fmt.Errorf("header %q can't be matched: use the match's own field %s", name, name)
	}
	if !validName(name) {
		return fmt.Errorf("header %q can't be matched: it is not a lower-case header name", name)
	}
	return nil
}

// queryParam is the first value of a parameter of "?a=b&c", undecoded.
func queryParam(query, name string) (string, bool) {
	query = strings.TrimPrefix(query, "?")
	for query != "" {
		pair := query
		if i := strings.IndexByte(query, '&'); i >= 0 {
			pair, query = query[:i], query[i+1:]
		} else {
			query = ""
		}
		key, value := pair, ""
		if i := strings.IndexByte(pair, '='); i >= 0 {
			key, value = pair[:i], pair[i+1:]
		}
		if key == name && pair != "" {
			return value, true
		}
	}
	return "", false
}
