package mesh

import (
	"fmt"
	"strconv"
	"strings"

	security "istio.io/api/security/v1"
)

func (j *judge) authorizationPolicy(p *security.AuthorizationPolicy) {
	j.selectorLabels("selector.matchLabels", p.GetSelector().GetMatchLabels())
	rules := p.GetRules()
	name, custom := p.GetProvider().GetName(), p.GetAction() == security.AuthorizationPolicy_CUSTOM
	switch {
	case custom && name == "":
		j.refuse("provider.name", "must be set: CUSTOM asks a RegoPolicy, or an extension provider of MeshConfig, by its name")
	case custom:
		j.word("provider.name", name, maxNameLength)
	case p.GetActionDetail() != nil:
		j.refuse("provider", "is only for action CUSTOM")
	}
	switch p.GetAction() {
	case security.AuthorizationPolicy_CUSTOM:
		if len(rules) == 0 {
			j.refuse("rules", "a CUSTOM policy without rules asks nobody: write rules: [{}] to ask about everything")
		}
	case security.AuthorizationPolicy_DENY:
		if len(rules) == 0 {
			j.refuse("rules", "a DENY policy without rules denies nothing: write rules: [{}] to deny everything")
		}
	case security.AuthorizationPolicy_AUDIT:
		if len(rules) == 0 {
			j.warn("rules", "an AUDIT policy without rules marks nothing")
		}
	}
	if len(rules) > MaxRules {
		j.refuse("rules", "has %d rules, more than %d", len(rules), MaxRules)
		return
	}
	for i, r := range rules {
		j.rule(fmt.Sprintf("rules[%d].", i), r)
	}
}

func (j *judge) rule(field string, r *security.Rule) {
	for i, from := range r.GetFrom() {
		at := fmt.Sprintf("%sfrom[%d].source", field, i)
		if from.GetSource() == nil {
			j.refuse(at, "must be set")
			continue
		}
		j.source(at+".", from.GetSource())
	}
	for i, to := range r.GetTo() {
		at := fmt.Sprintf("%sto[%d].operation", field, i)
		if to.GetOperation() == nil {
			j.refuse(at, "must be set")
			continue
		}
		j.operation(at+".", to.GetOperation())
	}
	for i, c := range r.GetWhen() {
		j.condition(fmt.Sprintf("%swhen[%d].", field, i), c)
	}
}

// values runs a judgement over a list of values, none of which may be empty.
func (j *judge) values(field string, values []string, check func(field, v string)) int {
	for i, v := range values {
		at := fmt.Sprintf("%s[%d]", field, i)
		if v == "" {
			j.refuse(at, "must not be empty")
			continue
		}
		check(at, v)
	}
	return len(values)
}

func (j *judge) block(field, v string) { j.address(field, v, true) }

func (j *judge) source(f string, s *security.Source) {
	n := j.values(f+"principals", s.GetPrincipals(), j.principal) + j.values(f+"notPrincipals", s.GetNotPrincipals(), j.principal) +
		j.values(f+"namespaces", s.GetNamespaces(), j.namespace) + j.values(f+"notNamespaces", s.GetNotNamespaces(), j.namespace)
	accounts := j.values(f+"serviceAccounts", s.GetServiceAccounts(), j.serviceAccount) +
		j.values(f+"notServiceAccounts", s.GetNotServiceAccounts(), j.serviceAccount)
	if n > 0 && accounts > 0 {
		j.refuse(f+"serviceAccounts", "and principals or namespaces exclude each other in one source")
	}
	if len(s.GetServiceAccounts()) > maxAccountEntries || len(s.GetNotServiceAccounts()) > maxAccountEntries {
		j.refuse(f+"serviceAccounts", "more than %d entries", maxAccountEntries)
	}
	n += accounts
	n += j.values(f+"ipBlocks", s.GetIpBlocks(), j.block) + j.values(f+"notIpBlocks", s.GetNotIpBlocks(), j.block)
	n += j.remote(f+"remoteIpBlocks", s.GetRemoteIpBlocks()) + j.remote(f+"notRemoteIpBlocks", s.GetNotRemoteIpBlocks())
	n += j.values(f+"trustDomains", s.GetTrustDomains(), j.trustDomainPattern) + j.values(f+"notTrustDomains", s.GetNotTrustDomains(), j.trustDomainPattern)
	n += j.values(f+"requestPrincipals", s.GetRequestPrincipals(), j.requestPrincipal) +
		j.values(f+"notRequestPrincipals", s.GetNotRequestPrincipals(), j.requestPrincipal)
	if n == 0 {
		j.refuse(strings.TrimSuffix(f, "."), "must say at least one thing: an empty source would mean any")
	}
}

func (j *judge) operation(f string, o *security.Operation) {
	n := j.values(f+"hosts", o.GetHosts(), j.host) + j.values(f+"notHosts", o.GetNotHosts(), j.host)
	n += j.values(f+"ports", o.GetPorts(), j.portText) + j.values(f+"notPorts", o.GetNotPorts(), j.portText)
	n += j.values(f+"methods", o.GetMethods(), j.method) + j.values(f+"notMethods", o.GetNotMethods(), j.method)
	n += j.values(f+"paths", o.GetPaths(), j.path) + j.values(f+"notPaths", o.GetNotPaths(), j.path)
	if n == 0 {
		j.refuse(strings.TrimSuffix(f, "."), "must say at least one thing: an empty operation would mean any")
	}
}

func (j *judge) principal(field, v string) {
	if strings.HasPrefix(v, "spiffe:") {
		j.refuse(field, "%q would never match: a principal is written without spiffe://", clip(v))
		return
	}
	j.live(field, v, deadPrincipal)
}

// requestPrincipal judges a pattern of ISSUER/SUBJECT.
func (j *judge) requestPrincipal(field, v string) { j.live(field, v, deadRequestPrincipal) }

func (j *judge) namespace(field, v string) { j.live(field, v, deadNamespace) }

func (j *judge) host(field, v string) { j.live(field, v, deadHost) }

func (j *judge) method(field, v string) { j.live(field, v, deadMethod) }

// remote judges a list of addresses of X-Forwarded-For, and warns of what they mean.
func (j *judge) remote(field string, blocks []string) int {
	if len(blocks) > 0 {
		j.warn(field, remoteMeans)
	}
	return j.values(field, blocks, j.block)
}

// remoteMeans is what is easily taken for more than it is.
const remoteMeans = "judges the last address of X-Forwarded-For as the caller sends it, unless defaultConfig.gatewayTopology.numTrustedProxies of MeshConfig says how many proxies add to it: any caller can claim any address; the address of the connection is ipBlocks or source.ip"

func (j *judge) serviceAccount(field, v string) {
	ns, sa, two := strings.Cut(v, "/")
	if !two {
		ns, sa = j.object.Namespace, v
	}
	if len(v) > maxServiceAccount || checkLabel(ns) != nil || checkSubdomain(sa) != nil {
		j.refuse(field, "%q: want NAMESPACE/ACCOUNT or ACCOUNT, without wildcards", clip(v))
	}
}

func (j *judge) trustDomainPattern(field, v string) {
	if strings.Contains(v, "/") {
		j.refuse(field, "%q: a trust domain has no /", clip(v))
		return
	}
	j.live(field, v, deadTrustDomain)
}

func (j *judge) portText(field, v string) {
	if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 || v[0] == '0' || v[0] == '+' {
		j.refuse(field, "%q is no port: want 1 to 65535", clip(v))
	}
}

// path judges a path: a string match, or a template of {*} and {**} by Istio's rules.
func (j *judge) path(field, v string) {
	if !strings.ContainsAny(v, "{}") {
		j.live(field, v, deadPath)
		return
	}
	if !strings.HasPrefix(v, "/") {
		j.refuse(field, "%q would never match: a template begins with /", clip(v))
		return
	}
	last := false
	for segment := range strings.SplitSeq(strings.Trim(v, "/"), "/") {
		switch {
		case segment == "{*}" || segment == "{**}":
			if last {
				j.refuse(field, "%q: {**} must be the last operator", clip(v))
				return
			}
			last = segment == "{**}"
		case strings.ContainsAny(segment, "{}*"):
			j.refuse(field, "%q: {*} and {**} stand for whole segments, and * does not mix with them", clip(v))
			return
		case strings.ContainsFunc(segment, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("?#[]\\^`|\"<>", r) }):
			j.refuse(field, "%q: a template holds only characters of a path", clip(v))
			return
		}
	}
	if len(v) > 4096 {
		j.refuse(field, "has %d bytes, more than 4096", len(v))
	} else if why := deadPath(literal{v, true, true}); why != "" {
		j.refuse(field, "%q would never match: %s", clip(v), why)
	}
}

func (j *judge) condition(f string, c *security.Condition) {
	check := j.pattern
	switch key := c.GetKey(); key {
	case "source.ip", "destination.ip":
		check = j.block
	case "remote.ip":
		check = j.block
		j.warn(f+"key", remoteMeans)
	case "source.namespace":
		check = j.namespace
	case "connection.sni", "request.auth.audiences", "request.auth.presenter":
	case "request.auth.principal":
		check = j.requestPrincipal
	case "request.headers[:method]":
		check = j.method
	case "source.serviceAccount":
		check = j.serviceAccount
	case "source.principal":
		check = j.principal
	case "source.trustDomain":
		check = j.trustDomainPattern
	case "destination.port":
		check = j.portText
	default:
		if !j.conditionKey(f+"key", key) {
			return
		}
	}
	n := j.values(f+"values", c.GetValues(), check) + j.values(f+"notValues", c.GetNotValues(), check)
	if n == 0 {
		j.refuse(f+"values", "or notValues must say at least one thing")
	}
}

// conditionKey judges the keys that carry a name in brackets, and refuses all others.
func (j *judge) conditionKey(field, key string) bool {
	if name, ok := strings.CutPrefix(key, "request.headers["); ok && strings.HasSuffix(name, "]") {
		if err := checkToken(strings.TrimSuffix(name, "]")); err != nil {
			j.refuse(field, "%q: %v", clip(key), err)
			return false
		}
		return true
	}
	if rest, ok := strings.CutPrefix(key, "request.auth.claims"); ok {
		if claimPath(rest) == nil {
			j.refuse(field, "%q: want request.auth.claims[NAME], or [NAME][NAME] for a nested claim", clip(key))
			return false
		}
		return true
	}
	switch {
	case strings.HasPrefix(key, "experimental.envoy.filters."):
		j.refuse(field, "%q is not honoured: the proxy is not Envoy", clip(key))
	default:
		j.refuse(field, "unknown key %q: want request.headers[NAME], request.auth.principal, request.auth.audiences, request.auth.presenter, request.auth.claims[NAME], source.ip, source.namespace, source.serviceAccount, source.principal, source.trustDomain, remote.ip, destination.ip, destination.port or connection.sni", clip(key))
	}
	return false
}

// claimPath is the names in brackets after request.auth.claims; nil if that is not what stands there.
func claimPath(s string) []string {
	var out []string
	for s != "" {
		name, rest, closed := strings.Cut(strings.TrimPrefix(s, "["), "]")
		if s[0] != '[' || !closed || name == "" || strings.Contains(name, "[") || len(name) > maxWordBytes {
			return nil
		}
		out, s = append(out, name), rest
	}
	return out
}

// dryRun judges Istio's annotation, which is an AuthorizationPolicy's alone.
func (j *judge) dryRun() {
	v, ok := j.object.Annotations[DryRunAnnotation]
	field := "metadata.annotations[" + DryRunAnnotation + "]"
	switch {
	case !ok:
	case j.object.Kind != KindAuthorizationPolicy:
		j.refuse(field, "is only for AuthorizationPolicy")
	case v != "true" && v != "false":
		j.refuse(field, "%q: want \"true\" or \"false\"", clip(v))
	}
}
