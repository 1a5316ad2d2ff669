package compile

import (
	"fmt"
	"testing"
	"time"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

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
		{"method+negatives", func(i int) *security.Rule {
			return rule1(&security.Source{NotNamespaces: []string{fmt.Sprintf("n%d", i)}},
				&security.Operation{Methods: []string{fmt.Sprintf("M%d", i)}, NotPaths: []string{"/x"}})
		}, func(n int) call {
			return call{peer: "spiffe://td.example/ns/none/sa/none", method: fmt.Sprintf("M%d", n-1), path: "/"}
		}, missing},
	}
}

func (s shape) policies(n int) []*policy {
	var out []*policy
	for i := 0; i < n; {
		p := &policy{Meta: mesh.Meta{Key: mesh.Key{Namespace: "shop", Name: fmt.Sprintf("p%05d", i)}}, Spec: &security.AuthorizationPolicy{}}
		for ; i < n && len(p.Spec.Rules) < 10; i++ {
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

// The index finds in constant time: what 10,000 rules cost is far from a hundred times what 100 do. The bound is loose,
// since the machine is shared; the benchmarks give the figures.
func TestDecideDoesNotGrow(t *testing.T) {
	fastest := func(p *authz.Program, conn *authz.Connection, req *authz.Request) time.Duration {
		best := time.Hour
		for range 20 {
			start := time.Now()
			for range 200 {
				p.Decide(conn, req)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	for _, s := range shapes() {
		var took [2]time.Duration
		for i, n := range []int{100, 10000} {
			program, err := Compile(s.policies(n), options)
			if err != nil {
				t.Fatal(err)
			}
			conn, req := s.hit(n).read(t)
			if _, d := program.Decide(conn, req); !d.Allowed {
				t.Fatalf("%s at %d: %+v", s.name, n, d)
			}
			took[i] = fastest(program, conn, req)
		}
		if took[1] > 20*took[0] {
			t.Errorf("%s: 200 decisions take %v with 100 rules, %v with 10,000", s.name, took[0], took[1])
		}
	}
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
