package rego

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// FieldLister is implemented by an authz.Headers that can name its fields. A policy that reads headers by a variable or
// as a whole needs it; without it such a request is denied.
type FieldLister interface {
	// EachField calls f for each field in order, its name in lower case.
	EachField(f func(name, value string))
}

// badRequest is a request whose body or headers cannot be read as the policy needs: it is answered 400.
type badRequest struct{ cause error }

func (b *badRequest) Error() string { return "building the input: " + b.cause.Error() }
func (b *badRequest) Unwrap() error { return b.cause }

// tokenMetadata is the namespace under which Istio's Envoy shows a verified token to ext_authz.
const tokenMetadata = "envoy.filters.http.jwt_authn"

// build makes the input of one reading of one request. Strings are copied: OPA's caches may keep what they are given.
type build struct {
	c       *authz.Connection
	r       *authz.Request
	decoded bool
	err     error
	stack   [][2]*ast.Term
}

// buildInput makes what a policy reads of the input. The request is nil for a TCP connection.
func buildInput(n *reads, c *authz.Connection, r *authz.Request, decoded bool) (*ast.Term, error) {
	b := &build{c: c, r: r, decoded: decoded, stack: make([][2]*ast.Term, 0, 24)}
	o := b.object()
	if n.has("attributes") {
		o.put("attributes", b.attributes(n.at("attributes")))
	}
	if n.has("source_principal") {
		o.text("source_principal", principal(c))
	}
	if n.has("version") {
		v := b.object()
		v.text("ext_authz", "v3")
		v.text("encoding", "protojson")
		o.put("version", v.term())
	}
	if r != nil {
		b.parsed(&o, n)
	}
	return o.term(), b.err
}

// parsed are the additions of opa-envoy-plugin, and the token.
func (b *build) parsed(o *object, n *reads) {
	if n.has("parsed_path") {
		o.put("parsed_path", pathArray(strings.Clone(flat(b.r, b.decoded))))
	}
	if n.has("parsed_query") {
		q := b.object()
		// Malformed parameters are left out, as net/url's URL.Query does for opa-envoy-plugin.
		values, _ := url.ParseQuery(strings.TrimPrefix(strings.Clone(b.r.Query), "?"))
		for name, vs := range values {
			q.put(name, array(vs))
		}
		o.put("parsed_query", q.term())
	}
	if n.has("parsed_body") || n.has("truncated_body") {
		body, truncated, err := parseBody(b.r)
		if err != nil {
			b.err = &badRequest{err}
		}
		o.put("parsed_body", ast.NewTerm(body))
		o.put("truncated_body", ast.BooleanTerm(truncated))
	}
	if t := b.r.Token; t != nil && n.has("token") {
		k := n.at("token")
		token := b.object()
		token.text("issuer", t.Issuer)
		token.text("subject", t.Subject)
		if k.has("principal") {
			token.text("principal", t.Principal())
		}
		if k.has("audiences") {
			token.put("audiences", array(t.Audiences))
		}
		if k.has("claims") {
			token.put("claims", ast.NewTerm(b.prune(k.at("claims"), t.Claims)))
		}
		o.put("token", token.term())
	}
}

func (b *build) attributes(n *reads) *ast.Term {
	o := b.object()
	if n.has("source") {
		source := b.object()
		k := n.at("source")
		if k.has("address") {
			source.put("address", b.address(b.c.SourceIP, 0))
		}
		if k.has("principal") {
			source.text("principal", principal(b.c))
		}
		o.put("source", source.term())
	}
	if n.has("destination") {
		destination := b.object()
		destination.put("address", b.address(b.c.DestinationIP, b.c.DestinationPort))
		o.put("destination", destination.term())
	}
	if n.has("tlsSession") && b.c.SNI != "" {
		session := b.object()
		session.text("sni", b.c.SNI)
		o.put("tlsSession", session.term())
	}
	if b.r == nil {
		return o.term()
	}
	if n.has("request") {
		request := b.object()
		k := n.at("request")
		if k.has("time") && !b.r.Received.IsZero() {
			request.text("time", b.r.Received.UTC().Format(time.RFC3339Nano))
		}
		if k.has("http") {
			request.put("http", b.http(k.at("http")))
		}
		o.put("request", request.term())
	}
	if n.has("metadataContext") {
		o.put("metadataContext", b.metadata())
	}
	return o.term()
}

func (b *build) http(n *reads) *ast.Term {
	o := b.object()
	for _, m := range [...]struct{ key, value string }{
		{"method", b.r.Method}, {"host", b.r.Host}, {"scheme", scheme(b.c)}, {"protocol", protocol(b.r)},
	} {
		if n.has(m.key) {
			o.text(m.key, m.value)
		}
	}
	if n.has("path") {
		o.text("path", target(b.r, b.decoded))
	}
	if n.has("id") {
		id, _ := joined(b.r.Headers, "x-request-id")
		o.text("id", id)
	}
	if n.has("size") {
		size, ok := joined(b.r.Headers, "content-length")
		if !ok {
			size = "-1"
		}
		o.text("size", size)
	}
	if n.has("body") {
		o.text("body", string(b.r.Body))
	}
	if n.has("headers") {
		o.put("headers", b.headers(n.at("headers")))
	}
	return o.term()
}

// metadata shows a token as Istio's Envoy does: its payload under the issuer's name, and under payload.
func (b *build) metadata() *ast.Term {
	metadata, filters, token := b.object(), b.object(), b.object()
	if t := b.r.Token; t != nil {
		claims := ast.NewTerm(b.prune(everything, t.Claims))
		token.put(t.Issuer, claims)
		if t.Issuer != "payload" {
			token.put("payload", claims)
		}
		filters.put(tokenMetadata, token.term())
	}
	metadata.put("filterMetadata", filters.term())
	return metadata.term()
}

func (b *build) address(ip netip.Addr, port uint16) *ast.Term {
	outer, inner := b.object(), b.object()
	if ip.IsValid() {
		inner.text("address", ip.Unmap().String())
	}
	if port != 0 {
		inner.put("portValue", ast.IntNumberTerm(int(port)))
	}
	outer.put("socketAddress", inner.term())
	return outer.term()
}

// object collects the members of a JSON object on the stack that the build has for all of its objects: one that was
// begun later is finished first. Texts that are "" are absent, as in the JSON form of protobuf.
type object struct {
	b    *build
	from int
}

func (b *build) object() object { return object{b, len(b.stack)} }

func (o *object) put(key string, value *ast.Term) {
	o.b.stack = append(o.b.stack, [2]*ast.Term{word(key), value})
}

func (o *object) text(key, value string) {
	if value != "" {
		o.put(key, word(value))
	}
}

// term ends the object.
func (o *object) term() *ast.Term {
	t := ast.NewTerm(ast.NewObject(o.b.stack[o.from:]...))
	o.b.stack = o.b.stack[:o.from]
	return t
}

// words are terms of what every input is made of. Never changed.
var words = func() map[string]*ast.Term {
	out := map[string]*ast.Term{}
	for _, w := range []string{
		"attributes", "source", "destination", "address", "socketAddress", "portValue", "principal", "request", "http", "method",
		"path", "host", "scheme", "protocol", "headers", "parsed_path", "parsed_query", "parsed_body", "truncated_body",
		"source_principal", "token", "issuer", "subject", "audiences", "claims", "authorization", "content-type", ":method",
		":path", ":authority", ":scheme", "https", "HTTP/1.0", "HTTP/1.1", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
	} {
		out[w] = ast.StringTerm(w)
	}
	return out
}()

// word is a string as a term; its memory is not the request's.
func word(s string) *ast.Term {
	if t := words[s]; t != nil {
		return t
	}
	return ast.StringTerm(strings.Clone(s))
}

func array(values []string) *ast.Term {
	terms := make([]*ast.Term, len(values))
	for i, v := range values {
		terms[i] = word(v)
	}
	return ast.ArrayTerm(terms...)
}

// pathArray is the array of the segments of a path whose memory is the caller's. All terms are allocated at once.
func pathArray(path string) *ast.Term {
	n := 1 + strings.Count(path, "/")
	terms, fresh := make([]*ast.Term, 0, n), make([]ast.Term, n)
	for i := range fresh {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		fresh[i].Value = ast.String(segment)
		terms = append(terms, &fresh[i])
	}
	return ast.ArrayTerm(terms...)
}

// prune turns the claims of a token into OPA's values, as far as they are read. Claims are shared and not copied.
func (b *build) prune(n *reads, v any) ast.Value {
	m, ok := v.(map[string]any)
	if !ok || n.all {
		value, err := ast.InterfaceToValue(v)
		if err != nil {
			return ast.NullValue
		}
		return value
	}
	o := b.object()
	for key, k := range n.kids {
		if member, ok := m[key]; ok {
			o.put(key, ast.NewTerm(b.prune(k, member)))
		}
	}
	return o.term().Value
}
