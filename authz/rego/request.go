package rego

import (
	"errors"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// The words of a request that topdown's input and native code both take from here.

// principal is the caller's SPIFFE ID as a URI, "" for a plaintext caller.
func principal(c *authz.Connection) string {
	if !c.Peer.Proven() {
		return ""
	}
	return c.Peer.ID.String()
}

// scheme is https for what came over TLS.
func scheme(c *authz.Connection) string {
	if c.Peer.Proven() || c.SNI != "" {
		return "https"
	}
	return "http"
}

func protocol(r *authz.Request) string {
	if r.Minor == 0 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// pathOf is one reading of the path.
func pathOf(r *authz.Request, decoded bool) string {
	if decoded {
		return r.DecodedPath
	}
	return r.Path
}

// target is a reading of the path with the query.
func target(r *authz.Request, decoded bool) string {
	if r.Query == "" {
		return pathOf(r, decoded)
	}
	return pathOf(r, decoded) + r.Query
}

// flat is parsed_path before it is split at its slashes: the path with every escape decoded once, without its leading
// slashes. An escaped slash separates like any other. A path that cannot be decoded is taken as it is: the corridor lets
// none pass.
func flat(r *authz.Request, decoded bool) string {
	path := pathOf(r, decoded)
	if !decoded && strings.IndexByte(path, '%') >= 0 {
		if plain, err := url.PathUnescape(path); err == nil {
			path = plain
		}
	}
	return strings.TrimLeft(path, "/")
}

// joined is the value of a header as Envoy shows it: repeated fields are joined by commas.
func joined(h authz.Headers, name string) (string, bool) {
	if h == nil {
		return "", false
	}
	value, next, ok := h.HeaderValue(name, 0)
	if !ok {
		return "", false
	}
	for {
		var more string
		if more, next, ok = h.HeaderValue(name, next); !ok {
			return value, true
		}
		value += "," + more
	}
}

// header is one of input.attributes.request.http.headers, the pseudo headers of HTTP/2 among them.
func header(c *authz.Connection, r *authz.Request, name string, decoded bool) (string, bool) {
	switch name {
	case ":method":
		return r.Method, true
	case ":path":
		return target(r, decoded), true
	case ":authority":
		return r.Host, r.Host != ""
	case ":scheme":
		return scheme(c), true
	}
	if strings.HasPrefix(name, ":") || strings.ToLower(name) != name {
		return "", false
	}
	return joined(r.Headers, name)
}

var errHeaders = errors.New("the request cannot list its headers")

func (b *build) headers(n *reads) *ast.Term {
	o := b.object()
	put := func(name string) {
		if value, ok := header(b.c, b.r, name, b.decoded); ok {
			o.put(name, word(value))
		}
	}
	if !n.all {
		for name := range n.kids {
			put(name)
		}
		return o.term()
	}
	for _, name := range []string{":method", ":path", ":authority", ":scheme"} {
		put(name)
	}
	lister, ok := b.r.Headers.(FieldLister)
	if !ok {
		b.err = errHeaders
		return o.term()
	}
	seen := map[string]bool{}
	lister.EachField(func(name, _ string) {
		if !seen[name] {
			seen[name] = true
			put(name)
		}
	})
	return o.term()
}
