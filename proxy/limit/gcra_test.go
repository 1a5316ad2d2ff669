package limit

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ticking is a clock that goes on by a step each time it is read.
func ticking(step time.Duration) (func() time.Time, func() time.Duration) {
	var passed atomic.Int64
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return func() time.Time { return start.Add(time.Duration(passed.Add(int64(step)))) },
		func() time.Duration { return time.Duration(passed.Load()) }
}

// TestRateIsExact asks at three times the rate: what passes is the rate and the burst, never more, however many ask. (A burst
// of 1 wants requests a whole interval apart, so that with one that comes early some of the rate is lost.)
func TestRateIsExact(t *testing.T) {
	for _, c := range []struct {
		requests, burst uint32
		unit            string
		per, step       time.Duration
		n               int
	}{
		{20, 10, "Second", time.Second, time.Second / 60, 600},
		{7, 2, "Second", time.Second, time.Second / 21, 2100},
		{1000, 1000, "Second", time.Second, time.Second / 3000, 60000},
		{900000, 100, "Second", time.Second, 370, 120000},
		{15000000, 50, "Second", time.Second, 22, 120000},
		{100, 20, "Minute", time.Minute, time.Minute / 300, 6000},
		{3, 3, "Hour", time.Hour, 7 * time.Minute, 3000},
	} {
		for _, goroutines := range []int{1, 2, 8} {
			t.Run(fmt.Sprintf("%d a %s by %d", c.requests, c.unit, goroutines), func(t *testing.T) {
				now, elapsed := ticking(c.step)
				s := compiled(t, NewRegistry(now), local(``, fmt.Sprintf(`"requests":%d,"unit":%q,"burst":%d`, c.requests, c.unit, c.burst)))
				start := elapsed()
				var got atomic.Int64
				var group sync.WaitGroup
				for range goroutines {
					group.Go(func() { got.Add(int64(passed(t, s, caller(t, ""), get("/"), c.n/goroutines))) })
				}
				group.Wait()
				want := float64(c.requests)*float64(elapsed()-start)/float64(c.per) + float64(c.burst)
				if n := float64(got.Load()); n > want || n < want*0.999-2 {
					t.Errorf("%v passed, want %.1f", n, want)
				}
			})
		}
	}
}

// TestNoWindowHasMore looks at every window between two requests that passed.
func TestNoWindowHasMore(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		requests, burst := 1+random.IntN(50), random.IntN(30)
		clock := newHand()
		s := compiled(t, NewRegistry(clock.now), local(``, fmt.Sprintf(`"requests":%d,"unit":"Second","burst":%d`, requests, burst)))
		var at []time.Time
		for range 2000 {
			if random.IntN(3) > 0 {
				clock.add(time.Duration(random.ExpFloat64() * float64(time.Second) / float64(3*requests)))
			}
			if random.IntN(300) == 0 {
				clock.add(time.Duration(random.IntN(5)) * time.Second)
			}
			if passed(t, s, caller(t, ""), get("/"), 1) == 1 {
				at = append(at, clock.now())
			}
		}
		for i := range at {
			for j := i; j < len(at); j++ {
				if n, most := j-i+1, float64(requests)*at[j].Sub(at[i]).Seconds()+float64(max(burst, 1)); float64(n) > most+1e-6 {
					t.Fatalf("seed %d: %d a second, burst %d: %d passed in %v, at most %.3f may", seed, requests, burst, n, at[j].Sub(at[i]), most)
				}
			}
		}
		if len(at) < 100 {
			t.Fatalf("seed %d: only %d passed", seed, len(at))
		}
	}
}

// TestGrant follows one bucket.
func TestGrant(t *testing.T) {
	clock := newHand()
	s := compiled(t, NewRegistry(clock.now), local(``, `"requests":2,"unit":"Second","burst":3`))
	for i, c := range []struct {
		wait          time.Duration
		allowed       bool
		remaining     uint32
		retry, resets time.Duration
	}{
		{0, true, 2, 0, 500 * time.Millisecond},
		{0, true, 1, 0, time.Second},
		{0, true, 0, 0, 1500 * time.Millisecond},
		{0, false, 0, 500 * time.Millisecond, 1500 * time.Millisecond},
		{400 * time.Millisecond, false, 0, 100 * time.Millisecond, 1100 * time.Millisecond},
		{100 * time.Millisecond, true, 0, 0, 1500 * time.Millisecond},
		{time.Hour, true, 2, 0, 500 * time.Millisecond},
	} {
		clock.add(c.wait)
		v := s.Take(t.Context(), caller(t, ""), get("/"))
		if v.Grant != (Grant{c.allowed, c.remaining, c.retry, c.resets}) || (v.Refused == nil) != c.allowed || v.Retry != c.retry {
			t.Errorf("%d: %+v", i, v)
		}
	}
}

// TestBurst takes all that is there at once.
func TestBurst(t *testing.T) {
	for limit, want := range map[string]int{
		`"requests":20,"unit":"Second"`:                      20,
		`"requests":20,"unit":"Second","burst":5`:            5,
		`"requests":20,"unit":"Second","burst":0`:            1,
		`"requests":20,"unit":"Minute","burst":100`:          100,
		`"requests":0,"unit":"Second"`:                       0,
		`"requests":0,"unit":"Second","burst":5`:             0,
		`"requests":0,"unit":"Month"`:                        0,
		`"requests":37,"unit":"Day"`:                         37,
		`"requests":1,"unit":"Hour","burst":4294967295`:      500,
		`"requests":4294967295,"unit":"Second"`:              500,
		`"requests":4294967295,"unit":"Hour","burst":499`:    499,
		`"requests":4294967295,"unit":"Day"`:                 500,
		`"requests":1,"unit":"Second","burst":1`:             1,
		`"requests":4294967295,"unit":"Second","burst":200`:  200,
		`"requests":4294967295,"unit":"Minute","burst":1000`: 500,
	} {
		s := compiled(t, NewRegistry(newHand().now), local(``, limit))
		if got := passed(t, s, caller(t, ""), get("/"), 500); got != want {
			t.Errorf("%s: %d passed, want %d", limit, got, want)
		}
		if v := s.Take(t.Context(), caller(t, ""), get("/")); v.Refused != nil && v.Retry <= 0 {
			t.Errorf("%s: refused, to come back in %v", limit, v.Retry)
		}
	}
}
