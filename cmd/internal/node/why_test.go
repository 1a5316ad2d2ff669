package node

import (
	"context"
	"slices"
	"testing"

	"github.com/signet-mesh/signet/certs/certtest"
)

// TestExplanationLearns: an explanation about a host asks for it as a call does, and goes on with what came; a sidecar that holds
// everything asks for nothing.
func TestExplanationLearns(t *testing.T) {
	p := startPod(t, certtest.NewCA(t, "cluster.local"), "web-1", "web", "127.0.41.4")
	p.apply(p.view())
	before := p.at()
	if before == nil || before.Demand == nil {
		t.Fatalf("%+v: want one that can ask", before)
	}
	a := &plane{p: p}
	learn := learner(before.Workload, func(ctx context.Context, name string) error { return p.corridors.demand(ctx, a, name) }, p.at)
	after := learn(t.Context(), "PAY.shop.:8080")
	a.wg.Wait()
	if after == nil || after.Workload == before.Workload || !slices.Equal(a.asked, []string{"pay.shop"}) {
		t.Errorf("%+v after %q was asked; want what runs once pay.shop was answered", after, a.asked)
	}
	if learn(t.Context(), "a@b"); len(a.asked) != 1 {
		t.Errorf("what names no host is asked: %q", a.asked)
	}
	a.away = true
	if unknown := learn(t.Context(), "lost.shop"); unknown == nil {
		t.Error("without a control plane there is no explanation")
	}
	whole := p.view()
	whole.Asked = nil
	p.apply(whole)
	if at := p.at(); at == nil || at.Demand != nil {
		t.Errorf("%+v: want one that asks for nothing", at)
	}
}
