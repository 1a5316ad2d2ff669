package lease

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

func TestQuotaPassesExactly(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	for _, unit := range []policy.Limit_Unit{policy.Limit_Day, policy.Limit_Month} {
		for _, n := range []uint32{1, 5, 100} {
			t.Run(fmt.Sprintf("%d a %s", n, unit), func(t *testing.T) {
				p := run(t, "one", r.store())
				p.is(t, up, 1)
				if got := p.take(t, quota(n, unit), int(n)+20); got != int(n) {
					t.Errorf("%d passed, want %d", got, n)
				}
				g := p.sure(t, quota(n, unit), limit.Key{1})
				if g.Allowed || g.Retry <= 0 || g.Retry > 32*24*time.Hour || g.Reset != g.Retry && g.Reset <= 0 {
					t.Errorf("afterwards %+v", g)
				}
				if other := p.sure(t, quota(n, unit), limit.Key{2}); !other.Allowed {
					t.Errorf("another key: %+v", other)
				}
			})
		}
	}
}

// TestQuotaOutlivesRestarts: the count is in Redis, which keeps it on disk; what was leased and not used goes back.
func TestQuotaOutlivesRestarts(t *testing.T) {
	t.Parallel()
	r := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	b, passed := quota(1000, policy.Limit_Month), 0
	for round := range 4 {
		p := run(t, "one", r.store())
		p.is(t, up, 1)
		passed += p.take(t, b, 100)
		p.end()
		if round%2 == 0 {
			r.kill() // as in a crash
			r.start()
		}
	}
	if passed != 400 {
		t.Fatalf("%d passed, want 400", passed)
	}
	p := run(t, "two", r.store())
	p.is(t, up, 1)
	if got := p.take(t, b, 700); got != 600 {
		t.Errorf("%d passed after the restarts, want the 600 that were left", got)
	}
}

// TestEightProxies offers three times the rate to eight proxies. What passes is counted against the time that passed.
func TestEightProxies(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	proxies := make([]*proxy, 8)
	for i := range proxies {
		proxies[i] = run(t, fmt.Sprintf("proxy-%d", i), r.store())
	}
	for _, p := range proxies {
		p.is(t, up, 8)
	}
	for _, tc := range []struct {
		rate, burst uint32
		offered     int
	}{{1000, 100, 3000}, {1000, 1000, 3000}, {500, 5, 1500}} {
		t.Run(fmt.Sprintf("%d-%d", tc.rate, tc.burst), func(t *testing.T) {
			b := rate(tc.rate, tc.burst, time.Second)
			began := time.Now()
			passed, kept := offer(t, proxies, b, tc.offered, 4*time.Second)
			ideal := float64(tc.rate)*time.Since(began).Seconds() + float64(tc.burst)
			t.Logf("%d passed, ideal %.0f (%+.1f %%), the machine kept up: %v", passed, ideal, 100*(float64(passed)/ideal-1), kept)
			if f := float64(passed); f > 1.05*ideal || kept && f < 0.75*ideal || f == 0 {
				t.Errorf("%d passed, want about %.0f", passed, ideal)
			}
		})
	}
}

// offer spreads so many requests a second over the proxies, in steps of a few milliseconds. A request that got no answer in
// time, as happens on a busy machine, is made again.
// It says too whether the machine kept up.
func offer(t *testing.T, proxies []*proxy, b *limit.Bucket, perSecond int, d time.Duration) (n int64, kept bool) {
	var passed, stalls atomic.Int64
	var all sync.WaitGroup
	total := int(d.Seconds() * float64(perSecond) / float64(len(proxies)))
	for _, p := range proxies {
		all.Go(func() {
			began := time.Now()
			last := began
			for sent := 0; sent < total && time.Since(began) < 2*d; time.Sleep(2 * time.Millisecond) {
				if time.Since(last) > 40*time.Millisecond {
					stalls.Add(1)
				}
				last = time.Now()
				due := min(int(time.Since(began).Seconds()*float64(perSecond)/float64(len(proxies))), total)
				for ; sent < due; sent++ {
					g, ok := p.Take(t.Context(), b, limit.Key{7})
					if !ok {
						stalls.Add(1)
						break
					}
					if g.Allowed {
						passed.Add(1)
					}
				}
			}
		})
	}
	all.Wait()
	return passed.Load(), stalls.Load() == 0
}

// TestUnderTheLimit: what is offered below the rate passes, whoever of the proxies gets it.
func TestUnderTheLimit(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	proxies := make([]*proxy, 8)
	for i := range proxies {
		proxies[i] = run(t, fmt.Sprintf("proxy-%d", i), r.store())
	}
	for _, p := range proxies {
		p.is(t, up, 8)
	}
	for _, n := range []int{8, 1} {
		passed, kept := offer(t, proxies[:n], rate(1000, 100, time.Second), 800, 3*time.Second)
		if passed > 2400 || kept && passed < 2160 { // 90 % of 2400
			t.Errorf("with %d proxies %d of 2400 passed", n, passed)
		}
		t.Logf("with %d proxies %d of 2400 passed, %d round trips of the first", n, passed, proxies[0].Status().RoundTrips)
	}
}

// TestOutstanding: the proxies together never hold more than half the burst, and what they hold goes back.
func TestOutstanding(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	a, b := run(t, "a", r.store()), run(t, "b", r.store())
	a.is(t, up, 2)
	b.is(t, up, 2)
	bucket := rate(400, 400, time.Hour)
	b.take(t, bucket, 10)
	for range 150 {
		a.take(t, bucket, 1)
		if e := a.table.find(bucket, limit.Key{1}); e != nil && e.left.Load() > 100 {
			t.Fatalf("a proxy holds %d of a burst of 400 that two share", e.left.Load())
		}
		time.Sleep(time.Millisecond) // what is ordered arrives
	}
	eventually(t, 5*time.Second, func() string {
		for _, p := range []*proxy{a, b} {
			if e := p.table.find(bucket, limit.Key{1}); e != nil {
				return fmt.Sprintf("the lease of an idle key is still there, with %d tokens", e.left.Load())
			}
		}
		return ""
	})
	if got := a.take(t, bucket, 400); got < 240 || got > 242 { // and one each 9 s
		t.Errorf("%d passed after 160 had, want 240 of 400", got)
	}
}

func TestProxiesComeAndGo(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	a, b := run(t, "a", r.store()), run(t, "b", r.store())
	a.is(t, up, 2)
	b.end()
	a.is(t, up, 1)
	if s := b.Status(); s.State != "stopped" {
		t.Errorf("an ended one says %q", s.State)
	}
	if _, ok := b.Take(t.Context(), rate(10, 10, time.Second), limit.Key{}); ok {
		t.Error("an ended one answers")
	}
	// one that crashed is forgotten
	now, err := r.client().Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	r.client().Do(t.Context(), "ZADD", keyProxies, now.Add(-2*time.Second).UnixMilli(), "crashed")
	a.is(t, up, 2)
	a.is(t, up, 1)
}

// TestScriptsAreLoadedAgain: Redis forgets scripts when it restarts or is told to.
func TestScriptsAreLoadedAgain(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	p := run(t, "one", r.store())
	p.is(t, up, 1)
	for range 3 {
		if err := r.client().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if got := p.take(t, rate(10, 10, time.Hour), 3); got != 3 {
			t.Fatalf("%d of 3 passed", got)
		}
	}
}

func TestKeysAreBoundedAndUnambiguous(t *testing.T) {
	t.Parallel()
	p, err := New(Config{Store: &policy.RateLimitStore{Url: "redis://127.0.0.1"}, ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	b := rate(1, 1, time.Second)
	for i := range maxLeases + 10 {
		e := p.table.add(b, limit.Key{byte(i), byte(i >> 8), byte(i >> 16)})
		if (e == nil) != (i >= maxLeases) {
			t.Fatalf("lease %d: %v", i, e)
		}
	}
	if _, ok := p.Take(t.Context(), b, limit.Key{255, 255, 255}); ok || p.Status().Full != 1 {
		t.Error("one more than there is room for was answered")
	}
	var held []*lease
	p.table.all(func(e *lease) { held = append(held, e) })
	for i, e := range held {
		if i%2 == 0 {
			p.table.remove(e)
		}
	}
	for i, e := range held {
		if got := p.table.find(b, e.key); (got != nil) != (i%2 == 1) {
			t.Fatalf("lease %d: found %v", i, got)
		}
	}
	seen := map[string]bool{}
	for _, name := range []string{"a/b/0", "a/b/0:" + strings.Repeat("00", 16), "g:a", "a"} {
		for _, c := range []policy.Limit_Unit{0, policy.Limit_Day} {
			seen[(&lease{Bucket: limit.Bucket{Name: name, Calendar: c}}).storeKey()] = true
		}
	}
	if len(seen) != 8 {
		t.Errorf("keys coincide: %v", seen)
	}
}

func TestWarmLeaseDoesNotAllocate(t *testing.T) {
	r := startRedis(t)
	p := run(t, "one", r.store())
	p.is(t, up, 1)
	for _, b := range []*limit.Bucket{rate(1e6, 1e6, time.Second), quota(1e9, policy.Limit_Day)} {
		p.take(t, b, 1000)
		e := p.table.find(b, limit.Key{1})
		e.left.Add(1e6) // so that no refill is due
		ctx := t.Context()
		if n := testing.AllocsPerRun(1000, func() { p.Take(ctx, b, limit.Key{1}) }); n != 0 {
			t.Errorf("%s: %v allocations a decision", b.Name, n)
		}
		if b.Calendar == 0 { // refused
			e.left.Store(0)
			e.quietUntil.Store(1 << 62)
			e.staleUntil.Store(1 << 62)
			if n := testing.AllocsPerRun(1000, func() { p.Take(ctx, b, limit.Key{1}) }); n != 0 {
				t.Errorf("%s: %v allocations a refusal", b.Name, n)
			}
		}
	}
}

func TestContention(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	p := run(t, "one", r.store())
	p.is(t, up, 1)
	b := rate(5000, 5000, time.Hour)
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 200 {
				if p.sure(t, b, limit.Key{9}).Allowed {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := passed.Load(); n < 4900 || n > 5000+200 { // and what comes while it lasts
		t.Errorf("%d passed of a burst of 5000", n)
	}
	t.Logf("%d passed in %d round trips", passed.Load(), p.Status().RoundTrips)
}
