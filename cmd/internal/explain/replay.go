package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	policies "github.com/signet-mesh/signet/authz/compile"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/judge"
)

// replayer judges recorded requests by the policies of one workload. A log knows neither tokens nor most header fields, so
// that a policy which asks for those is judged twice: as if such clauses failed whatever helps the caller (strict), and the
// other way (mild). Where both agree the outcome is certain.
type replayer struct {
	at           *At
	parts        compile.Parts
	strict, mild judge.Judge
	exact        judge.Judge // for TCP, of which the log knows everything
	asked        *[]string   // the authorities that the last judgement came by
}

func newReplayer(m *Mesh, workload string) (*replayer, error) {
	at, err := m.At(workload)
	if err != nil {
		return nil, err
	}
	v, err := m.view(workload)
	if err != nil {
		return nil, err
	}
	r := &replayer{at: at, parts: m.parts, asked: &[]string{}}
	exact := v.Authorization
	strict, mild, differ := exact, exact, false
	for i, p := range exact {
		if !needsMore(p.Spec) {
			continue
		}
		if !differ {
			strict, mild, differ = slices.Clone(exact), slices.Clone(exact), true
		}
		possible := &mesh.Typed[*security.AuthorizationPolicy]{Meta: p.Meta, Spec: rewrite(p.Spec, possibleRule)}
		certain := &mesh.Typed[*security.AuthorizationPolicy]{Meta: p.Meta, Spec: rewrite(p.Spec, certainRule)}
		if p.Spec.GetAction() == security.AuthorizationPolicy_ALLOW {
			strict[i], mild[i] = certain, possible
		} else {
			strict[i], mild[i] = possible, certain
		}
	}
	if r.exact, err = r.compile(v, exact); err != nil {
		return nil, err
	}
	r.strict, r.mild = r.exact, r.exact
	if !differ {
		return r, nil
	}
	if r.strict, err = r.compile(v, strict); err != nil {
		return nil, err
	}
	r.mild, err = r.compile(v, mild)
	return r, err
}

// regoAuthority is the policy itself where a log says all that it reads, and else one that allows and is noted.
func (r *replayer) regoAuthority(p *mesh.Typed[*policy.RegoPolicy], v *mesh.View, ref *authz.RuleRef) authz.Authority {
	a, err := r.parts.Rego(p, v)
	if known, ok := a.(interface{ Recorded() bool }); ok && err == nil && known.Recorded() && !reaches(v, ref) {
		return a
	}
	return &notedAuthority{ref.By, r.asked}
}

// compile builds a judge whose authorities are RegoPolicies that recorded traffic can be judged by; all others allow, and are
// noted.
func (r *replayer) compile(v *mesh.View, ps []*mesh.Typed[*security.AuthorizationPolicy]) (judge.Judge, error) {
	customs := map[string]*authz.Custom{}
	p, err := policies.Compile(ps, policies.Options{TrustDomain: v.TrustDomain, Aliases: v.Mesh.TrustDomainAliases, RootNamespace: v.Mesh.RootNamespace,
		Provider: func(namespace, name string) *authz.Custom {
			ref := authz.NewRef("ExtensionProvider", "", name, -1)
			ext, rego := v.Provider(namespace, name)
			if rego != nil {
				ref = authz.NewRef(mesh.KindRegoPolicy, rego.Namespace, rego.Name, -1)
			}
			if customs[ref.By] == nil {
				customs[ref.By] = &authz.Custom{Ref: ref, AfterToken: rego != nil}
				switch {
				case ext != nil:
					customs[ref.By].Authority = &notedAuthority{ref.By, r.asked}
				case rego != nil && !rego.Quarantined():
					customs[ref.By].Authority = r.regoAuthority(rego, v, ref)
				}
			}
			return customs[ref.By]
		}})
	return judge.New(r.at.Workload.Settings, p, nil), err
}

// notedAuthority allows everything and notes that it was asked.
type notedAuthority struct {
	name  string
	asked *[]string
}

// Ask implements authz.Authority.
func (n *notedAuthority) Ask(context.Context, *authz.Connection, *authz.Request) authz.Answer {
	if !slices.Contains(*n.asked, n.name) {
		*n.asked = append(*n.asked, n.name)
	}
	return authz.Answer{Allowed: true}
}

// Needs implements authz.Authority.
func (n *notedAuthority) Needs() authz.Needs { return authz.Needs{} }

// judge says what the policies decide of a recorded request. handed are the authorities whose answer is not replayed.
func (r *replayer) judge(ctx context.Context, s *shape) (o outcome, handed string) {
	port, err := inboundPort(r.at.Workload, s.port)
	if err != nil {
		return outcome{decision: Unknown, why: err.Error()}, ""
	}
	c := &authz.Connection{SourceIP: s.address, DestinationIP: r.at.Workload.Self.Address, DestinationPort: s.port, SNI: s.sni}
	if s.from != "" {
		if c.Peer.ID, err = identity.Parse(s.from); err != nil {
			return outcome{decision: Unknown, why: err.Error()}, ""
		}
	}
	var refused ServerAnswer
	if r.at.refused(&Question{}, c, port, &refused) {
		return outcome{decision: Deny, by: refused.By.String()}, ""
	}
	*r.asked = (*r.asked)[:0]
	if s.tcp || !port.HTTP {
		return r.one(ctx, r.exact, c, nil), r.handed()
	}
	strict := r.one(ctx, r.strict, c, s)
	if r.strict.Program == r.mild.Program {
		return strict, r.handed()
	}
	mild := r.one(ctx, r.mild, c, s)
	if strict.decision == mild.decision {
		if strict.decision == Deny {
			return mild, r.handed()
		}
		return strict, r.handed()
	}
	return outcome{decision: Unknown, why: "it depends on a token or on header fields, which the log does not record: " + strict.by}, ""
}

func (r *replayer) handed() string {
	slices.Sort(*r.asked)
	return strings.Join(*r.asked, ", ")
}

func (r *replayer) one(ctx context.Context, j judge.Judge, c *authz.Connection, s *shape) outcome {
	var v judge.Verdict
	var f *proxy.Failure
	if s == nil {
		v, f = j.AuthorizeTCP(ctx, c, &judge.Scratch{})
	} else {
		h := s.head()
		v, f = j.Authorize(ctx, &judge.Case{Connection: c, Head: h, Request: &authz.Request{}, Scratch: &judge.Scratch{}})
	}
	switch {
	case f != nil && f.Code == proxy.BadPath:
		return outcome{decision: Deny, by: "bad path"}
	case f != nil && v.By != nil:
		return outcome{decision: Deny, by: refOf(v.By).String()}
	case f != nil:
		return outcome{decision: Deny, by: f.Error()}
	case v.Allowing != nil:
		return outcome{decision: Allow, by: refOf(v.Allowing).String()}
	}
	return outcome{decision: Allow}
}

// head is the recorded request, with the fields that a log has.
func (s *shape) head() *proxy.Head {
	h := &proxy.Head{Method: s.method, Target: s.path, Authority: s.authority, Path: s.path, Minor: 1}
	if s.agent != "" {
		h.Add("user-agent", s.agent)
	}
	if s.forwarded != "" {
		h.Add("x-forwarded-for", s.forwarded)
	}
	return h
}

// unlogged reports whether a condition looks at what no access log records.
func unlogged(key string) bool {
	low := strings.ToLower(key)
	if strings.HasPrefix(low, "request.auth.") {
		return true
	}
	name, ok := strings.CutPrefix(low, "request.headers[")
	if !ok {
		return false
	}
	switch strings.TrimSuffix(name, "]") {
	case "user-agent", "x-forwarded-for", ":authority", ":method", "host":
		return false
	}
	return true
}

func asksToken(s *security.Source) bool {
	return len(s.GetRequestPrincipals()) > 0 || len(s.GetNotRequestPrincipals()) > 0
}

func needsMore(p *security.AuthorizationPolicy) bool {
	return slices.ContainsFunc(p.GetRules(), func(r *security.Rule) bool {
		return slices.ContainsFunc(r.GetFrom(), func(f *security.Rule_From) bool { return asksToken(f.GetSource()) }) ||
			slices.ContainsFunc(r.GetWhen(), func(c *security.Condition) bool { return unlogged(c.GetKey()) })
	})
}

func rewrite(p *security.AuthorizationPolicy, rule func(*security.Rule) *security.Rule) *security.AuthorizationPolicy {
	out := proto.Clone(p).(*security.AuthorizationPolicy)
	for i, r := range out.Rules {
		out.Rules[i] = rule(r)
	}
	return out
}

// possibleRule matches whatever the rule may match: without the clauses that nothing is known of.
func possibleRule(r *security.Rule) *security.Rule {
	for _, f := range r.From {
		if !asksToken(f.Source) {
			continue
		}
		f.Source.RequestPrincipals, f.Source.NotRequestPrincipals = nil, nil
		if proto.Size(f.Source) == 0 {
			r.From = nil // this alternative may be anybody
			break
		}
	}
	r.When = slices.DeleteFunc(r.When, func(c *security.Condition) bool { return unlogged(c.GetKey()) })
	return r
}

// certainRule matches only what the rule matches for certain: alternatives that nothing is known of don't.
func certainRule(r *security.Rule) *security.Rule {
	never := slices.ContainsFunc(r.When, func(c *security.Condition) bool { return unlogged(c.GetKey()) })
	if some := len(r.From) > 0; some {
		r.From = slices.DeleteFunc(r.From, func(f *security.Rule_From) bool { return asksToken(f.Source) })
		never = never || len(r.From) == 0
	}
	if !never {
		return r
	}
	// No namespace has this name (RFC 1123).
	return &security.Rule{From: []*security.Rule_From{{Source: &security.Source{Namespaces: []string{"-"}}}}}
}

func (o outcome) String() string { return fmt.Sprintf("%s by %s", o.decision, o.by) }
