package compile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// translator reads one policy into rules.
type translator struct {
	policy  *mesh.Typed[*security.AuthorizationPolicy]
	options *Options
}

func (t *translator) translate() (*translated, error) {
	p := t.policy
	dry, err := inDryRun(&p.Meta)
	if err != nil {
		return nil, t.fail("metadata.annotations["+dryRun+"]", err)
	}
	if err := accept(p.Spec); err != nil {
		return nil, t.fail("spec", err)
	}
	out := &translated{key: p.Key, root: p.Namespace == t.options.RootNamespace, spec: p.Spec, action: p.Spec.GetAction(),
		provider: p.Spec.GetProvider().GetName(), dryRun: dry, quarantined: p.Annotations[mesh.QuarantineAnnotation]}
	out.rules = make([]*rule, 0, len(p.Spec.GetRules()))
	for i, r := range p.Spec.GetRules() {
		read, err := t.rule(r, i)
		if err != nil {
			return nil, t.fail("spec", below("rules", i, "", err))
		}
		read.root = out.root
		read.tcp = read.onTCP(out.wide())
		out.rules = append(out.rules, read)
		if out.token == "" && out.action == security.AuthorizationPolicy_CUSTOM {
			out.token = tokenField(r, i)
		}
	}
	return out, nil
}

// refOf names a rule. What stands in for another kind (a RequestAuthentication that was refused) keeps that kind's name.
func refOf(m *mesh.Meta, rule int) *authz.RuleRef {
	return authz.NewRef(cmp.Or(m.Kind, mesh.KindAuthorizationPolicy), m.Namespace, m.Name, rule)
}

func (t *translator) rule(r *security.Rule, index int) (*rule, error) {
	out := &rule{ref: refOf(&t.policy.Meta, index)}
	out.from, out.to = slices.Grow(out.from, len(r.GetFrom())), slices.Grow(out.to, len(r.GetTo()))
	for i, from := range r.GetFrom() {
		fields := source(from.GetSource())
		g, err := t.group(fields[:])
		if err != nil {
			return nil, below("from", i, "source", err)
		}
		out.from = append(out.from, g)
	}
	for i, to := range r.GetTo() {
		fields := operation(to.GetOperation())
		g, err := t.group(fields[:])
		if err != nil {
			return nil, below("to", i, "operation", err)
		}
		out.to = append(out.to, g)
	}
	for i, when := range r.GetWhen() {
		c, err := t.condition(when)
		if err != nil {
			return nil, below("when", i, "", err)
		}
		out.when = append(out.when, c)
	}
	for _, g := range out.to {
		for _, c := range g {
			out.byPath = out.byPath || c.attr == path
			out.escaped = out.escaped || c.want != nil && c.want.decoded != nil || c.not != nil && c.not.decoded != nil
		}
	}
	return out, nil
}

// field is a positive and a negative list with their names.
type field struct {
	attr      attribute
	name, not string
	want, bad []string
}

func (f *field) set() bool { return len(f.want) > 0 || len(f.bad) > 0 }

func source(s *security.Source) [7]field {
	return [7]field{
		{principal, "principals", "notPrincipals", s.GetPrincipals(), s.GetNotPrincipals()},
		{namespace, "namespaces", "notNamespaces", s.GetNamespaces(), s.GetNotNamespaces()},
		{account, "serviceAccounts", "notServiceAccounts", s.GetServiceAccounts(), s.GetNotServiceAccounts()},
		{trustDomain, "trustDomains", "notTrustDomains", s.GetTrustDomains(), s.GetNotTrustDomains()},
		{sourceIP, "ipBlocks", "notIpBlocks", s.GetIpBlocks(), s.GetNotIpBlocks()},
		{remoteIP, "remoteIpBlocks", "notRemoteIpBlocks", s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks()},
		{requestPrincipal, "requestPrincipals", "notRequestPrincipals", s.GetRequestPrincipals(), s.GetNotRequestPrincipals()},
	}
}

func operation(o *security.Operation) [4]field {
	return [4]field{
		{host, "hosts", "notHosts", o.GetHosts(), o.GetNotHosts()},
		{destinationPort, "ports", "notPorts", o.GetPorts(), o.GetNotPorts()},
		{method, "methods", "notMethods", o.GetMethods(), o.GetNotMethods()},
		{path, "paths", "notPaths", o.GetPaths(), o.GetNotPaths()},
	}
}

func (t *translator) group(fields []field) (group, error) {
	n := 0
	for i := range fields {
		if fields[i].set() {
			n++
		}
	}
	if n == 0 {
		return nil, errors.New("is empty")
	}
	g := make(group, 0, n)
	for i := range fields {
		if !fields[i].set() {
			continue
		}
		c, err := t.clause(clause{attr: fields[i].attr}, &fields[i])
		if err != nil {
			return nil, err
		}
		g = append(g, c)
	}
	return g, nil
}

func condition(when *security.Condition) field {
	return field{name: "values", not: "notValues", want: when.GetValues(), bad: when.GetNotValues()}
}

func (t *translator) condition(when *security.Condition) (clause, error) {
	c, err := key(when.GetKey())
	if err != nil {
		return clause{}, at("key", err)
	}
	f := condition(when)
	if !f.set() {
		return clause{}, at("values", errors.New("and notValues are both empty"))
	}
	return t.clause(c, &f)
}

// clause adds the values of a field to what looks at it.
func (t *translator) clause(c clause, f *field) (_ clause, err error) {
	if c.want, err = t.values(c.attr, f.name, f.want); err != nil {
		return clause{}, err
	}
	if c.not, err = t.values(c.attr, f.not, f.bad); err != nil {
		return clause{}, err
	}
	return c, nil
}

// values reads one list, nil if it is empty. It errs as a fieldError.
func (t *translator) values(a attribute, name string, list []string) (v *values, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	v = &values{}
	patterns := make([]pattern, 0, t.room(a, len(list)))
	for i, s := range list {
		switch a {
		case sourceIP, remoteIP, destinationIP:
			var n netip.Prefix
			n, err = parseBlock(s)
			v.nets = append(v.nets, n)
		case destinationPort:
			var n uint64
			if n, err = strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
				err = fmt.Errorf("%q is not a port", s)
			}
			v.ports = append(v.ports, uint16(n))
		case account:
			var sa serviceAccount
			sa, err = parseAccount(s, t.policy.Namespace)
			v.accounts = append(v.accounts, sa)
		case principal:
			if strings.HasPrefix(s, "spiffe://") {
				err = fmt.Errorf("%q: principals are written without spiffe://", s)
				break
			}
			for _, s := range t.options.expand(s) {
				if p, err2 := parsePattern(s); err2 != nil {
					err = err2
				} else {
					patterns = append(patterns, p)
				}
			}
		default:
			var p pattern
			p, err = parseText(a, s)
			patterns = append(patterns, p)
		}
		if err != nil {
			return nil, at(name+"["+strconv.Itoa(i)+"]", err)
		}
	}
	if len(patterns) > 0 {
		v.keep(a, patterns)
		if a == path && slices.ContainsFunc(patterns, pattern.escaped) {
			v.decoded = (&values{}).keep(a, decodedPatterns(patterns))
		}
	}
	return v, nil
}

// room is how many patterns a list mostly makes.
func (t *translator) room(a attribute, list int) int {
	switch a {
	case sourceIP, remoteIP, destinationIP, destinationPort, account:
		return 0
	case principal:
		return list * (1 + len(t.options.Aliases))
	}
	return list
}

func parseText(a attribute, s string) (pattern, error) {
	switch a {
	case path:
		return parsePath(s)
	case host:
		s = strings.ToLower(s)
	}
	return parsePattern(s)
}
