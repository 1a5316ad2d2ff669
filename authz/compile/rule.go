package compile

import (
	"net/netip"
	"slices"

	"github.com/signet-mesh/signet/authz"
)

// attribute is what a clause looks at.
type attribute uint8

const (
	principal attribute = iota
	namespace
	account
	trustDomain
	sourceIP
	remoteIP
	destinationIP
	destinationPort
	sni
	host // HTTP from here on
	method
	path
	header
	authority        // :authority as a header: case counts
	requestPrincipal // a verified token's, from here on
	audiences
	presenter
	claim
)

func (a attribute) http() bool { return a >= host }

func (a attribute) token() bool { return a >= requestPrincipal }

// rule is one rule of one policy, read. Immutable: programs share it.
type rule struct {
	ref *authz.RuleRef
	// root is true for a policy of the root namespace.
	root bool
	// tcp is what the rule means on a connection whose protocol isn't read: itself, or without its HTTP fields, or nil if
	// it never matches there.
	tcp      *rule
	from, to []group  // one of each must hold; empty: any
	when     []clause // all must hold
	// byPath is true when any clause looks at the path: only then do two readings of it differ.
	byPath bool
	// escaped is true when a pattern of a path holds an escape, so that it is not the same for both readings.
	escaped bool
}

// group is one source or one operation: all of its clauses must hold.
type group []clause

// clause is one field with its notX counterpart, or one condition.
type clause struct {
	attr attribute
	// name is the lower-case name of a header.
	name string
	// claim is the path of a claim.
	claim []string
	// want and not are nil where the field is not set.
	want, not *values
}

// values are the alternatives of one field; which member is used depends on the attribute.
type values struct {
	patterns []pattern
	// literals are the exact patterns of a long list, which are then not in patterns.
	literals map[string]struct{}
	nets     []netip.Prefix
	ports    []uint16
	accounts []serviceAccount
	// decoded is what the decoded reading of a path is compared with, nil if that is the same.
	decoded *values
}

type serviceAccount struct{ namespace, name string }

// longList is from how many exact values on a list is looked up instead of compared.
const longList = 16

// keep takes the patterns of a list, and returns v.
func (v *values) keep(a attribute, patterns []pattern) *values {
	if len(patterns) < longList || a == host {
		v.patterns = patterns
		return v
	}
	v.literals = map[string]struct{}{}
	for _, p := range patterns {
		if p.kind == exact {
			v.literals[p.text] = struct{}{}
		} else {
			v.patterns = append(v.patterns, p)
		}
	}
	return v
}

func (v *values) text(s string) bool {
	if v.literals != nil {
		if _, ok := v.literals[s]; ok {
			return true
		}
	}
	for i := range v.patterns {
		if v.patterns[i].match(s) {
			return true
		}
	}
	return false
}

// fold is text without regard to ASCII case; never for an absent host.
func (v *values) fold(s string) bool {
	if s == "" {
		return false
	}
	for i := range v.patterns {
		if v.patterns[i].matchFold(s) {
			return true
		}
	}
	return false
}

func (v *values) address(a netip.Addr) bool {
	for _, n := range v.nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// before reports whether a rule is reported before another: root namespace, namespace, policy name, rule.
func (r *rule) before(other *rule) bool {
	a, b := r.ref, other.ref
	switch {
	case r.root != other.root:
		return r.root
	case a.Namespace != b.Namespace:
		return a.Namespace < b.Namespace
	case a.Policy != b.Policy:
		return a.Policy < b.Policy
	}
	return a.Rule < b.Rule
}

// matches judges the rule by both readings of the path.
func (r *rule) matches(f *facts) bool {
	f.path, f.second = f.canonical, false
	ok := r.holds(f)
	if !r.byPath || !f.ambiguous && !r.escaped || ok == f.wide {
		return ok
	}
	f.path, f.second = f.decoded, true
	return r.holds(f)
}

func (r *rule) holds(f *facts) bool {
	return anyOf(r.from, f) && anyOf(r.to, f) && allOf(r.when, f)
}

func anyOf(groups []group, f *facts) bool {
	for _, g := range groups {
		if allOf(g, f) {
			return true
		}
	}
	return len(groups) == 0
}

func allOf(clauses []clause, f *facts) bool {
	for i := range clauses {
		if !clauses[i].holds(f) {
			return false
		}
	}
	return true
}

// holds judges one clause: an absent attribute fails want and passes not.
func (c *clause) holds(f *facts) bool {
	switch {
	case c.attr == header:
		return c.holdsHeader(f)
	case c.attr.token():
		return (c.want == nil || c.matchToken(c.want, f, f.wide)) && (c.not == nil || !c.matchToken(c.not, f, !f.wide))
	}
	return (c.want == nil || c.want.match(c.attr, f, f.wide)) && (c.not == nil || !c.not.match(c.attr, f, !f.wide))
}

// match reports whether an attribute that holds at most one value has one of these. It is never so of an absent one. A
// host is also read without port and without trailing dot where any reading counts.
func (v *values) match(a attribute, f *facts, any bool) bool {
	switch a {
	case sourceIP, remoteIP, destinationIP:
		return v.address(f.address(a))
	case destinationPort:
		return slices.Contains(v.ports, f.port)
	case account:
		return f.namespace != "" && slices.Contains(v.accounts, serviceAccount{f.namespace, f.name})
	case host:
		as := v.fold(f.authority)
		if as || !any {
			return as
		}
		portless, dotless := f.hosts()
		return v.fold(portless) || v.fold(dotless)
	case path:
		if f.second && v.decoded != nil {
			v = v.decoded
		}
	}
	s := f.text(a)
	return s != "" && v.text(s)
}

// holdsHeader judges a header that may be repeated. Where rules widen (DENY, AUDIT) one value that matches is enough for
// want, and one that is not excluded for not; where they narrow (ALLOW) all must match, and none may be excluded. '*' on
// a field that is there but empty is read the same way.
func (c *clause) holdsHeader(f *facts) bool {
	if f.headers == nil {
		return c.want == nil
	}
	n, wanted, excluded := 0, 0, 0
	for at := 0; ; n++ {
		v, next, ok := f.headers.HeaderValue(c.name, at)
		if !ok {
			break
		}
		at = next
		if c.want != nil && (c.want.text(v) || f.wide && v == "" && c.want.presence()) {
			wanted++
		}
		if c.not != nil && (c.not.text(v) || !f.wide && v == "" && c.not.presence()) {
			excluded++
		}
	}
	if c.want != nil && (wanted == 0 || !f.wide && wanted < n) {
		return false
	}
	if excluded == 0 {
		return true
	}
	return f.wide && excluded < n
}

// presence reports whether '*' is among the values.
func (v *values) presence() bool {
	return slices.ContainsFunc(v.patterns, func(p pattern) bool { return p.kind == present })
}

// onTCP is what a rule means on TCP. Wide rules (DENY, AUDIT, CUSTOM) lose their HTTP fields, an ALLOW rule with one never
// matches.
func (r *rule) onTCP(wide bool) *rule {
	switch {
	case !r.http():
		return r
	case !wide:
		return nil
	}
	w := *r
	w.from, w.to, w.when, w.byPath = nonHTTP(r.from), nonHTTP(r.to), slices.DeleteFunc(slices.Clone(r.when), isHTTP), false
	return &w
}

// nonHTTP drops HTTP clauses. A group with nothing left matches all, and so do the groups of which it is one.
func nonHTTP(groups []group) []group {
	out := make([]group, 0, len(groups))
	for _, g := range groups {
		g = slices.DeleteFunc(slices.Clone(g), isHTTP)
		if len(g) == 0 {
			return nil
		}
		out = append(out, g)
	}
	return out
}

func (r *rule) http() bool {
	return slices.ContainsFunc(r.from, group.http) || slices.ContainsFunc(r.to, group.http) || group(r.when).http()
}

func (g group) http() bool { return slices.ContainsFunc(g, isHTTP) }

func isHTTP(c clause) bool { return c.attr.http() }
