package compile

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
)

// Explain implements authz.Engine: CUSTOM policies in the order of Handovers, then AUDIT, DENY and ALLOW, each in the order
// of policies. A rule is judged by the code that Judge runs; what is added here is only the search for the clause at which
// a rule that doesn't match fails.
func (e *engine) Explain(c *authz.Connection, r *authz.Request) []authz.PolicyTrace {
	x := explainer{tcp: r == nil}
	x.facts.read(c, r)
	var out []authz.PolicyTrace
	for _, s := range e.customs {
		for _, p := range s.policies {
			out = append(out, x.policy(p))
		}
	}
	for i, action := range []security.AuthorizationPolicy_Action{
		security.AuthorizationPolicy_AUDIT, security.AuthorizationPolicy_DENY, security.AuthorizationPolicy_ALLOW,
	} {
		policies := slices.Clone(e.judged[i])
		for _, p := range e.shadows {
			if p.action == action {
				policies = append(policies, p)
			}
		}
		slices.SortStableFunc(policies, (*translated).compare)
		for _, p := range policies {
			out = append(out, x.policy(p))
		}
	}
	return out
}

// explainer judges one request aloud.
type explainer struct {
	facts facts
	tcp   bool
}

func (x *explainer) policy(p *translated) authz.PolicyTrace {
	out := authz.PolicyTrace{Kind: "AuthorizationPolicy", Namespace: p.key.Namespace, Name: p.key.Name, Action: p.action.String(),
		Provider: p.provider, DryRun: p.dryRun, Quarantined: p.quarantined, Rule: -1}
	x.facts.wide = p.wide()
	for i, r := range p.rules {
		judged := r
		if x.tcp {
			judged = r.tcp
		}
		t := authz.RuleTrace{Rule: i, Matched: judged != nil && judged.matches(&x.facts)}
		if !t.Matched {
			x.fail(&t, r, p.spec.Rules[i])
		}
		if t.Matched && out.Rule < 0 {
			out.Matched, out.Rule = true, i
		}
		out.Rules = append(out.Rules, t)
	}
	return out
}

// fail finds the clause at which a rule that doesn't match fails: of the first reading of the path that doesn't.
func (x *explainer) fail(t *authz.RuleTrace, r *rule, authored *security.Rule) {
	f := &x.facts
	f.path, f.second = f.canonical, false
	if !x.tcp && r.holds(f) {
		f.path, f.second = f.decoded, true
	}
	if i, c := x.farthest(r.from); c != nil {
		fields := source(authored.From[i].Source)
		x.say(t, c, fmt.Sprintf("from[%d].source.", i), named(fields[:], c.attr))
		return
	}
	if i, c := x.farthest(r.to); c != nil {
		fields := operation(authored.To[i].Operation)
		x.say(t, c, fmt.Sprintf("to[%d].operation.", i), named(fields[:], c.attr))
		return
	}
	for i := range r.when {
		if c := &r.when[i]; !x.holds(c) {
			x.say(t, c, fmt.Sprintf("when[%d].", i), condition(authored.When[i]))
			return
		}
	}
}

// farthest is the clause at which the group that got farthest fails, nil if a group holds or there is none. On TCP an ALLOW
// rule fails by any group with an HTTP clause, whatever its others say.
func (x *explainer) farthest(groups []group) (at int, failed *clause) {
	most, strict := -1, x.tcp && !x.facts.wide && slices.ContainsFunc(groups, group.http)
	for i, g := range groups {
		n := slices.IndexFunc(g, func(c clause) bool { return !x.holds(&c) })
		if n < 0 && strict {
			continue
		}
		if n < 0 {
			return 0, nil
		}
		if n > most {
			at, failed, most = i, &g[n], n
		}
	}
	return at, failed
}

// holds judges one clause. On TCP wide rules lose their HTTP clauses, and the others fail by them.
func (x *explainer) holds(c *clause) bool {
	if x.tcp && c.attr.http() {
		return x.facts.wide
	}
	return c.holds(&x.facts)
}

func named(fields []field, a attribute) field {
	return fields[slices.IndexFunc(fields, func(f field) bool { return f.attr == a })]
}

func (x *explainer) say(t *authz.RuleTrace, c *clause, where string, f field) {
	positive := *c
	positive.not = nil
	if c.want != nil && !x.holds(&positive) || c.not == nil {
		t.Field, t.Want = where+f.name, slices.Clone(f.want)
	} else {
		t.Field, t.Want = where+f.not, slices.Clone(f.bad)
	}
	saw, ok := x.saw(c)
	t.Saw, t.Absent = clip(saw), !ok
}

// maxSaw is the most bytes of a value that a trace shows.
const maxSaw = 1024

func clip(s string) string {
	if len(s) > maxSaw {
		return strings.ToValidUTF8(s[:maxSaw], "") + "..."
	}
	return s
}

// saw is what a clause was compared with; false if there was nothing.
func (x *explainer) saw(c *clause) (string, bool) {
	f := &x.facts
	if x.tcp && c.attr.http() {
		return "", false
	}
	var s string
	switch {
	case c.attr == header:
		return x.sawHeader(c.name)
	case c.attr.token():
		s = x.sawToken(c)
	case c.attr == sourceIP || c.attr == remoteIP || c.attr == destinationIP:
		if a := f.address(c.attr); a.IsValid() {
			s = a.String()
		}
	case c.attr == destinationPort:
		return strconv.Itoa(int(f.port)), true
	case c.attr == account:
		if f.namespace != "" {
			s = f.namespace + "/" + f.name
		}
	case c.attr == host:
		s = f.authority
	default:
		s = f.text(c.attr)
	}
	return s, s != ""
}

// sawHeader shows the values of a header, save for those that are secrets.
func (x *explainer) sawHeader(name string) (string, bool) {
	h := x.facts.headers
	if h == nil {
		return "", false
	}
	var values []string
	for at := 0; ; {
		v, next, ok := h.HeaderValue(name, at)
		if !ok {
			break
		}
		values, at = append(values, v), next
	}
	if len(values) > 0 && (name == "authorization" || name == "cookie") {
		return "(not shown)", true
	}
	return strings.Join(values, ", "), len(values) > 0
}

func (x *explainer) sawToken(c *clause) string {
	t := x.facts.token
	switch {
	case t == nil:
		return ""
	case c.attr == requestPrincipal:
		return t.Principal()
	case c.attr == audiences:
		return strings.Join(t.Audiences, ", ")
	case c.attr == presenter:
		return t.Presenter
	}
	switch v := claimOf(t.Claims, c.claim).(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(text)
	}
}
