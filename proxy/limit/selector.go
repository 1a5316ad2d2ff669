package limit

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
)

// attribute is what of a request a clause reads.
type attribute uint8

const (
	byHeader attribute = iota
	byMethod
	byPath
	bySource
	byQuery
	byIdentity
)

// clause is one condition of a selector. All clauses of a rule must hold.
type clause struct {
	attribute attribute
	// name of a header (lower case) or parameter.
	name string
	// distinct holds where the attribute is there, and makes a key of its value.
	distinct bool
	invert   bool
	// text is the value of an exact match, or the path of a prefix without its trailing slash; decoded is text as the decoded
	// reading of a path is compared with it.
	text, decoded string
	prefix        bool
	expression    *regexp.Regexp
	network       netip.Prefix // the zero value is any address
	id            identity.ID
	methods       []methodMatch
	// field is where the clause was written, below the rule: clientSelectors[0].headers[1].
	field string
}

type methodMatch struct {
	value  string
	invert bool
}

// holds judges a clause. Where a request can be read in two ways (two readings of the path, a repeated header), a clause
// holds if any of them does, inverted or not: in doubt a limit applies. What is absent matches inverted clauses only.
func (k *clause) holds(c *authz.Connection, r *authz.Request) bool {
	switch k.attribute {
	case byHeader:
		return k.header(r)
	case byMethod:
		for _, m := range k.methods {
			if (r.Method == m.value) != m.invert {
				return true
			}
		}
		return false
	case byPath:
		if k.path(r.Path, k.text) != k.invert {
			return true
		}
		return r.DecodedPath != "" && k.path(r.DecodedPath, k.decoded) != k.invert
	case bySource:
		return k.source(c, r)
	case byQuery:
		return k.query(r)
	case byIdentity:
		return k.distinct || (c.Peer.ID == k.id) != k.invert
	}
	return false
}

// equals compares one value with an exact match or a regular expression, both of the whole value.
func (k *clause) equals(value string) bool {
	if k.expression != nil {
		return k.expression.MatchString(value)
	}
	return value == k.text
}

func (k *clause) header(r *authz.Request) bool {
	if k.name == authorityHeader {
		host := plainHost(r.Host)
		return k.distinct || (k.equals(host) || k.equals(r.Host)) != k.invert
	}
	value, next, ok := firstHeader(r, k.name)
	if !ok || k.distinct {
		return ok || k.invert
	}
	for ; ok; value, next, ok = r.Headers.HeaderValue(k.name, next) {
		if k.equals(value) != k.invert {
			return true
		}
	}
	return false
}

func firstHeader(r *authz.Request, name string) (value string, next int, ok bool) {
	if r.Headers == nil {
		return "", 0, false
	}
	return r.Headers.HeaderValue(name, 0)
}

// authorityHeader is the name under which host and :authority are kept.
const authorityHeader = ":authority"

// plainHost is a host in lower case without its port and without trailing dots.
func plainHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimRight(host, "."))
}

func (k *clause) path(path, text string) bool {
	switch {
	case k.expression != nil:
		return k.expression.MatchString(path)
	case !k.prefix:
		return path == text
	case text == "":
		return true // the prefix / is of every path, also of what is none (OPTIONS *)
	}
	rest, ok := strings.CutPrefix(path, text)
	return ok && (rest == "" || rest[0] == '/')
}

// client is the client's address: by X-Forwarded-For where proxies are trusted, else the directly connected peer's. Never
// RemoteIP, which is what the caller wrote where none is.
func client(c *authz.Connection, r *authz.Request) netip.Addr {
	if r.ClientIP.IsValid() {
		return r.ClientIP.Unmap().WithZone("")
	}
	return c.SourceIP.Unmap().WithZone("")
}

func (k *clause) source(c *authz.Connection, r *authz.Request) bool {
	if !k.network.IsValid() {
		return true
	}
	return k.network.Contains(client(c, r)) != k.invert
}

func (k *clause) query(r *authz.Request) bool {
	absent := true
	for rest := strings.TrimPrefix(r.Query, "?"); rest != ""; {
		var value string
		var ok bool
		if value, rest, ok = nextParam(rest, k.name); !ok {
			continue
		}
		absent = false
		if k.distinct || k.equals(value) != k.invert {
			return true
		}
	}
	return absent && k.invert
}

// matches reports whether a rule is for a request.
func (rl *rule) matches(c *authz.Connection, r *authz.Request) bool {
	for i := range rl.clauses {
		if !rl.clauses[i].holds(c, r) {
			return false
		}
	}
	return true
}
