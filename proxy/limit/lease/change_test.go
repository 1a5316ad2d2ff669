package lease

import (
	"fmt"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// TestChangedNumbers: under a changed limit of the same name what was used counts on, what a lease still held goes back, and
// no more passes than either limit allows.
func TestChangedNumbers(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	const hour = time.Hour
	for i, c := range []struct {
		before, after limit.Bucket
		uses, passes  int
	}{
		{limit.Bucket{Requests: 30, Calendar: policy.Limit_Month}, limit.Bucket{Requests: 40, Calendar: policy.Limit_Month}, 30, 10},
		{limit.Bucket{Requests: 100, Calendar: policy.Limit_Month}, limit.Bucket{Requests: 40, Calendar: policy.Limit_Month}, 30, 10},
		{limit.Bucket{Requests: 100, Calendar: policy.Limit_Month}, limit.Bucket{Requests: 20, Calendar: policy.Limit_Month}, 30, 0},
		{limit.Bucket{Requests: 30, Burst: 30, Period: hour}, limit.Bucket{Requests: 30, Burst: 50, Period: hour}, 30, 20},
		{limit.Bucket{Requests: 30, Burst: 30, Period: hour}, limit.Bucket{Requests: 30, Burst: 20, Period: hour}, 30, 0},
		{limit.Bucket{Requests: 30, Burst: 30, Period: hour}, limit.Bucket{Requests: 60, Burst: 60, Period: hour}, 15, 30}, // half of it
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			p := run(t, fmt.Sprint("proxy-", i), r.store())
			p.is(t, up, 0)
			c.before.Name = fmt.Sprint("lab/oven/global/0123456789abcdef/", i)
			c.after.Name = c.before.Name
			if n := p.take(t, &c.before, c.uses); n != c.uses {
				t.Fatalf("%d passed before the change, want %d", n, c.uses)
			}
			passed := 0
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if g := p.sure(t, &c.after, limit.Key{1}); g.Allowed {
					passed++
				}
			}
			if passed != c.passes {
				t.Errorf("%d passed after the change, want %d", passed, c.passes)
			}
		})
	}
}
