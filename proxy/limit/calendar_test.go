package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestQuotaEnds uses a quota up at a time, and looks when there is a new one.
func TestQuotaEnds(t *testing.T) {
	for _, c := range []struct{ unit, from, end string }{
		{"Day", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{"Day", "2026-03-01T23:59:59.999999999Z", "2026-03-02T00:00:00Z"},
		{"Day", "2028-02-28T12:00:00Z", "2028-02-29T00:00:00Z"},
		{"Day", "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z"},
		{"Day", "2026-03-29T01:30:00+02:00", "2026-03-29T00:00:00Z"}, // in UTC it is the day before
		{"Month", "2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z"},
		{"Month", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"Month", "2028-02-28T23:59:59Z", "2028-03-01T00:00:00Z"},
		{"Month", "2028-02-29T23:59:59.5Z", "2028-03-01T00:00:00Z"},
		{"Month", "2100-02-28T23:00:00Z", "2100-03-01T00:00:00Z"},
		{"Month", "2026-04-30T10:00:00Z", "2026-05-01T00:00:00Z"},
		{"Month", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"},
		{"Month", "2026-03-01T00:30:00+01:00", "2026-03-01T00:00:00Z"}, // in UTC it is February
	} {
		from, end := instant(t, c.from), instant(t, c.end)
		clock := &hand{at: from}
		s := compiled(t, NewRegistry(clock.now), local(``, fmt.Sprintf(`"requests":3,"unit":%q`, c.unit)))
		if n := passed(t, s, caller(t, ""), get("/"), 10); n != 3 {
			t.Errorf("%s at %s: %d passed, want 3", c.unit, c.from, n)
		}
		if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused == nil || v.Retry != end.Sub(from) || v.Grant.Reset != end.Sub(from) {
			t.Errorf("%s at %s: to come back in %v, want %v", c.unit, c.from, v.Retry, end.Sub(from))
		}
		clock.set(end.Add(-1))
		if n := passed(t, s, caller(t, ""), get("/"), 10); n != 0 {
			t.Errorf("%s: %d passed just before %s", c.unit, n, c.end)
		}
		clock.set(end)
		if n := passed(t, s, caller(t, ""), get("/"), 10); n != 3 {
			t.Errorf("%s: %d passed from %s, want 3", c.unit, n, c.end)
		}
		clock.set(from)
		if n := passed(t, s, caller(t, ""), get("/"), 10); n != 0 {
			t.Errorf("%s: %d passed when the clock was set back to %s", c.unit, n, c.from)
		}
	}
}

// TestQuotaIsExact: many callers at once get exactly the quota, each day again.
func TestQuotaIsExact(t *testing.T) {
	for _, selectors := range []string{``, `{"identity":{"type":"Distinct"}}`} {
		clock := newHand()
		s := compiled(t, NewRegistry(clock.now), local(selectors, `"requests":5000,"unit":"Day"`))
		for range 40 {
			var got atomic.Int64
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() { got.Add(int64(passed(t, s, caller(t, ""), get("/"), 700))) })
			}
			group.Wait()
			if got.Load() != 5000 {
				t.Fatalf("%q: %d passed of 5600, want 5000", selectors, got.Load())
			}
			clock.add(24 * time.Hour)
		}
	}
}
