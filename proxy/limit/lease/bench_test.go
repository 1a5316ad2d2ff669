package lease

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/proxy/limit"
)

// The limit is so high that nothing is refused.
func plenty() *limit.Bucket { return rate(4e9, 4e9, time.Second) }

func BenchmarkLeased(b *testing.B) {
	for _, keys := range []int{1, 1000} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			p := run(b, "one", startRedis(b).store())
			p.is(b, up, 1)
			bucket := plenty()
			for i := range 30 * keys { // until the batches are large
				p.Take(b.Context(), bucket, limit.Key{byte(i % keys), byte(i % keys >> 8)})
			}
			began, trips := time.Now(), p.Status().RoundTrips
			b.ReportAllocs()
			b.SetParallelism(8)
			b.ResetTimer()
			var away, refused atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					g, ok := p.Take(b.Context(), bucket, limit.Key{byte(i % keys), byte(i % keys >> 8)})
					if !ok {
						away.Add(1)
						time.Sleep(100 * time.Microsecond) // a caller has more to do than to ask again
					} else if !g.Allowed {
						refused.Add(1)
					}
				}
			})
			b.ReportMetric(float64(p.Status().RoundTrips-trips)/time.Since(began).Seconds(), "trips/s")
			b.ReportMetric(float64(away.Load()), "away")
			b.ReportMetric(float64(refused.Load()), "refused")
		})
	}
}

func BenchmarkRefused(b *testing.B) {
	p := run(b, "one", startRedis(b).store())
	p.is(b, up, 1)
	bucket := rate(1, 1, time.Hour)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Take(b.Context(), bucket, limit.Key{1})
		}
	})
}

// BenchmarkScriptPerRequest is what a limit without leases costs: the same script for each request.
func BenchmarkScriptPerRequest(b *testing.B) {
	c := startRedis(b).client()
	s := redis.NewScript(gcraSource)
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Run(b.Context(), c, []string{"k"}, 1, 1e6, 4e9, 4e9).Err(); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkFixedWindow is what envoyproxy/ratelimit does for each request: INCRBY and EXPIRE in one pipeline.
func BenchmarkFixedWindow(b *testing.B) {
	c := startRedis(b).client()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			pipe := c.Pipeline()
			pipe.IncrBy(b.Context(), "k", 1)
			pipe.Expire(b.Context(), "k", time.Minute)
			if _, err := pipe.Exec(b.Context()); err != nil {
				b.Error(err)
			}
		}
	})
}
