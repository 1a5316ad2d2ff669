package limit

import (
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

func TestNoLimits(t *testing.T) {
	var none *Set
	r := NewRegistry(nil)
	for name, s := range map[string]*Set{"nil": none, "zero": {}, "empty": compiled(t, r), "no rules": compiled(t, r, `{}`)} {
		v := s.Take(t.Context(), caller(t, ""), get("/"))
		if !reflect.DeepEqual(v, Verdict{}) || v.AppendFields(nil) != nil || v.Detail() != "" || len(s.Explain(caller(t, ""), get("/"))) != 0 || len(s.Status()) != 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	s := compiled(t, r, local(``, `"requests":1,"unit":"Hour"`))
	if v := s.Take(t.Context(), &authz.Connection{}, &authz.Request{}); v.Refused != nil {
		t.Errorf("a request of nothing: %+v", v)
	}
}

// TestAllCount: a request counts against every rule that matches, also where another refuses; the longest wait is told.
func TestAllCount(t *testing.T) {
	clock := newHand()
	s := compiled(t, NewRegistry(clock.now), `{"local":{"rules":[
		{"limit":{"requests":2,"unit":"Second"}},
		{"limit":{"requests":3,"unit":"Hour"}},
		{"limit":{"requests":1,"unit":"Minute"},"shadowMode":true},
		{"limit":{"requests":0,"unit":"Day"},"clientSelectors":[{"path":{"value":"/never"}}]}]}}`)
	var by []string
	for range 4 {
		v := s.Take(t.Context(), caller(t, ""), get("/"))
		if v.Refused != nil {
			by = append(by, v.Refused.By)
		} else if v.Tightest == nil || v.Tightest.Ref.Rule != 0 {
			t.Errorf("tightest: %+v", v)
		}
	}
	if !reflect.DeepEqual(by, []string{"RateLimitPolicy/lab/oven[0]", "RateLimitPolicy/lab/oven[1]"}) {
		t.Errorf("refused by %q", by)
	}
	var counts [][4]uint64
	for _, st := range s.Status() {
		counts = append(counts, [4]uint64{st.Allowed, st.Refused, st.Shadowed, uint64(st.Rule.Ref.Rule)})
	}
	if want := [][4]uint64{{2, 2, 0, 0}, {3, 1, 0, 1}, {1, 0, 3, 2}, {0, 0, 0, 3}}; !reflect.DeepEqual(counts, want) {
		t.Errorf("counts %v, want %v", counts, want)
	}
}

func TestShadow(t *testing.T) {
	s := compiled(t, NewRegistry(newHand().now), `{"local":{"rules":[{"limit":{"requests":1,"unit":"Hour"},"shadowMode":true}]}}`)
	for i := range 3 {
		v := s.Take(t.Context(), caller(t, ""), get("/"))
		if v.Refused != nil || (v.Shadow != nil) != (i > 0) || v.Tightest != nil {
			t.Errorf("%d: %+v", i, v)
		}
	}
}

func TestQuarantined(t *testing.T) {
	p := authored(t, `{"local":{"rules":[{"limit":{"requests":100,"unit":"Second"}}]}}`)
	p.Annotations = map[string]string{mesh.QuarantineAnnotation: "it was refused"}
	s, err := NewRegistry(nil).Compile([]*mesh.Typed[*policy.RateLimitPolicy]{p})
	if err != nil {
		t.Fatal(err)
	}
	v := s.Take(t.Context(), caller(t, alice), get("/"))
	if v.Refused == nil || v.Refused.By != "RateLimitPolicy/lab/oven" || v.Retry != time.Minute || v.Detail() != "local_rate_limited" {
		t.Errorf("%+v", v)
	}
	if e := s.Explain(caller(t, alice), get("/")); len(e) != 1 || !e[0].Matched || e[0].Grant.Allowed || !e[0].Known {
		t.Errorf("%+v", e)
	}
}

// TestStateCarriesOver: only a change of what a rule counts gives it a new bucket.
func TestStateCarriesOver(t *testing.T) {
	const rule = `{"clientSelectors":[{"identity":{"type":"Distinct"}}],"limit":{"requests":3,"unit":"Hour"}`
	r := NewRegistry(newHand().now)
	s := compiled(t, r, `{"local":{"rules":[`+rule+`}]}}`)
	if n := passed(t, s, caller(t, alice), get("/"), 5); n != 3 {
		t.Fatalf("%d passed of a new rule", n)
	}
	for _, c := range []struct {
		change, spec string
		left         int
	}{
		{"none", `{"local":{"rules":[` + rule + `}]}}`, 0},
		{"a rule behind it", `{"local":{"rules":[` + rule + `},{"limit":{"requests":1000,"unit":"Second"}}]}}`, 0},
		{"another selector", `{"selector":{"matchLabels":{"app":"oven"}},"local":{"rules":[` + rule + `}]}}`, 0},
		{"shadow mode", `{"local":{"rules":[` + rule + `,"shadowMode":true}]}}`, 5},
		{"a global rule", `{"local":{"rules":[` + rule + `}]},"global":{"rules":[]}}`, 0},
		{"more requests", `{"local":{"rules":[{"clientSelectors":[{"identity":{"type":"Distinct"}}],"limit":{"requests":4,"unit":"Hour"}}]}}`, 0},
		{"burst", `{"local":{"rules":[{"clientSelectors":[{"identity":{"type":"Distinct"}}],"limit":{"requests":3,"unit":"Hour","burst":2}}]}}`, 0},
		{"a rule above it", `{"local":{"rules":[{"limit":{"requests":1000,"unit":"Second"}},` + rule + `}]}}`, 0},
		{"no requests", `{"local":{"rules":[{"clientSelectors":[{"identity":{"type":"Distinct"}}],"limit":{"requests":0,"unit":"Hour"}}]}}`, 0},
		{"unit", `{"local":{"rules":[{"clientSelectors":[{"identity":{"type":"Distinct"}}],"limit":{"requests":3,"unit":"Day"}}]}}`, 3},
		{"path", `{"local":{"rules":[{"clientSelectors":[{"path":{"value":"/"},"identity":{"type":"Distinct"}}],"limit":{"requests":3,"unit":"Hour"}}]}}`, 3},
	} {
		if n := passed(t, compiled(t, r, c.spec), caller(t, alice), get("/"), 5); n != c.left {
			t.Errorf("changed %s: %d pass, want %d", c.change, n, c.left)
		}
	}
	if _, err := r.Compile([]*mesh.Typed[*policy.RateLimitPolicy]{authored(t, `{"local":{"rules":[{}]}}`)}); err == nil {
		t.Error("a rule without a limit compiles")
	}
	if n := passed(t, compiled(t, r, `{"local":{"rules":[`+rule+`}]}}`), caller(t, alice), get("/"), 5); n != 0 {
		t.Errorf("after a refused change %d pass", n)
	}
	runtime.KeepAlive(s)
}

// TestStateGoes with the last Set that used it.
func TestStateGoes(t *testing.T) {
	r := NewRegistry(newHand().now)
	kept := compiled(t, r, local(``, `"requests":3,"unit":"Hour"`))
	func() { passed(t, compiled(t, r, local(``, `"requests":4,"unit":"Day"`)), caller(t, ""), get("/"), 5) }()
	if n := len(r.Status()); n != 2 {
		t.Errorf("%d rules have state, want 2", n)
	}
	runtime.GC()
	runtime.GC()
	if st := r.Status(); len(st) != 1 || st[0].Rule.Bucket.Requests != 3 {
		t.Errorf("%+v", st)
	}
	if n := passed(t, compiled(t, r, local(``, `"requests":4,"unit":"Day"`)), caller(t, ""), get("/"), 5); n != 4 {
		t.Errorf("a rule that was gone passes %d, want 4", n)
	}
	if n := len(r.cells); n != 2 {
		t.Errorf("%d cells, want 2", n)
	}
	runtime.KeepAlive(kept)
}

func TestExplain(t *testing.T) {
	clock := newHand()
	spec := `{"local":{"rules":[
		{"clientSelectors":[{"identity":{"type":"Distinct"},"headers":[{"name":"x-tier","type":"Distinct"}]}],"limit":{"requests":3,"unit":"Hour"}},
		{"clientSelectors":[{},{"path":{"value":"/each"},"headers":[{"name":"x-tier","value":"gold"}]}],"limit":{"requests":3,"unit":"Day"}}]},
		"global":{"rules":[{"limit":{"requests":3,"unit":"Day"}}]}}`
	r := from("x")
	r.Headers = fields{"x-tier", "free"}
	s := compiled(t, NewRegistry(clock.now), spec)
	for range 10 {
		e := s.Explain(caller(t, alice), r)
		if !e[0].Matched || !e[0].Known || e[0].Key != "header x-tier \"free\", identity "+alice || e[0].Grant != (Grant{Allowed: true, Remaining: 3}) {
			t.Fatalf("%+v", e[0])
		}
		if e[1].Matched || e[1].Field != "spec.local.rules[1].clientSelectors[1].headers[0]" || e[1].Saw != "free" || e[1].Known {
			t.Fatalf("%+v", e[1])
		}
		if !e[2].Matched || e[2].Known || e[2].Key != "" || !e[2].Rule.Global || e[2].Rule.Ref.Rule != 2 {
			t.Fatalf("%+v", e[2])
		}
	}
	s.Take(t.Context(), caller(t, alice), r)
	if e := s.Explain(caller(t, alice), r)[0]; e.Grant != (Grant{Allowed: true, Remaining: 2, Reset: 20 * time.Minute}) {
		t.Errorf("after one: %+v", e.Grant)
	}
	passed(t, s, caller(t, alice), r, 5)
	if e := s.Explain(caller(t, alice), r)[0]; e.Grant.Allowed || e.Grant.Retry != 20*time.Minute {
		t.Errorf("after all: %+v", e.Grant)
	}
	if e := compiled(t, NewOffline(), spec).Explain(caller(t, alice), r)[0]; e.Known || !e.Matched || e.Key == "" {
		t.Errorf("offline: %+v", e)
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	const every = `{"path":{"value":"/each"},"methods":[{"value":"GET"}],"headers":[{"name":"x-tier","type":"Distinct"},{"name":"x-tier","type":"RegularExpression","value":"f.*"}],
		"sourceCIDR":{"type":"Distinct","value":"10.0.0.0/8"},"identity":{"type":"Distinct"},"queryParams":[{"name":"q","type":"Distinct"}]}`
	r := get("/each/one")
	r.Query, r.Headers = "?p=1&q=2", fields{"x-tier", "free"}
	c := caller(t, alice)
	for name, spec := range map[string]string{
		"unkeyed": local(``, `"requests":100,"unit":"Second"`), "keyed": local(every, `"requests":100,"unit":"Second"`),
		"refused": local(every, `"requests":1,"unit":"Hour"`), "quota": local(every, `"requests":100,"unit":"Month"`),
		"global": `{"global":{"rules":[{"clientSelectors":[` + every + `],"limit":{"requests":100,"unit":"Day"}}]}}`,
		"away":   `{"global":{"rules":[{"clientSelectors":[` + every + `],"limit":{"requests":100,"unit":"Second"}}]}}`,
	} {
		registry := NewRegistry(nil)
		registry.SetStore(&shop{away: name == "away", left: 5})
		s := compiled(t, registry, spec)
		if v := s.Take(t.Context(), c, r); v.Tightest == nil {
			t.Errorf("%s: does not match", name)
		}
		ctx := t.Context()
		if n := testing.AllocsPerRun(1000, func() { s.Take(ctx, c, r) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
