package limit

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/signet-mesh/signet/authz"
)

// The rates are so high that nothing is refused, which is the dearer case: a refusal writes no state.
const never = `"requests":16000000,"unit":"Second","burst":4000000000`

func benchmark(b *testing.B, s *Set, connections []*authz.Connection, r *authz.Request) {
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if s.Take(b.Context(), connections[i%len(connections)], r).Tightest == nil {
				b.Fail()
			}
		}
	})
}

func BenchmarkUnkeyed(b *testing.B) {
	s := compiled(b, NewRegistry(nil), local(``, never))
	benchmark(b, s, []*authz.Connection{caller(b, "")}, get("/"))
}

func BenchmarkRefused(b *testing.B) {
	s := compiled(b, NewRegistry(nil), local(``, `"requests":1,"unit":"Hour"`))
	benchmark(b, s, []*authz.Connection{caller(b, "")}, get("/"))
}

func BenchmarkSelected(b *testing.B) {
	s := compiled(b, NewRegistry(nil), local(`{"path":{"value":"/each"},"methods":[{"value":"GET"}],"headers":[{"name":"x-tier","value":"free"}],"sourceCIDR":{"value":"10.0.0.0/8"}}`, never))
	r := get("/each/one")
	r.Headers = fields{"accept", "*/*", "x-tier", "free"}
	benchmark(b, s, []*authz.Connection{caller(b, "")}, r)
}

func BenchmarkKeyed(b *testing.B) {
	for _, n := range []int{1, 1000, 64000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := compiled(b, NewRegistry(nil), local(`{"identity":{"type":"Distinct"}}`, never))
			var all []*authz.Connection
			for i := range n {
				all = append(all, caller(b, fmt.Sprintf("spiffe://cluster.local/ns/lab/sa/caller-%d", i)))
			}
			benchmark(b, s, all, get("/"))
		})
	}
}

func BenchmarkQuota(b *testing.B) {
	s := compiled(b, NewRegistry(nil), local(``, `"requests":4000000000,"unit":"Month"`))
	benchmark(b, s, []*authz.Connection{caller(b, "")}, get("/"))
}

func BenchmarkClock(b *testing.B) {
	r := NewRegistry(nil)
	for b.Loop() {
		_ = r.moment(false)
	}
}
