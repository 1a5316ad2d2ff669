package rego

import (
	"context"
	"testing"

	"github.com/open-policy-agent/opa/v1/metrics"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/signet-mesh/signet/authz"
)

// benchmarkPure is what OPA's own API takes with an input that is ready.
func benchmarkPure(b *testing.B, p *Policy, c *authz.Connection, r *authz.Request) {
	b.ReportAllocs()
	s := p.current.Load()
	ctx := context.Background()
	q, err := oparego.New(oparego.Query(p.query.String()), oparego.Compiler(s.compiler), oparego.Store(s.store)).PrepareForEval(ctx)
	if err != nil {
		b.Fatal(err)
	}
	input, err := buildInput(s.reads, c, r, false)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, _ = q.Eval(ctx, oparego.EvalParsedInput(input.Value), oparego.EvalMetrics(metrics.NoOp()), oparego.EvalTransaction(s.txn),
			oparego.EvalExternalCancel(topdown.NewCancel()))
	}
}
