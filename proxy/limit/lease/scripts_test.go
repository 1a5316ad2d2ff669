package lease

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// at runs a script as if Redis' clock showed t.
func at(t *testing.T, c *redis.Client, source string, now time.Time, args ...any) []int64 {
	t.Helper()
	clock := fmt.Sprintf("{'%d', '%d'}", now.Unix(), now.Nanosecond()/1000)
	fixed := strings.Replace(source, "redis.call('TIME')", clock, 1)
	if fixed == source {
		t.Fatal("the script does not read the clock")
	}
	v, err := c.Eval(t.Context(), fixed, []string{"k"}, args...).Int64Slice()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestWindows compares the script's calendar with Go's.
func TestWindows(t *testing.T) {
	t.Parallel()
	c := startRedis(t).client()
	for now := time.Date(2023, 12, 1, 23, 59, 59, 999_999_000, time.UTC); now.Year() < 2033; now = now.Add(31 * time.Hour) {
		day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
		month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
		for unit, w := range map[string]struct{ first, after time.Time }{
			"day": {day, day.AddDate(0, 0, 1)}, "month": {month, month.AddDate(0, 1, 0)},
		} {
			v := at(t, c, quotaSource, now, 0, unit, 5, 2, 0)
			if first := w.first.Unix() / 86400; v[4] != first || v[3] != w.after.Sub(now).Microseconds() {
				t.Fatalf("%s of %s: window %d for %d us, want %d for %s", unit, now, v[4], v[3], first, w.after.Sub(now))
			}
		}
	}
}

// TestQuotaScript: a new window begins at 0, and nothing goes back into another window than it is of.
func TestQuotaScript(t *testing.T) {
	t.Parallel()
	c := startRedis(t).client()
	noon := time.Date(2027, 2, 28, 12, 0, 0, 0, time.UTC)
	window := noon.Unix() / 86400
	for i, step := range []struct {
		now         time.Time
		n           int64
		window      int64
		given, left int64
	}{
		{noon, 4, 0, 4, 6},
		{noon, 4, 0, 3, 3}, // no more than half of what is left
		{noon, -2, window, -2, 5},
		{noon, -2, window - 1, 0, 5},
		{noon.Add(24 * time.Hour), -2, window, 0, 10},
		{noon.Add(24 * time.Hour), 5, 0, 5, 5},
		{noon.Add(24 * time.Hour), -9, window + 1, -5, 10},
		{noon, 1, 0, 1, 9}, // a clock that went back
	} {
		v := at(t, c, quotaSource, step.now, step.n, "day", 10, 2, step.window)
		if v[0] != step.given || v[1] != step.left {
			t.Errorf("step %d: given %d, left %d, want %d, %d", i, v[0], v[1], step.given, step.left)
		}
	}
	if ttl := c.TTL(t.Context(), "k").Val(); ttl <= 0 {
		t.Errorf("the key never expires: %s", ttl)
	}
}

// TestRateScript: over ten simulated seconds, in batches, exactly rate x time + burst is given, also where the interval is
// no whole number of microseconds.
func TestRateScript(t *testing.T) {
	t.Parallel()
	c := startRedis(t).client()
	for _, tc := range []struct{ rate, burst, batch int64 }{{900_000, 1000, 1000}, {7, 1, 1}, {1000, 100, 7}, {4_000_000_000, 1_000_000_000, 100_000_000}, {3, 10, 20}} {
		c.Del(t.Context(), "k")
		var given, want int64
		begin := time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC)
		step := max(time.Duration(tc.batch)*time.Second/time.Duration(tc.rate)/3, 100*time.Microsecond)
		var now time.Time
		for now = begin; now.Sub(begin) < 3*time.Second; now = now.Add(step) {
			given += at(t, c, gcraSource, now, tc.batch, 1e6, tc.rate, tc.burst)[0]
		}
		want = tc.burst + int64(now.Add(-step).Sub(begin).Seconds()*float64(tc.rate))
		if given > want+1 || float64(given) < 0.999*float64(want)-float64(tc.batch) && tc.batch < tc.burst {
			t.Errorf("%d/s, burst %d: %d given, want %d", tc.rate, tc.burst, given, want)
		}
	}
}

// TestGivingBackForgivesNoMore: tokens of a lease from before a change of the limit take off what they are worth, though
// others have gone on by a larger burst since.
func TestGivingBackForgivesNoMore(t *testing.T) {
	t.Parallel()
	c := startRedis(t).client()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, step := range []struct{ n, burst, given, left int64 }{
		{10, 10, 10, 0},
		{1, 10, 0, 0},
		{2000, 1000, 990, 0}, // the burst was raised
		{-3, 10, -3, -987},   // who has not heard yet gives back
		{2000, 1000, 3, 0},
		{1, 10, 0, 0}, // the burst was lowered
	} {
		if v := at(t, c, gcraSource, now, step.n, 1e6, 10, step.burst); v[0] != step.given || v[1] != step.left {
			t.Errorf("step %d: given %d, left %d, want %d, %d", i, v[0], v[1], step.given, step.left)
		}
	}
}

// TestRateScriptSurvivesItsKey: what a stranger or a clock left in the key neither fails nor closes the limit.
func TestRateScriptSurvivesItsKey(t *testing.T) {
	t.Parallel()
	c := startRedis(t).client()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, value := range []string{"", "x", "1e300", "-5", "99999999999999999"} {
		c.Set(t.Context(), "k", value, 0)
		if v := at(t, c, gcraSource, now, 1, 1e6, 10, 5); v[0] < 0 || v[2] > 100_000 || v[3] > 500_000 {
			t.Errorf("%q: %v", value, v)
		}
		if v := at(t, c, quotaSource, now, 1, "day", 10, 2, 0); v[0] != 1 {
			t.Errorf("quota %q: %v", value, v)
		}
	}
	c.Del(t.Context(), "k")
	c.LPush(t.Context(), "k", "list")
	if v := at(t, c, gcraSource, now, 1, 1e6, 10, 5); v[0] != 1 {
		t.Errorf("a list: %v", v)
	}
}
