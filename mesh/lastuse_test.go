package mesh_test

import (
	"sync/atomic"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

func TestLastUse(t *testing.T) {
	var clock atomic.Uint64
	u := mesh.NewLastUse(&clock)
	clock.Store(7)
	if u.Last() != 0 {
		t.Error("used before anybody used it")
	}
	u.Touch()
	clock.Store(9)
	if u.Last() != 7 {
		t.Errorf("used at %d", u.Last())
	}
	if n := testing.AllocsPerRun(10, func() { clock.Add(1); u.Touch() }); n > 0 || u.Last() != clock.Load() {
		t.Errorf("%v allocations, used at %d of %d", n, u.Last(), clock.Load())
	}
	(*mesh.LastUse)(nil).Touch()
	for name, c := range map[string]struct {
		answer mesh.Answer
		want   string
	}{
		"pay":             {mesh.Answer{Host: "pay.shop.svc.cluster.local"}, "pay.shop.svc.cluster.local"},
		"a.example.com":   {mesh.Answer{Host: "*.example.com"}, "a.example.com"},
		"unknown.example": {mesh.Answer{}, "unknown.example"},
		"10.0.0.1":        {mesh.Answer{Workload: "shop/pay-1"}, "10.0.0.1"},
	} {
		if got := c.answer.UsedAs(name); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func BenchmarkTouch(b *testing.B) {
	var clock atomic.Uint64
	u := mesh.NewLastUse(&clock)
	for b.Loop() {
		u.Touch()
	}
}
