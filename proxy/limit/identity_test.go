package limit

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// rules is a spec of local rules that all count the same callers.
func rules(limits ...string) string {
	spec := `{"local":{"rules":[`
	for i, l := range limits {
		if i > 0 {
			spec += ","
		}
		spec += `{"limit":{` + l + `}}`
	}
	return spec + `]}}`
}

// TestNumbersKeepWhatWasUsed says what passes under a changed limit after the one before was used up.
func TestNumbersKeepWhatWasUsed(t *testing.T) {
	for _, c := range []struct {
		name, before, after string
		left                int // of 100
	}{
		{"a quota is raised", `"requests":30,"unit":"Day"`, `"requests":40,"unit":"Day"`, 10},
		{"a quota is lowered", `"requests":30,"unit":"Month"`, `"requests":20,"unit":"Month"`, 0},
		{"a rate is raised", `"requests":30,"unit":"Hour"`, `"requests":90,"unit":"Hour"`, 0},
		{"a rate is lowered", `"requests":30,"unit":"Hour"`, `"requests":2,"unit":"Hour"`, 0},
		{"a burst is raised", `"requests":30,"unit":"Hour","burst":30`, `"requests":30,"unit":"Hour","burst":50`, 20},
		{"a burst is lowered", `"requests":30,"unit":"Hour"`, `"requests":30,"unit":"Hour","burst":1`, 0},
		{"a short burst at a high rate", `"requests":30,"unit":"Hour"`, `"requests":16000000,"unit":"Hour","burst":1`, 0},
		{"nothing is allowed", `"requests":30,"unit":"Minute"`, `"requests":0,"unit":"Minute"`, 0},
		{"another unit", `"requests":30,"unit":"Day"`, `"requests":40,"unit":"Month"`, 40},
	} {
		for _, keys := range []string{``, `{"identity":{"type":"Distinct"}}`} {
			clock := newHand()
			r := NewRegistry(clock.now)
			first := compiled(t, r, local(keys, c.before))
			passed(t, first, caller(t, alice), get("/"), 100)
			next := compiled(t, r, local(keys, c.after))
			if n := passed(t, next, caller(t, alice), get("/"), 100); n != c.left {
				t.Errorf("%s (%q): %d pass, want %d", c.name, keys, n, c.left)
			}
			runtime.KeepAlive(first)
			if first.rules[0].shape.calendar != 0 || next.rules[0].Bucket.Requests == 0 {
				continue
			}
			clock.add(2 * time.Hour) // the old bucket would have been full long since
			if n := passed(t, next, caller(t, alice), get("/"), 100); n != int(next.rules[0].Bucket.Burst) {
				t.Errorf("%s (%q): %d pass later, want the burst", c.name, keys, n)
			}
		}
	}
}

// TestTwins: rules of one policy with the same selectors and unit have buckets of their own, by their order among
// themselves, whatever stands between them.
func TestTwins(t *testing.T) {
	const small, large, other = `"requests":2,"unit":"Day"`, `"requests":5,"unit":"Day"`, `"requests":100,"unit":"Second"`
	names := func(s *Set) (out []string) {
		for _, st := range s.Status() {
			out = append(out, st.Rule.Bucket.Name)
		}
		return out
	}
	r := NewRegistry(newHand().now)
	s := compiled(t, r, rules(small, large))
	if n := passed(t, s, caller(t, alice), get("/"), 4); n != 2 {
		t.Errorf("%d passed", n)
	}
	next := compiled(t, r, rules(other, small, other, large))
	was, is := names(s), names(next)
	if was[0] == was[1] || is[0] == is[2] || is[1] != was[0] || is[3] != was[1] || slices.Contains(was, is[0]) {
		t.Errorf("names %q, then %q", was, is)
	}
	if st := next.Status(); st[1].Refused != 2 || st[3].Allowed != 4 || st[0].Allowed != 0 {
		t.Errorf("%+v", st)
	}
	if e := next.Explain(caller(t, alice), get("/")); e[1].Grant.Allowed || e[3].Grant.Remaining != 1 {
		t.Errorf("%+v", e)
	}
	both := compiled(t, r, `{"local":{"rules":[{"limit":{`+small+`}}]},"global":{"rules":[{"limit":{`+small+`}}]}}`)
	if all := names(both); all[0] != was[0] || all[1] == all[0] {
		t.Errorf("local and global: %q", all)
	}
	runtime.KeepAlive(s)
}

// TestNothingAllowedIsKnown, whatever the state and where there is none.
func TestNothingAllowedIsKnown(t *testing.T) {
	gone := authored(t, rules(`"requests":5,"unit":"Second"`))
	gone.Annotations = map[string]string{mesh.QuarantineAnnotation: "it was refused"}
	for name, p := range map[string]*mesh.Typed[*policy.RateLimitPolicy]{
		"quarantined": gone,
		"local":       authored(t, rules(`"requests":0,"unit":"Second"`)),
		"quota":       authored(t, rules(`"requests":0,"unit":"Month"`)),
		"keyed":       authored(t, local(`{"identity":{"type":"Distinct"}}`, `"requests":0,"unit":"Minute"`)),
		"global":      authored(t, wide(`{"identity":{"type":"Distinct"}}`, `"requests":0,"unit":"Minute"`, "Allow")),
		"shadow":      authored(t, `{"local":{"rules":[{"limit":{"requests":0,"unit":"Second"},"shadowMode":true}]}}`),
	} {
		for _, r := range []*Registry{NewOffline(), NewRegistry(newHand().now)} {
			s, err := r.Compile([]*mesh.Typed[*policy.RateLimitPolicy]{p})
			if err != nil {
				t.Fatal(err)
			}
			if e := s.Explain(caller(t, alice), get("/"))[0]; !e.Known || !e.Matched || e.Grant.Allowed || e.Grant.Retry < 1e9 || e.Shadow != (name == "shadow") {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}
