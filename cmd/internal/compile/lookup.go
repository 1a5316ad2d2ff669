package compile

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/mesh"
)

const allowAnyMode = networking.OutboundTrafficPolicy_ALLOW_ANY

// meshGateway is the reserved gateway name that means "all sidecars".
const meshGateway = "mesh"

// fullHosts is a host as an object of a namespace names it, in the forms it may mean: itself first, and for a name without
// a dot NAME.NAMESPACE.svc.cluster.local.
func fullHosts(host, namespace string) []string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" || strings.ContainsAny(host, ".*:") {
		return []string{host}
	}
	return []string{host, host + "." + namespace + ".svc." + clusterDomain}
}

// service finds the service that a host named in an object of that namespace means: the exact one, else the longest
// wildcard service that covers it; nil if the view has none.
func (c *compiler) service(host, namespace string) *mesh.Service {
	forms := fullHosts(host, namespace)
	for _, f := range forms {
		if s := c.byHost[f]; s != nil {
			return s
		}
	}
	for _, f := range forms {
		for i := 0; i < len(f); i++ {
			if f[i] != '.' {
				continue
			}
			if s := c.byHost["*"+f[i:]]; s != nil {
				return s
			}
		}
	}
	return nil
}

// rank says how specifically a host pattern, as an object of a namespace writes it, covers a service's host: 0 not at
// all, else more for longer patterns, most for the exact name.
func rank(pattern, namespace, host string) int {
	for _, f := range fullHosts(pattern, namespace) {
		switch {
		case f == host:
			return 1 << 20
		case f == "*":
			return 1
		case strings.HasPrefix(f, "*") && len(host) > len(f)-1 && strings.HasSuffix(host, f[1:]):
			return 1 + len(f)
		}
	}
	return 0
}

// destinationRule is the rule that applies to a service: of the workload's own namespace, else of the service's, else of
// the root namespace; there the most specific host, and of equals the oldest. Subsets of further rules for the same host
// join it, as Istio merges them. Nil if there is none.
func (c *compiler) destinationRule(s *mesh.Service) *rule {
	for _, ns := range []string{c.view.Self.Namespace, s.Namespace, c.view.Mesh.RootNamespace} {
		if rules := c.rules[ns].forHost(s.Host); len(rules) > 0 {
			return mergeRules(rules)
		}
	}
	return nil
}

// ruleIndex holds the DestinationRules of one namespace, oldest first.
type ruleIndex struct {
	exact map[string][]*mesh.Typed[*networking.DestinationRule]
	wild  []*mesh.Typed[*networking.DestinationRule]
}

func (x *ruleIndex) forHost(host string) []*mesh.Typed[*networking.DestinationRule] {
	if x == nil {
		return nil
	}
	if rules := x.exact[host]; len(rules) > 0 {
		return rules
	}
	best := 0
	var rules []*mesh.Typed[*networking.DestinationRule]
	for _, r := range x.wild {
		switch n := rank(r.Spec.Host, r.Namespace, host); {
		case n == 0 || n < best:
		case n > best:
			best, rules = n, []*mesh.Typed[*networking.DestinationRule]{r}
		default:
			rules = append(rules, r)
		}
	}
	return rules
}

// indexRules files the DestinationRules that apply to this workload.
func (c *compiler) indexRules() {
	for _, r := range c.view.DestinationRules {
		if !selects(r.Spec.GetWorkloadSelector().GetMatchLabels(), c.view.Self.Labels) {
			continue
		}
		x := c.rules[r.Namespace]
		if x == nil {
			x = &ruleIndex{exact: map[string][]*mesh.Typed[*networking.DestinationRule]{}}
			c.rules[r.Namespace] = x
		}
		if strings.Contains(r.Spec.Host, "*") {
			x.wild = append(x.wild, r)
			continue
		}
		for _, h := range c.meant(r.Spec.Host, r.Namespace) {
			x.exact[h] = append(x.exact[h], r)
		}
	}
}

// meant are the hosts that a name without wildcard stands for: as written if a service has that name.
func (c *compiler) meant(host, namespace string) []string {
	forms := fullHosts(host, namespace)
	if len(forms) == 2 && c.byHost[forms[0]] != nil {
		return forms[:1]
	}
	return forms
}

// rule is what one or several DestinationRules of one host come to.
type rule struct {
	from    *mesh.Meta
	policy  *networking.TrafficPolicy
	subsets []subset
}

// subset is one of them, with where it stands.
type subset struct {
	*networking.Subset
	from *mesh.Meta
	at   int
}

func mergeRules(rules []*mesh.Typed[*networking.DestinationRule]) *rule {
	out := &rule{from: &rules[0].Meta}
	for _, r := range rules {
		if out.policy == nil && r.Spec.TrafficPolicy != nil {
			out.policy, out.from = r.Spec.TrafficPolicy, &r.Meta
		}
		for i, s := range r.Spec.Subsets {
			if !slices.ContainsFunc(out.subsets, func(have subset) bool { return have.Name == s.Name }) {
				out.subsets = append(out.subsets, subset{s, &r.Meta, i})
			}
		}
	}
	return out
}

// virtualService is the VirtualService that applies to a host: the most specific of its hosts, and of equals the oldest.
func (c *compiler) virtualService(host string) *mesh.Typed[*networking.VirtualService] {
	if v := c.vsExact[host]; v != nil {
		return v
	}
	var found *mesh.Typed[*networking.VirtualService]
	best := 0
	for _, v := range c.vsWildcard {
		for _, h := range v.Spec.Hosts {
			if n := rank(h, v.Namespace, host); n > best {
				best, found = n, v
			}
		}
	}
	return found
}

// indexVirtualServices files those that apply to sidecars by their exact hosts; those with a wildcard stay a list.
func (c *compiler) indexVirtualServices() {
	for _, v := range c.view.VirtualServices {
		if len(v.Spec.Gateways) > 0 && !slices.Contains(v.Spec.Gateways, meshGateway) {
			continue
		}
		wild := false
		for _, h := range v.Spec.Hosts {
			if strings.Contains(h, "*") {
				wild = true
				continue
			}
			for _, f := range c.meant(h, v.Namespace) {
				if c.vsExact[f] == nil {
					c.vsExact[f] = v
				}
			}
		}
		if wild {
			c.vsWildcard = append(c.vsWildcard, v)
		}
	}
}

func selects(want, labels map[string]string) bool {
	for k, v := range want {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// imports is a list of egress hosts (NAMESPACE/HOST), read.
type imports struct{ in, out []importEntry }

type importEntry struct{ namespace, host string }

// parseImports reads egress hosts. "~/x" and "~NS/x" exclude; an empty list imports nothing.
func parseImports(hosts []string, own string) imports {
	var out imports
	for _, h := range hosts {
		ns, host, ok := strings.Cut(h, "/")
		if !ok {
			ns, host = "*", h
		}
		host = strings.TrimSuffix(strings.ToLower(host), ".")
		excluded := false
		if strings.HasPrefix(ns, "~") {
			excluded = true
			if ns = ns[1:]; ns == "" {
				ns = "*"
			}
		}
		if ns == "." {
			ns = own
		}
		if excluded {
			out.out = append(out.out, importEntry{ns, host})
		} else {
			out.in = append(out.in, importEntry{ns, host})
		}
	}
	return out
}

// sees reports whether a host of that namespace is imported and not excluded. A wildcard host is, if it covers an imported
// one.
func (i imports) sees(namespace, host string) bool {
	covers := func(e importEntry) bool {
		return (e.namespace == "*" || e.namespace == namespace) && rank(e.host, namespace, host) > 0
	}
	meets := func(e importEntry) bool {
		return covers(e) || (e.namespace == "*" || e.namespace == namespace) && rank(host, namespace, e.host) > 0
	}
	return slices.ContainsFunc(i.in, meets) && !slices.ContainsFunc(i.out, covers)
}

// visible are the services of the view that one egress entry exposes.
func (c *compiler) visible(i imports) []*mesh.Service {
	var out []*mesh.Service
	for _, s := range c.view.Services {
		if i.sees(s.Namespace, s.Host) {
			out = append(out, s)
		}
	}
	return out
}
