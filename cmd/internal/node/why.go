package node

import (
	"context"
	"strings"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/proxy/route"
)

// learner asks the control plane for a host that an explanation is about, as a call to it would; nil for a sidecar that holds all
// that it may see. What can't be learnt stays unknown, and the explanation says that. at is the workload as it runs then.
func learner(w *compile.Workload, demand func(ctx context.Context, name string) error, at func() *explain.At) func(context.Context, string) *explain.At {
	if w.Capture == nil || w.Capture.Asked == nil {
		return nil
	}
	return func(ctx context.Context, authority string) *explain.At {
		if host, _, ok := route.SplitAuthority(strings.ToLower(authority), 80); ok {
			_ = demand(ctx, strings.TrimSuffix(host, "."))
		}
		return at()
	}
}
