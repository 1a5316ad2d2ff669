package upstream

import (
	"fmt"
	"math"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// cluster is one with those weights; nothing listens.
func cluster(policy Policy, weights ...uint32) *Cluster {
	sp := Spec{Name: "outbound|80||x", Policy: policy}
	for i, w := range weights {
		sp.Targets = append(sp.Targets, Target{Address: fmt.Sprintf("127.0.0.1:%d", 1000+i), Weight: w})
	}
	return NewSet(nil, Options{}).Update([]Spec{sp})[sp.Name]
}

// picks counts n picks by endpoint.
func picks(c *Cluster, n int, tried ...*Endpoint) []int {
	out := make([]int, len(c.Endpoints()))
	for range n {
		e := c.Pick(tried)
		for i := range out {
			if c.Endpoints()[i] == e {
				out[i]++
			}
		}
	}
	return out
}

func TestDistribution(t *testing.T) {
	const n = 20000
	for _, policy := range []Policy{LeastRequest, RoundRobin, Random} {
		for _, weights := range [][]uint32{{1}, {1, 1, 1}, {0, 1}, {90, 10}, {1, 2, 3, 4}, {5, 5, 5}, {math.MaxUint32, 1 << 31, 1 << 31}} {
			var sum float64
			for _, w := range weights {
				sum += float64(max(w, 1))
			}
			for i, got := range picks(cluster(policy, weights...), n) {
				want := n * float64(max(weights[i], 1)) / sum
				if math.Abs(float64(got)-want) > n*0.02 {
					t.Errorf("%v %v: endpoint %d got %d, want about %.0f", policy, weights, i, got, want)
				}
			}
		}
	}
}

// Within a round each endpoint has exactly its weight, and equal ones take strict turns.
func TestRoundRobinIsExact(t *testing.T) {
	c := cluster(RoundRobin, 90, 10)
	for range 5 {
		if got := picks(c, 10); got[0] != 9 || got[1] != 1 {
			t.Fatalf("%v of a round of ten", got)
		}
	}
	c = cluster(RoundRobin, 1, 1, 1)
	for range 5 {
		if got := picks(c, 3); got[0] != 1 || got[1] != 1 || got[2] != 1 {
			t.Fatalf("%v of a round of three", got)
		}
	}
}

func TestLeastRequestPrefersTheIdle(t *testing.T) {
	c := cluster(LeastRequest, 1, 1)
	c.Endpoints()[0].pool.active.Store(1)
	if got := picks(c, 1000); got[0] != 0 {
		t.Errorf("%d of 1000 went to the busy one", got[0])
	}
	c = cluster(LeastRequest, 3, 1)
	c.Endpoints()[0].pool.active.Store(2) // less for its weight than one is for the other's
	c.Endpoints()[1].pool.active.Store(1)
	if got := picks(c, 1000); got[1] != 0 {
		t.Errorf("%d of 1000 went to the one busier for its weight", got[1])
	}
}

func TestPickAvoidsTheTried(t *testing.T) {
	for _, policy := range []Policy{LeastRequest, RoundRobin, Random} {
		for _, weights := range [][]uint32{{1, 1, 1}, {1000, 1, 1}} {
			c := cluster(policy, weights...)
			e := c.Endpoints()
			if got := picks(c, 300, e[0]); got[0] != 0 || got[1] < 90 || got[2] < 90 {
				t.Errorf("%v %v: %v with the first tried", policy, weights, got)
			}
			if got := picks(c, 100, e[0], e[2]); got[1] != 100 {
				t.Errorf("%v %v: %v with one left", policy, weights, got)
			}
			if got := picks(c, 100, e...); got[0]+got[1]+got[2] != 100 {
				t.Errorf("%v %v: %v with all tried", policy, weights, got)
			}
		}
	}
	// Endpoints of another generation of the configuration are the same targets.
	set := NewSet(nil, Options{})
	sp := Spec{Name: "x", Targets: []Target{{Address: "127.0.0.1:1"}, {Address: "127.0.0.1:2"}}}
	before := set.Update([]Spec{sp})["x"].Endpoints()
	if got := picks(set.Update([]Spec{sp})["x"], 100, before[1]); got[0] != 100 {
		t.Errorf("%v", got)
	}
}

func TestEmptyAndUnnamed(t *testing.T) {
	c := cluster(LeastRequest)
	if c.Pick(nil) != nil {
		t.Error("picked from nothing")
	}
	if c.Name() != "outbound|80||x" || *c.Destination() != (proxy.Destination{}) {
		t.Errorf("%q %v", c.Name(), c.Destination())
	}
	if e := cluster(Random, 1).Pick(nil); e.Party() == nil || e.Address() != "127.0.0.1:1000" || e.AddrPort().Port() != 1000 || e.MTLS() {
		t.Errorf("%+v", e)
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, policy := range []Policy{LeastRequest, RoundRobin, Random} {
		c := cluster(policy, 1, 2, 3)
		tried := c.Endpoints()[:1]
		if n := testing.AllocsPerRun(100, func() {
			c.Pick(nil)
			c.Pick(tried)
		}); n != 0 {
			t.Errorf("%v: %v allocations", policy, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range []Policy{LeastRequest, RoundRobin, Random} {
		c := cluster(policy, 1, 2, 3, 4)
		b.Run(policy.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Pick(nil)
			}
		})
	}
}
