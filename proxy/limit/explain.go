package limit

import (
	"strings"

	"github.com/signet-mesh/signet/authz"
)

// Trace is what one rule says of a request that is only asked about.
type Trace struct {
	Rule    *Rule
	Matched bool
	// Field and Saw are the first selector that did not match and what it saw, "" if that was absent.
	Field, Saw string
	// Key shows what the rule counts by, "" for all requests together.
	Key string
	// Grant is the standing of that key's bucket, as it is without this request.
	Grant Grant
	// Known is false where there is no state to ask: of a global limit, and of an offline registry (why from files). A limit
	// of no requests and a quarantined policy refuse whatever the state is, and are always Known.
	Known bool
	// Shadow says that the rule refuses nothing.
	Shadow bool
}

// Explain says what each rule makes of a request, without counting it.
func (s *Set) Explain(c *authz.Connection, r *authz.Request) []Trace {
	if s == nil || len(s.rules) == 0 {
		return nil
	}
	now := s.registry.moment(s.quotas)
	out := make([]Trace, 0, len(s.rules))
	for _, rl := range s.rules {
		out = append(out, rl.explain(now, c, r))
	}
	return out
}

func (rl *rule) explain(now moment, c *authz.Connection, r *authz.Request) Trace {
	t := Trace{Rule: &rl.Rule, Shadow: rl.shadow}
	for i := range rl.clauses {
		if k := &rl.clauses[i]; !k.holds(c, r) {
			t.Field, t.Saw = rl.field+"."+k.field, k.saw(c, r)
			return t
		}
	}
	t.Matched, t.Key = true, rl.show(c, r)
	if rl.shape.requests > 0 && (rl.Global || rl.registry.offline) {
		return t
	}
	t.Known = true
	state := rl.cell.state.Load()
	if rl.keyed {
		state, _ = rl.cell.keys.peek(rl.hash(rl.appendKey(nil, c, r)))
	}
	t.Grant = rl.shape.left(state, now)
	return t
}

// saw is what a clause that did not hold was compared with.
func (k *clause) saw(c *authz.Connection, r *authz.Request) string {
	switch k.attribute {
	case byMethod:
		return shorten(r.Method)
	case byPath:
		return shorten(r.Path)
	case bySource:
		if a := client(c, r); a.IsValid() {
			return a.String()
		}
		return ""
	case byIdentity:
		return c.Peer.ID.String()
	case byQuery:
		return shorten(k.allParams(r))
	}
	if k.name == authorityHeader {
		return shorten(r.Host)
	}
	var all []string
	for value, next, ok := firstHeader(r, k.name); ok; value, next, ok = r.Headers.HeaderValue(k.name, next) {
		all = append(all, value)
	}
	return shorten(strings.Join(all, ", "))
}

func (k *clause) allParams(r *authz.Request) string {
	var all []string
	for rest := strings.TrimPrefix(r.Query, "?"); rest != ""; {
		var value string
		var ok bool
		if value, rest, ok = nextParam(rest, k.name); ok {
			all = append(all, value)
		}
	}
	return strings.Join(all, ", ")
}
