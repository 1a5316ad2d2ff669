package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/limit/lease"
	"github.com/signet-mesh/signet/proxy/limit/rls"
)

// rates serves Envoy's rate limit service from the mesh's global limits, counted in the same store.
type rates struct {
	ln       net.Listener
	log      *slog.Logger
	registry *limit.Registry
	store    *lease.Leases
	server   *rls.Server
	said     string // the last error of update; guarded by Plane's one call at a time
}

// newRates is nil without a listener.
func newRates(cfg *Config) (*rates, error) {
	if cfg.RateLimit == nil {
		return nil, nil
	}
	settings := cfg.Control.GetRateLimitStore()
	if settings == nil {
		return nil, errors.New("serving rate limits: there is no store: give --redis")
	}
	store, err := lease.New(lease.Config{Store: settings, ID: "signet-system/signetd", Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	r := &rates{ln: cfg.RateLimit, log: cfg.Log, registry: limit.NewRegistry(nil), store: store}
	r.registry.SetStore(store)
	return r, nil
}

// update puts the policies of a snapshot in force.
func (r *rates) update(s *mesh.Snapshot) {
	if r == nil {
		return
	}
	if r.server == nil {
		r.server = rls.New(rls.Config{Registry: r.registry, Normalization: s.Settings().Normalization})
	}
	var all []*mesh.Typed[*policy.RateLimitPolicy]
	for _, o := range s.Objects() {
		if spec, ok := o.Spec.(*policy.RateLimitPolicy); ok {
			all = append(all, &mesh.Typed[*policy.RateLimitPolicy]{Meta: o.Meta, Spec: spec})
		}
	}
	said := ""
	if err := r.server.Update(all); err != nil {
		said = err.Error()
	}
	if said != "" && said != r.said {
		r.log.Error("rate limit policies can't be served, those before go on", "error", said)
	}
	r.said = said
}

// run serves until ctx ends.
func (r *rates) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.store.Run(ctx) })
	g.Go(func() error {
		server := grpc.NewServer(grpc.MaxRecvMsgSize(1<<20), grpc.ConnectionTimeout(10*time.Second))
		r.server.Register(server)
		defer context.AfterFunc(ctx, server.Stop)()
		if err := server.Serve(r.ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serving rate limits: %w", err)
		}
		return nil
	})
	return g.Wait()
}
