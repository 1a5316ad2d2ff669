// Package plane assembles the control plane: the CA and configuration discovery behind one TLS port. A Plane is fed by a
// directory of authored objects; the parts that do not care what feeds them (State, Front) serve a cluster's as well.
package plane

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/admin"
)

// Config is what a control plane is told on its command line.
type Config struct {
	// Dir holds the authored objects, State the CA's keys, join tokens and the last good security objects.
	Dir, State  string
	TrustDomain string
	// Listener is the control port: CA and ADS.
	Listener net.Listener
	// Metrics serves /metrics; nil serves none.
	Metrics net.Listener
	// RateLimit serves Envoy's rate limit service in plaintext; nil serves none. It needs a store in Control.
	RateLimit net.Listener
	// TTL is the lifetime of certificates for which none was asked; 0 means ca.DefaultTTL.
	TTL time.Duration
	// MaxTTL is the longest lifetime that may be asked for; 0 means ca.MaxTTL.
	MaxTTL time.Duration
	// Control is what proxies must know beside the objects; nil is nothing.
	Control *policy.ControlSettings
	Log     *slog.Logger
	// OnReady is called once, when the control port is served; nil for none.
	OnReady func()
	// OnWorkloads is called after OnReady, and again whenever the answer changed, with the workloads that may have a
	// certificate, by namespace and name; nil for none. One call at a time.
	OnWorkloads func([]Workload)
}

// Plane is a control plane.
type Plane struct {
	cfg   Config
	dir   *dir.Dir
	state *State
	rates *rates
}

// New builds a control plane; nothing is read or opened before Run.
func New(cfg Config) *Plane {
	p := &Plane{cfg: cfg, state: NewState()}
	p.dir = dir.New(dir.Config{
		Dir: cfg.Dir, TrustDomain: cfg.TrustDomain, Log: cfg.Log, Persist: filepath.Join(cfg.State, "last-good.json"),
		Judge: compile.Judge(cfg.TrustDomain, cfg.Control), Check: compile.NewCheck(), Control: cfg.Control,
		OnChange: func(s *mesh.Snapshot, problems []mesh.Problem) {
			p.rates.update(s)
			p.state.Set(s, problems)
		},
	})
	return p
}

// Run serves until ctx ends.
func (p *Plane) Run(ctx context.Context) error {
	auth, err := authority.Open(p.cfg.State, p.cfg.TrustDomain, authority.Options{Log: p.cfg.Log})
	if err != nil {
		return err
	}
	defer auth.Close()
	snapshot, problems, err := p.dir.Load()
	if err != nil {
		return err
	}
	if p.rates, err = newRates(&p.cfg); err != nil {
		return err
	}
	p.rates.update(snapshot)
	p.state.Set(snapshot, problems)
	// What nobody asks otherwise for, and the control plane's own.
	lifetime := min(ca.DefaultTTL, cmp.Or(p.cfg.MaxTTL, ca.MaxTTL))
	issuer, err := ca.New(ca.Options{TrustDomain: p.cfg.TrustDomain, Keys: auth, Log: p.cfg.Log, DefaultTTL: cmp.Or(p.cfg.TTL, lifetime), MaxTTL: p.cfg.MaxTTL})
	if err != nil {
		return err
	}
	tokens := attest.NewTokens(p.cfg.State)
	attestor, err := attest.New(p.cfg.TrustDomain, tokens, p.state)
	if err != nil {
		return err
	}
	own, err := rotate.New(rotate.Config{Issuer: issuer.ControlPlane(), Log: p.cfg.Log, TTL: lifetime})
	if err != nil {
		return err
	}
	front, err := NewFront(FrontConfig{TrustDomain: p.cfg.TrustDomain, State: p.state, CA: issuer, Attestor: attestor, Own: own,
		Roots: auth.Roots, Listener: p.cfg.Listener, Metrics: p.cfg.Metrics, Log: p.cfg.Log})
	if err != nil {
		return err
	}
	status := admin.New(admin.Config{Socket: filepath.Join(p.cfg.State, ControlSocket), Status: func() any { return front.Status() },
		Handlers: map[string]http.Handler{"GET /metrics": front.Exposed()}})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return auth.Run(ctx) })
	g.Go(func() error { return tokens.Run(ctx, p.cfg.Log) })
	g.Go(func() error { return own.Run(ctx) })
	g.Go(func() error { return p.dir.Run(ctx) })
	g.Go(func() error { return front.Run(ctx) })
	if p.rates != nil {
		g.Go(func() error { return p.rates.run(ctx) })
	}
	g.Go(func() error { return p.serveAdmin(ctx, status) })
	g.Go(func() error { return p.report(ctx, own) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// report calls OnReady once the control plane can prove itself.
func (p *Plane) report(ctx context.Context, own certs.Source) error {
	for {
		snap, changed := own.Watch()
		if snap.SVID != nil {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
	if p.cfg.OnReady != nil {
		p.cfg.OnReady()
	}
	if p.cfg.OnWorkloads != nil {
		p.tellWorkloads(ctx)
	}
	return nil
}

// serveAdmin serves the admin socket. A state directory that is too deep for the path of one costs the status page only.
func (p *Plane) serveAdmin(ctx context.Context, s *admin.Server) error {
	if err := s.Run(ctx); err != nil {
		p.cfg.Log.Warn("status is not served: 'signet status' can't ask this control plane", "error", err)
	}
	return nil
}
