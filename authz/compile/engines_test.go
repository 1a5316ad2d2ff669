package compile

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"testing"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
)

// choices is where random tests and the fuzzer take their choices from.
type choices interface{ IntN(n int) int }

// bytesSource makes choices of a fuzzer's bytes, and zeros when they are used up.
type bytesSource struct{ data []byte }

func (b *bytesSource) IntN(n int) int {
	if len(b.data) < 2 {
		return 0
	}
	v := binary.LittleEndian.Uint16(b.data)
	b.data = b.data[2:]
	return int(v) % n
}

// Words are few, so that rules meet calls, and some are prefixes of others, so that the trees branch.
type words struct {
	namespaces, accounts, domains, hosts, methods, segments, headers []string
	issuers, subjects, claims, providers                             []string
}

func vocabulary() words {
	return words{
		namespaces: []string{"a", "ab", "abc", "b", "shop"},
		accounts:   []string{"web", "we", "api", "w"},
		domains:    []string{"td.example", "old.example", "x.example"},
		hosts:      []string{"a.shop", "ab.shop", "b.shop:80", "A.Shop", "shop", "x.a.shop", "a.shop:80", "ab.shop.", "[::1]:80", "[::1]"},
		methods:    []string{"GET", "GETS", "POST", "PUT"},
		segments:   []string{"a", "ab", "b", "admin", "x%2Fy", "x%2fy", "a%3Ab", "a:b", "x/y"},
		headers:    []string{"red", "re", "blue", ""},
		issuers:    []string{"idp", "idp/x", "https://idp.example"},
		subjects:   []string{"u", "us", "x/u"},
		claims:     []string{"a", "ab", "true", "7", ""},
		providers:  []string{"ext", "menu", "nobody"},
	}
}

func pick[T any](s choices, list []T) T { return list[s.IntN(len(list))] }

// some is up to three values, mostly exact.
func some(s choices, value func() string) []string {
	var out []string
	for range 1 + s.IntN(3) {
		v := value()
		switch s.IntN(8) {
		case 0:
			v = v[:s.IntN(len(v)+1)] + "*"
		case 1:
			v = "*" + v[s.IntN(len(v)+1):]
		}
		if v == "" {
			v = "*"
		}
		out = append(out, v)
	}
	return out
}

func (w words) path(s choices) string {
	p := ""
	for range 1 + s.IntN(3) {
		p += "/" + pick(s, w.segments)
	}
	return p
}

func (w words) template(s choices) string {
	p := ""
	for range s.IntN(3) {
		p += "/" + pick(s, append([]string{"{*}"}, w.segments[:3]...))
	}
	return p + pick(s, []string{"/{*}", "/{**}", "/{**}/a", "/{*}/b"})
}

func (w words) principal(s choices) string {
	return pick(s, w.domains) + "/ns/" + pick(s, w.namespaces) + "/sa/" + pick(s, w.accounts)
}

// maybe fills the positive list, the negative one, or seldom both.
func maybe(s choices, want, not *[]string, values func() []string) {
	switch n := s.IntN(8); {
	case n < 5:
		*want = values()
	case n < 7:
		*not = values()
	default:
		*want, *not = values(), values()
	}
}

func (w words) requestPrincipal(s choices) string {
	return pick(s, w.issuers) + "/" + pick(s, w.subjects)
}

func (w words) source(s choices, tokens bool) *security.Source {
	out := &security.Source{}
	kinds := 6
	if tokens {
		kinds = 7
	}
	for range 1 + s.IntN(2) {
		switch s.IntN(kinds) {
		case 6:
			maybe(s, &out.RequestPrincipals, &out.NotRequestPrincipals, func() []string { return some(s, func() string { return w.requestPrincipal(s) }) })
		case 0, 1:
			maybe(s, &out.Principals, &out.NotPrincipals, func() []string { return some(s, func() string { return w.principal(s) }) })
		case 2:
			maybe(s, &out.Namespaces, &out.NotNamespaces, func() []string { return some(s, func() string { return pick(s, w.namespaces) }) })
		case 3:
			maybe(s, &out.ServiceAccounts, &out.NotServiceAccounts, func() []string {
				return []string{pick(s, w.accounts), pick(s, w.namespaces) + "/" + pick(s, w.accounts)}[:1+s.IntN(2)]
			})
		case 4:
			maybe(s, &out.TrustDomains, &out.NotTrustDomains, func() []string { return some(s, func() string { return pick(s, w.domains) }) })
		case 5:
			maybe(s, &out.IpBlocks, &out.NotIpBlocks, func() []string { return []string{fmt.Sprintf("10.0.0.%d/%d", s.IntN(4), 30+s.IntN(3))} })
		}
	}
	return out
}

func (w words) operation(s choices) *security.Operation {
	out := &security.Operation{}
	for range 1 + s.IntN(2) {
		switch s.IntN(6) {
		case 0, 1:
			maybe(s, &out.Paths, &out.NotPaths, func() []string { return some(s, func() string { return w.path(s) }) })
		case 2:
			maybe(s, &out.Paths, &out.NotPaths, func() []string { return []string{w.template(s), w.path(s)}[:1+s.IntN(2)] })
		case 3:
			maybe(s, &out.Hosts, &out.NotHosts, func() []string { return some(s, func() string { return pick(s, w.hosts) }) })
		case 4:
			maybe(s, &out.Methods, &out.NotMethods, func() []string { return some(s, func() string { return pick(s, w.methods) }) })
		case 5:
			maybe(s, &out.Ports, &out.NotPorts, func() []string { return []string{pick(s, []string{"80", "8080"})} })
		}
	}
	return out
}

func (w words) condition(s choices, tokens bool) *security.Condition {
	out := &security.Condition{}
	kinds := 4
	if tokens {
		kinds = 7
	}
	switch s.IntN(kinds) {
	case 4:
		out.Key = pick(s, []string{"request.auth.claims[a]", "request.auth.claims[a][b]", "request.auth.claims[scope]", "request.auth.claims[list]"})
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return pick(s, w.claims) }) })
	case 5:
		out.Key = "request.auth.principal"
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return w.requestPrincipal(s) }) })
	case 6:
		out.Key = pick(s, []string{"request.auth.audiences", "request.auth.presenter"})
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return pick(s, w.claims) }) })
	case 0:
		out.Key = "request.headers[x]"
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return pick(s, w.headers) }) })
	case 1:
		out.Key = "source.principal"
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return w.principal(s) }) })
	case 2:
		out.Key = "source.namespace"
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return pick(s, w.namespaces) }) })
	case 3:
		out.Key = "request.headers[:method]"
		maybe(s, &out.Values, &out.NotValues, func() []string { return some(s, func() string { return pick(s, w.methods) }) })
	}
	return out
}

func (w words) policies(s choices) []*policy {
	var out []*policy
	for i := range 1 + s.IntN(6) {
		out = append(out, w.policy(s, fmt.Sprint(i)))
	}
	return out
}

func (w words) policy(s choices, name string) *policy {
	p := &policy{Meta: mesh.Meta{Key: mesh.Key{Namespace: pick(s, []string{"shop", "istio-system"}), Name: name}},
		Spec: &security.AuthorizationPolicy{Action: pick(s, []security.AuthorizationPolicy_Action{0, 0, 1, 1, 2, 3})}}
	tokens := true
	if p.Spec.Action == security.AuthorizationPolicy_CUSTOM {
		name := pick(s, w.providers)
		tokens = name != "ext"
		p.Spec.ActionDetail = &security.AuthorizationPolicy_Provider{Provider: &security.AuthorizationPolicy_ExtensionProvider{Name: name}}
	}
	if s.IntN(4) == 0 {
		p.Annotations = map[string]string{dryRun: "true"}
	}
	for range 1 + s.IntN(8) {
		r := &security.Rule{}
		for range s.IntN(3) {
			r.From = append(r.From, &security.Rule_From{Source: w.source(s, tokens)})
		}
		for range s.IntN(3) {
			r.To = append(r.To, &security.Rule_To{Operation: w.operation(s)})
		}
		if s.IntN(3) == 0 {
			r.When = append(r.When, w.condition(s, tokens))
		}
		p.Spec.Rules = append(p.Spec.Rules, r)
	}
	return p
}

// claim is a claim of any JSON type.
func (w words) claim(s choices) any {
	switch s.IntN(8) {
	case 0:
		return []any{pick(s, w.claims), json.Number("7"), pick(s, w.claims)}
	case 1:
		return map[string]any{"b": pick(s, w.claims)}
	case 2:
		return pick(s, []any{true, json.Number("7"), nil, []any{}, []any{[]any{"a"}}, map[string]any{"b": []any{"a"}}})
	case 3:
		return "a ab"
	}
	return pick(s, w.claims)
}

func (w words) token(s choices) *jwt.Token {
	if s.IntN(4) == 0 {
		return nil
	}
	t := &jwt.Token{Issuer: pick(s, w.issuers), Subject: pick(s, append([]string{""}, w.subjects...)), Presenter: pick(s, w.claims),
		Audiences: w.claims[:s.IntN(len(w.claims))], Claims: map[string]any{}}
	for _, name := range []string{"a", "scope", "list"}[:s.IntN(4)] {
		t.Claims[name] = w.claim(s)
	}
	return t
}

func (w words) call(s choices) (*authz.Connection, *authz.Request) {
	c := &authz.Connection{SourceIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(s.IntN(5))}), DestinationPort: pick(s, []uint16{80, 8080})}
	if s.IntN(8) > 0 {
		uri := "spiffe://" + w.principal(s)
		if s.IntN(8) == 0 {
			uri += "/more"
		}
		id, err := identity.Parse(uri)
		if err != nil {
			panic(err)
		}
		c.Peer.ID = id
	}
	if s.IntN(6) == 0 {
		return c, nil
	}
	r := &authz.Request{Method: pick(s, w.methods), Host: pick(s, append([]string{"", "B.SHOP:80"}, w.hosts...)), Path: w.path(s)}
	r.DecodedPath = r.Path
	switch s.IntN(3) {
	case 0:
		r.DecodedPath = w.path(s)
	case 1:
		r.DecodedPath, _ = url.PathUnescape(r.Path)
	}
	var h fields
	for range s.IntN(3) {
		h = append(h, [2]string{"x", pick(s, w.headers)})
	}
	r.Headers, r.Token = h, w.token(s)
	return c, r
}

// customs are the providers of tests: ext is asked before tokens, menu after, and nobody is nobody.
func customs() func(namespace, name string) *authz.Custom {
	known := map[string]*authz.Custom{
		"ext":  {Ref: authz.NewRef("ExtensionProvider", "", "ext", -1)},
		"menu": {Ref: authz.NewRef("RegoPolicy", "shop", "menu", -1), AfterToken: true},
	}
	return func(_, name string) *authz.Custom { return known[name] }
}

// pair is the oracle and the engine that is held against it.
type pair struct{ linear, indexed *engine }

// newPair compiles both; the index is used from the first rule on.
func newPair(t testing.TB, policies []*policy) pair {
	t.Helper()
	o := options
	o.Provider = customs()
	linear, err := build(policies, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	indexed, err := build(policies, o, 1)
	if err != nil {
		t.Fatal(err)
	}
	return pair{linear, indexed}
}

// compare holds the indexed engine against the oracle over calls, in all that an engine says, and returns how many were
// decided by a rule.
func (p pair) compare(t *testing.T, w words, s choices, calls int) (byRule int) {
	t.Helper()
	if len(p.linear.handovers) != len(p.indexed.handovers) {
		t.Fatalf("%d handovers, %d", len(p.linear.handovers), len(p.indexed.handovers))
	}
	for range calls {
		c, r := w.call(s)
		want, got := said(p.linear, c, r), said(p.indexed, c, r)
		if got != want {
			t.Fatalf("connection %+v\nrequest %+v\nindexed %s\nlinear  %s", c, r, got, want)
		}
		if p.linear.Judge(c, r).Rule != nil {
			byRule++
		}
	}
	return byRule
}

// said is all that an engine says of a request.
func said(e *engine, c *authz.Connection, r *authz.Request) string {
	d := e.Judge(c, r)
	out := fmt.Sprintf("%v by reason %d, rule %s, audit %s;", d.Allowed, d.Reason, id(d.Rule), id(d.Audit))
	for i, h := range e.Handovers() {
		out += fmt.Sprintf(" %s dry %v: %s;", h.Custom.Ref.By, h.DryRun, id(e.Handover(i, c, r)))
	}
	for _, s := range e.DryRun(nil, c, r) {
		out += fmt.Sprintf(" shadow %s denied %v;", s.Rule.ID, s.Denied)
	}
	return out
}

func id(r *authz.RuleRef) string {
	if r == nil {
		return "none"
	}
	return r.ID
}

func TestIndexedAgainstLinear(t *testing.T) {
	w := vocabulary()
	r := rand.New(rand.NewPCG(3, 11))
	const programs, calls = 1500, 100
	byRule := 0
	for range programs {
		byRule += newPair(t, w.policies(r)).compare(t, w, r, calls)
	}
	// A comparison of calls that no rule decides would show little.
	if total := programs * calls; byRule < total/5 || byRule > total*19/20 {
		t.Errorf("%d of %d calls were decided by a rule", byRule, total)
	}
}

func FuzzEngines(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 8))
	for range 4 {
		seed := make([]byte, 600)
		for i := range seed {
			seed[i] = byte(r.IntN(256))
		}
		f.Add(seed)
	}
	w := vocabulary()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		source := &bytesSource{data}
		p := newPair(t, w.policies(source))
		p.compare(t, w, source, 20)
		p.explains(t, w, source, 5)
	})
}
