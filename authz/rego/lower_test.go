package rego

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// lowered says which policies of the corpus run as native code.
var lowered = map[string]bool{
	"spiffe.rego": true, "globs.rego": true, "decision.rego": true, "constant.rego": true, "every.rego": true,
	"conflict.rego": true, "undefined.rego": true, "tricky.rego": true, "order.rego": true,
}

func TestWhatIsLowered(t *testing.T) {
	for name, p := range corpus(t) {
		s := p.Status()
		if s.Lowered != lowered[name] || s.Lowered == (s.NotLowered != "") {
			t.Errorf("%s: lowered %v, %q", name, s.Lowered, s.NotLowered)
		}
	}
}

// outcome is how a policy judges one reading by native code and by topdown with and without its rule index. Native code
// that isn't sure has no say. The rule index may skip what would have failed.
func outcome(t testing.TB, p *Policy, c *authz.Connection, r *authz.Request, decoded bool) (sure, allowed bool) {
	t.Helper()
	s := p.current.Load()
	input, err := buildInput(s.reads, c, r, decoded)
	if err != nil {
		t.Fatal(err)
	}
	indexed, err1 := p.run(t.Context(), s, input, true)
	scanned, err2 := p.run(t.Context(), s, input, false)
	if (err1 != nil && err2 == nil) || (err2 == nil && !same(indexed, scanned)) {
		t.Errorf("rule index on: %v, %v; off: %v, %v\n%s", indexed, err1, scanned, err2, input)
	}
	f := s.native.frames.Get().(*frame)
	defer s.native.frames.Put(f)
	f.reset(c, r, decoded)
	v, ok := s.native.run(f)
	if !ok {
		return false, false
	}
	var native ast.Value
	if v.kind != undefined {
		native = f.toAST(v)
	}
	if err1 != nil || err2 != nil || !same(native, indexed) {
		t.Errorf("%s lowered: %v; OPA: %v, %v, %v\n%s", p.query, native, indexed, err1, err2, input)
	}
	return true, native == ast.Boolean(true) || native != nil && strings.Contains(native.String(), `"allowed": true`)
}

func same(a, b ast.Value) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return ast.Compare(a, b) == 0
}

func TestLoweredAgreesWithOPA(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(1, 2))}
	for name, p := range corpus(t) {
		if !lowered[name] {
			continue
		}
		surely, allowed := 0, 0
		const n = 1500
		for range n {
			c, r := d.connection(t), d.request()
			sure, yes := outcome(t, p, c, r, false)
			if sure {
				surely++
			}
			if yes {
				allowed++
			}
			if r.DecodedPath != "" {
				outcome(t, p, c, r, true)
			}
			if t.Failed() {
				t.Fatalf("%s: %+v", name, r)
			}
		}
		if surely < n/2 || allowed == 0 || allowed == n {
			t.Errorf("%s: of %d requests native code was sure of %d and allowed %d: they test nothing", name, n, surely, allowed)
		}
		sure, _ := outcome(t, p, d.connection(t), nil, false)
		t.Logf("%s: sure of %d, allowed %d; of TCP %v", name, surely, allowed, sure)
	}
}

func FuzzLowered(f *testing.F) {
	f.Add(uint64(1), uint64(2), "", "")
	f.Add(uint64(3), uint64(4), "/people/1", "web")
	policies := corpus(f)
	f.Fuzz(func(t *testing.T, a, b uint64, path, header string) {
		d := dice{rand.New(rand.NewPCG(a, b))}
		c, r := d.connection(t), d.request()
		if path != "" {
			r.Path, r.DecodedPath = path, ""
		}
		if header != "" {
			r.Headers = append(r.Headers.(fields), "x-tier", header, "authorization", header)
		}
		for name := range lowered {
			outcome(t, policies[name], c, r, false)
			if r.DecodedPath != "" {
				outcome(t, policies[name], c, r, true)
			}
		}
	})
}

func TestLoweredAllocatesNothing(t *testing.T) {
	policies := corpus(t)
	c := peer(t, "web")
	r := &authz.Request{Method: "GET", Path: "/people/12", Query: "?a=b", Host: "menu", Headers: fields{"x-tier", "gold"}, Minor: 1}
	for _, name := range []string{"spiffe.rego", "globs.rego"} {
		p := policies[name]
		for range canaryFirst {
			p.Ask(t.Context(), c, r)
		}
		if a := p.Ask(t.Context(), c, r); !a.Allowed || a.Err != nil {
			t.Fatalf("%s: %+v", name, a)
		}
		// The detector of races makes pools forget: the frame is held here.
		n := p.current.Load().native
		f := n.frames.Get().(*frame)
		if got := testing.AllocsPerRun(500, func() { f.reset(c, r, false); n.run(f) }); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
		if s := p.Status(); s.Natively != s.Evaluations || s.CanaryDifferences != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// TestCanary breaks the native code: topdown's answer counts, and native code is not asked again.
func TestCanary(t *testing.T) {
	var log bytes.Buffer
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Log: slog.New(slog.NewTextHandler(&log, nil)),
		Spec: &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\ndefault allow := false\nallow if input.attributes.request.http.method == \"GET\""},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &authz.Request{Method: "POST", Path: "/", Headers: fields{}}
	p.Ask(t.Context(), peer(t, ""), r)
	if s := p.Status(); !s.Lowered || s.Natively != 1 || s.CanaryDifferences != 0 {
		t.Fatalf("%+v", s)
	}
	n := p.current.Load().native
	n.root = func(*frame) value { return truth(true) }
	for range 3 {
		if a := p.Ask(t.Context(), peer(t, ""), r); a.Allowed {
			t.Fatal("the wrong answer counted")
		}
	}
	s := p.Status()
	if s.Lowered || s.NotLowered == "" || s.CanaryDifferences != 1 || s.Natively != 1 || s.Evaluations != 4 {
		t.Errorf("%+v", s)
	}
	if strings.Count(log.String(), "level=ERROR") != 1 || !strings.Contains(log.String(), "policy=lab/menu") {
		t.Errorf("log: %s", log.String())
	}
}

// TestLoweredLeavesLongWorkToTopdown gives native code more to look at than it may.
func TestLoweredLeavesLongWorkToTopdown(t *testing.T) {
	p := made(t, "package m\ndefault allow := false\nallow if { some g in input.token.claims.groups; g == \"ops\" }", "data.m.allow")
	groups := make([]any, maxSteps+1)
	for i := range groups {
		groups[i] = "staff"
	}
	d := dice{rand.New(rand.NewPCG(1, 1))}
	r := &authz.Request{Method: "GET", Path: "/", Headers: fields{}, Token: d.token()}
	r.Token.Claims = map[string]any{"groups": groups}
	if a := p.Ask(t.Context(), peer(t, ""), r); a.Allowed || a.Err != nil {
		t.Fatalf("%+v", a)
	}
	if s := p.Status(); !s.Lowered || s.Natively != 0 || s.Evaluations != 1 {
		t.Errorf("%+v", s)
	}
}

func BenchmarkAsk(b *testing.B) {
	c := peer(b, "web")
	r := &authz.Request{Method: "GET", Path: "/people/12", Host: "menu", Headers: fields{"x-tier", "gold", "user-agent", "curl"}, Minor: 1}
	other := &authz.Request{Method: "PUT", Path: "/other/12", Host: "menu", Headers: fields{"user-agent", "curl"}, Minor: 1}
	ctx := context.Background()
	for _, name := range []string{"spiffe.rego", "globs.rego", "decision.rego", "comprehension.rego"} {
		p := corpus(b)[name]
		s := p.current.Load()
		b.Run(name+"/ask", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Ask(ctx, c, r)
			}
		})
		b.Run(name+"/denied", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Ask(ctx, c, other)
			}
		})
		b.Run(name+"/cores", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p.Ask(ctx, c, r)
				}
			})
		})
		b.Run(name+"/topdown", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = p.evaluate(ctx, s, c, r, false)
			}
		})
		b.Run(name+"/pure", func(b *testing.B) { benchmarkPure(b, p, c, r) })
	}
}
