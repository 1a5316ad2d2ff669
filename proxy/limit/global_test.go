package limit

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
)

// shop is a store that says what the test wants.
type shop struct {
	mu       sync.Mutex
	away     bool
	refuse   bool
	left     uint32
	replicas int
	last     Key
	bucket   *Bucket
	asked    int
}

func (s *shop) Take(_ context.Context, b *Bucket, key Key) (Grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	s.last, s.bucket = key, b
	if s.away {
		return Grant{}, false
	}
	if s.refuse {
		return Grant{Retry: 1500 * time.Millisecond, Reset: 2 * time.Second}, true
	}
	return Grant{Allowed: true, Remaining: s.left, Reset: time.Second}, true
}

func (s *shop) Replicas() int { return s.replicas }

// wide is a spec of one global rule.
func wide(selectors, limit, failure string) string {
	return `{"global":{"rules":[{"clientSelectors":[` + selectors + `],"limit":{` + limit + `},"onStoreFailure":"` + failure + `"}]}}`
}

func TestGlobal(t *testing.T) {
	store := &shop{left: 7}
	r := NewRegistry(newHand().now)
	s := compiled(t, r, wide(``, `"requests":10,"unit":"Second"`, "Allow"))
	if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused == nil || !v.StoreAway || v.Detail() != "rate_limiter_error" {
		t.Errorf("without a store, and onStoreFailure Allow: %+v", v)
	}
	r.SetStore(store)
	if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused != nil || v.Grant.Remaining != 7 || v.Tightest == nil || store.bucket != &v.Tightest.Bucket {
		t.Errorf("%+v", v)
	}
	store.refuse = true
	if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused == nil || v.Retry != 1500*time.Millisecond || v.Detail() != "request_rate_limited" || v.StoreAway {
		t.Errorf("%+v", v)
	}
	asked := store.asked
	if v := compiled(t, r, wide(``, `"requests":0,"unit":"Second"`, "Allow")).Take(t.Context(), caller(t, ""), get("/")); v.Refused == nil || store.asked != asked {
		t.Errorf("a limit of nothing: %+v, asked %d times", v, store.asked-asked)
	}
	r.SetStore(nil)
	if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused == nil || !v.StoreAway {
		t.Errorf("the store was taken away: %+v", v)
	}
}

// TestKeyIsTheSameEverywhere: two processes give a caller the same key, and two callers, rules or limits never do.
func TestKeyIsTheSameEverywhere(t *testing.T) {
	const byIdentity = `{"identity":{"type":"Distinct"}}`
	keyOf := func(spec, id string) Key {
		store, r := &shop{}, NewRegistry(nil)
		r.SetStore(store)
		compiled(t, r, spec).Take(t.Context(), caller(t, id), get("/"))
		return store.last
	}
	first := keyOf(wide(byIdentity, `"requests":10,"unit":"Second"`, "Local"), alice)
	if again := keyOf(wide(byIdentity, `"requests":10,"unit":"Second"`, "Deny"), alice); again != first || first == (Key{}) {
		t.Errorf("%x, then %x", first, again)
	}
	const above = `{"global":{"rules":[{"limit":{"requests":1,"unit":"Hour"}},{"clientSelectors":[` + byIdentity + `],"limit":{"requests":10,"unit":"Second"}}]}}`
	for _, spec := range []string{wide(byIdentity, `"requests":11,"unit":"Second"`, "Local"), wide(byIdentity, `"requests":10,"unit":"Second","burst":7`, "Local"), above} {
		if key := keyOf(spec, alice); key != first {
			t.Errorf("%s: another key than before the change", spec)
		}
	}
	seen := map[Key]string{first: "first"}
	for _, c := range [][2]string{
		{wide(byIdentity, `"requests":10,"unit":"Second"`, "Local"), bob},
		{wide(byIdentity, `"requests":10,"unit":"Minute"`, "Local"), alice},
		{wide(``, `"requests":10,"unit":"Second"`, "Local"), alice},
		{wide(byIdentity+`,{"path":{"value":"/"}}`, `"requests":10,"unit":"Second"`, "Local"), alice},
	} {
		key := keyOf(c[0], c[1])
		if other, ok := seen[key]; ok {
			t.Errorf("%v has the key of %s", c, other)
		}
		seen[key] = c[0]
	}
	store, r := &shop{}, NewRegistry(nil)
	r.SetStore(store)
	compiled(t, r, wide(``, `"requests":20,"unit":"Second","burst":10`, "Local")).Take(t.Context(), caller(t, ""), get("/"))
	if b := store.bucket; b.Name != "lab/oven/global/b413f47d13ee2fe6/0" || b.Requests != 20 || b.Burst != 10 || b.Period != time.Second || b.Calendar != 0 {
		t.Errorf("bucket %+v: its name stands in the store, and may not change between releases", b)
	}
}

func TestStoreAway(t *testing.T) {
	for _, keys := range []string{``, `{"identity":{"type":"Distinct"}}`} {
		for _, c := range []struct {
			failure, limit string
			replicas       int
			want           int // of 100
			after          int // of 100, 10 s later
		}{
			{"Allow", `"requests":8,"unit":"Second"`, 4, 100, 100},
			{"Deny", `"requests":8,"unit":"Second"`, 4, 0, 0},
			{"Local", `"requests":8,"unit":"Second"`, 4, 2, 2},
			{"Local", `"requests":8,"unit":"Second"`, 0, 8, 8},
			{"Local", `"requests":8,"unit":"Second","burst":40`, 4, 10, 10},
			{"Local", `"requests":2,"unit":"Second"`, 100, 1, 1}, // one in a period is the least
			{"Local", `"requests":1,"unit":"Hour"`, 100, 1, 0},
			{"Local", `"requests":80,"unit":"Day"`, 4, 20, 0},
			{"OnStoreFailure_Unset", `"requests":9,"unit":"Month"`, 4, 3, 0}, // rounded up
		} {
			clock, store := newHand(), &shop{away: true, replicas: c.replicas}
			r := NewRegistry(clock.now)
			r.SetStore(store)
			s := compiled(t, r, wide(keys, c.limit, c.failure))
			got := passed(t, s, caller(t, alice), get("/"), 100)
			clock.add(10 * time.Second)
			after := passed(t, s, caller(t, alice), get("/"), 100)
			if got != c.want || after != c.after {
				t.Errorf("%q, %+v: %d passed, and later %d", keys, c, got, after)
			}
			if st := s.Status()[0]; st.Alone != 200 {
				t.Errorf("%q, %+v: %+v", keys, c, st)
			}
			v := s.Take(t.Context(), caller(t, alice), get("/"))
			if c.failure == "Deny" && (v.Detail() != "rate_limiter_error" || v.Retry != time.Second || len(v.AppendFields(nil)) != 1) {
				t.Errorf("%+v: %+v", c, v)
			}
			if c.failure == "Allow" && (v.Tightest != nil || v.AppendFields(nil) != nil) {
				t.Errorf("%+v: %+v", c, v)
			}
		}
	}
}

// TestQuotaRemembersWhatWasLeft: while the store is away each proxy takes its share of what was last known to be left.
func TestQuotaRemembersWhatWasLeft(t *testing.T) {
	for _, keys := range []string{``, `{"identity":{"type":"Distinct"}}`} {
		clock, store := newHand(), &shop{left: 12, replicas: 4}
		r := NewRegistry(clock.now)
		r.SetStore(store)
		s := compiled(t, r, wide(keys, `"requests":100,"unit":"Day"`, "Local"))
		ask := func(c *authz.Connection, want int) {
			t.Helper()
			if n := passed(t, s, c, get("/"), 50); n != want {
				t.Errorf("%q: %d passed, want %d", keys, n, want)
			}
		}
		ask(caller(t, alice), 50)
		store.away = true
		ask(caller(t, alice), 3)
		if keys != "" {
			ask(caller(t, bob), 25) // nothing is known of bob
		}
		store.away, store.refuse = false, true
		ask(caller(t, alice), 0)
		store.away = true
		ask(caller(t, alice), 0)
		clock.add(24 * time.Hour)
		ask(caller(t, alice), 25)
	}
}
