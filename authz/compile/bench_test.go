package compile

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
)

// BenchmarkCompileOneChanged is what it costs that one policy of many, with a rule each, was changed.
func BenchmarkCompileOneChanged(b *testing.B) {
	for _, s := range shapes() {
		for _, n := range []int{100, 1000, 10000} {
			versions := [2][]*policy{s.policiesOf(n, 1), nil}
			versions[1] = slices.Clone(versions[0])
			changed := *versions[0][len(versions[0])/2]
			changed.Spec = &security.AuthorizationPolicy{Rules: []*security.Rule{s.rule(n + 1), s.rule(n + 2)}}
			versions[1][len(versions[0])/2] = &changed
			cache := NewCache()
			if _, err := cache.Compile(versions[1], options); err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, err := cache.Compile(versions[i%2], options); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCompileDecodedAnew is what it costs that all of 10,000 rules came again unchanged, as after a reconnection.
func BenchmarkCompileDecodedAnew(b *testing.B) {
	policies := shapes()[0].policies(10000)
	cache := NewCache()
	for b.Loop() {
		b.StopTimer()
		again := make([]*policy, len(policies))
		for i, p := range policies {
			c := *p
			c.Spec = proto.CloneOf(p.Spec)
			again[i] = &c
		}
		b.StartTimer()
		if _, err := cache.Compile(again, options); err != nil {
			b.Fatal(err)
		}
	}
}

// shape is a set of rules of one kind, with a call that its n-th rule matches and one that none does.
type shape struct {
	name      string
	rule      func(i int) *security.Rule
	hit, miss func(n int) call
}

func rule1(s *security.Source, o *security.Operation) *security.Rule {
	r := &security.Rule{}
	if s != nil {
		r.From = []*security.Rule_From{{Source: s}}
	}
	if o != nil {
		r.To = []*security.Rule_To{{Operation: o}}
	}
	return r
}

func shapes() []shape {
	workload := func(i int) string { return fmt.Sprintf("spiffe://td.example/ns/n%d/sa/s%d", i%100, i) }
	missing := func(n int) call {
		return call{peer: "spiffe://td.example/ns/none/sa/none", method: "TRACE", host: "api.shop", path: "/none/of/these"}
	}
	return []shape{
		{"principal+prefix", func(i int) *security.Rule {
			return rule1(&security.Source{Principals: []string{workload(i)[len("spiffe://"):]}}, &security.Operation{Paths: []string{fmt.Sprintf("/api/v%d/*", i%10)}})
		}, func(n int) call {
			return call{peer: workload(n - 1), method: "GET", path: fmt.Sprintf("/api/v%d/things", (n-1)%10)}
		}, missing},
		{"namespace+exact", func(i int) *security.Rule {
			return rule1(&security.Source{Namespaces: []string{fmt.Sprintf("n%d", i%100)}}, &security.Operation{Paths: []string{fmt.Sprintf("/svc/%d", i)}})
		}, func(n int) call { return call{peer: workload(n - 1), path: fmt.Sprintf("/svc/%d", n-1)} }, missing},
		{"gateway+templates", func(i int) *security.Rule {
			return rule1(&security.Source{Principals: []string{"td.example/ns/edge/sa/gateway"}},
				&security.Operation{Paths: []string{fmt.Sprintf("/app%d/{*}/items/{**}", i), fmt.Sprintf("/app%d/health", i)}})
		}, func(n int) call {
			return call{peer: "spiffe://td.example/ns/edge/sa/gateway", path: fmt.Sprintf("/app%d/7/items/8/9", n-1)}
		}, func(n int) call {
			return call{peer: "spiffe://td.example/ns/edge/sa/gateway", path: "/none/of/these"}
		}},
		{"account-suffix", func(i int) *security.Rule {
			return rule1(&security.Source{Principals: []string{fmt.Sprintf("*/sa/s%d", i)}}, nil)
		}, func(n int) call { return call{peer: workload(n - 1), path: "/"} }, missing},
		{"request-principal", func(i int) *security.Rule {
			return rule1(&security.Source{RequestPrincipals: []string{fmt.Sprintf("https://idp.example/user-%d", i)}}, nil)
		}, func(n int) call {
			return call{peer: workload(1), path: "/", token: &jwt.Token{Issuer: "https://idp.example", Subject: fmt.Sprintf("user-%d", n-1)}}
		}, missing},
		{"method+negatives", func(i int) *security.Rule {
			return rule1(&security.Source{NotNamespaces: []string{fmt.Sprintf("n%d", i)}},
				&security.Operation{Methods: []string{fmt.Sprintf("M%d", i)}, NotPaths: []string{"/x"}})
		}, func(n int) call {
			return call{peer: "spiffe://td.example/ns/none/sa/none", method: fmt.Sprintf("M%d", n-1), path: "/"}
		}, missing},
	}
}

// policies are n rules in policies of ten.
func (s shape) policies(n int) []*policy { return s.policiesOf(n, 10) }

func (s shape) policiesOf(n, each int) []*policy {
	var out []*policy
	for i := 0; i < n; {
		p := &policy{Meta: mesh.Meta{Key: mesh.Key{Namespace: "shop", Name: fmt.Sprintf("p%05d", i)}}, Spec: &security.AuthorizationPolicy{}}
		for ; i < n && len(p.Spec.Rules) < each; i++ {
			p.Spec.Rules = append(p.Spec.Rules, s.rule(i))
		}
		out = append(out, p)
	}
	return out
}

func TestDecideAllocatesNothing(t *testing.T) {
	for _, s := range shapes() {
		for _, n := range []int{1, 100} {
			program, err := Compile(s.policies(n), options)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range []call{s.hit(n), s.miss(n)} {
				c.second, c.host = "/another/reading", "API.Shop"
				conn, req := c.read(t)
				if a := testing.AllocsPerRun(100, func() { program.Decide(conn, req); program.Decide(conn, nil) }); a != 0 {
					t.Errorf("%s with %d rules: %v allocations", s.name, n, a)
				}
			}
		}
	}
	// Every dimension, headers included.
	program, err := Compile(everyField(t), options)
	if err != nil {
		t.Fatal(err)
	}
	conn, req := call{peer: web, method: "GET", host: "API.Shop", path: "/a", headers: fields{{"x", "a"}, {"x", "b"}}}.read(t)
	var d authz.Decision
	if a := testing.AllocsPerRun(100, func() { _, d = program.Decide(conn, req) }); a != 0 {
		t.Errorf("every field: %v allocations", a)
	}
	if d.Rule == nil || d.Rule.Rule != 5 {
		t.Errorf("every field: %+v", d)
	}
}

func everyField(t testing.TB) []*policy {
	return []*policy{parse(t, "shop", "p", `{rules: [
		{from: [{source: {serviceAccounts: [nobody]}}]},
		{to: [{operation: {hosts: ["*.example", x.shop]}}]},
		{to: [{operation: {paths: [/nothing, "*.js", "/x/{*}"]}}]},
		{from: [{source: {namespaces: [none], notIpBlocks: [10.0.0.0/8]}}]},
		{when: [{key: "request.headers[x]", values: [z]}]},
		{from: [{source: {serviceAccounts: [web]}}], to: [{operation: {hosts: [api.shop], methods: [GET], paths: [/a]}}], when: [{key: "request.headers[x]", values: [a, b]}]}]}`)}
}

// The index finds in constant time: of many rules, no more than a few stand under one key, and none under no key; and that
// stays so while policies change.
func TestIndexSpreads(t *testing.T) {
	const n = 2500
	for _, s := range shapes() {
		policies := s.policiesOf(n, 1)
		cache := NewCache()
		for round := range 3 {
			e, err := cache.compile(policies, options)
			if err != nil {
				t.Fatal(err)
			}
			conn, req := s.hit(n).read(t)
			if d := e.Judge(conn, req); !d.Allowed || d.Rule.Policy != fmt.Sprintf("p%05d", n-1) {
				t.Fatalf("%s: %+v", s.name, d)
			}
			x := e.http.allow.index
			if fullest := x.fullest(); fullest > 4 || len(x.residual) > 0 || x.edits != 100*round {
				t.Errorf("%s after %d edits: %d rules under one key, %d under none", s.name, x.edits, fullest, len(x.residual))
			}
			policies = slices.Clone(policies)
			for i := range 50 { // each becomes the rule of a neighbour
				c := *policies[50*i]
				c.Spec = &security.AuthorizationPolicy{Rules: []*security.Rule{s.rule(50*i + round + 1)}}
				policies[50*i] = &c
			}
		}
	}
}

// fullest is how many rules stand under the key with most of them.
func (x *index) fullest() (n int) {
	for _, b := range x.buckets()[1:] { // without the residual
		n = max(n, len(b))
	}
	return n
}

func BenchmarkDecide(b *testing.B) {
	for _, s := range shapes() {
		for _, n := range []int{1, 100, 1000, 10000} {
			program, err := Compile(s.policies(n), options)
			if err != nil {
				b.Fatal(err)
			}
			for name, c := range map[string]call{"hit": s.hit(n), "miss": s.miss(n)} {
				conn, req := c.read(b)
				if _, d := program.Decide(conn, req); d.Allowed != (name == "hit") {
					b.Fatalf("%s: %+v", name, d)
				}
				b.Run(fmt.Sprintf("%s/%d/%s", s.name, n, name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						program.Decide(conn, req)
					}
				})
			}
		}
	}
}

func BenchmarkDecideLinear(b *testing.B) {
	for _, s := range shapes() {
		program, err := CompileLinear(s.policies(1000), options)
		if err != nil {
			b.Fatal(err)
		}
		conn, req := s.miss(1000).read(b)
		b.Run(s.name+"/1000/miss", func(b *testing.B) {
			for b.Loop() {
				program.Decide(conn, req)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, s := range shapes() {
		policies := s.policies(10000)
		b.Run(s.name+"/10000", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(policies, options); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
