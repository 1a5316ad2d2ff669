// Package plane assembles the control plane: the CA and configuration discovery behind one TLS port, fed by a directory of
// authored objects.
package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsserver"
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

// streamWorkers are goroutines that serve call after call: a fresh one would first have to grow its stack to what signing takes.
const streamWorkers = 16

// Plane is a control plane.
type Plane struct {
	cfg       Config
	dir       *dir.Dir
	snapshots *snapshots
	findings  findings
	rates     *rates
}

// New builds a control plane; nothing is read or opened before Run.
func New(cfg Config) *Plane {
	p := &Plane{cfg: cfg, snapshots: &snapshots{changed: make(chan struct{})}}
	p.dir = dir.New(dir.Config{
		Dir: cfg.Dir, TrustDomain: cfg.TrustDomain, Log: cfg.Log, Persist: filepath.Join(cfg.State, "last-good.json"),
		Judge: compile.Judge(cfg.TrustDomain, cfg.Control), Check: compile.NewCheck(), Control: cfg.Control,
		OnChange: func(s *mesh.Snapshot, problems []mesh.Problem) {
			p.findings.set(s, problems)
			p.rates.update(s)
			p.snapshots.set(s)
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
	p.findings.set(snapshot, problems)
	p.rates.update(snapshot)
	p.snapshots.set(snapshot)
	// What nobody asks otherwise for, and the control plane's own.
	lifetime := min(ca.DefaultTTL, cmp.Or(p.cfg.MaxTTL, ca.MaxTTL))
	issuer, err := ca.New(ca.Options{TrustDomain: p.cfg.TrustDomain, Keys: auth, Log: p.cfg.Log, DefaultTTL: cmp.Or(p.cfg.TTL, lifetime), MaxTTL: p.cfg.MaxTTL})
	if err != nil {
		return err
	}
	tokens := attest.NewTokens(p.cfg.State)
	attestor, err := attest.New(p.cfg.TrustDomain, tokens, p.snapshots)
	if err != nil {
		return err
	}
	own, err := rotate.New(rotate.Config{Issuer: issuer.ControlPlane(), Log: p.cfg.Log, TTL: lifetime})
	if err != nil {
		return err
	}
	ads, err := adsserver.New(adsserver.Config{Source: p.snapshots, Log: p.cfg.Log})
	if err != nil {
		return err
	}
	door, err := caserver.New(caserver.Options{CA: issuer, Attestor: attestor})
	if err != nil {
		return err
	}
	tlsConfig := caserver.TLSConfig(own, auth.Roots)
	server := grpc.NewServer(append(adsserver.ServerOptions(), grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.NumStreamWorkers(streamWorkers))...)
	door.Register(server)
	ads.Register(server)
	registry := prometheus.NewRegistry()
	registry.MustRegister(ads, door, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_quarantined_objects", Help: "Refused security objects without a last good version, which deny what they select.",
	}, p.snapshots.quarantined), newProblemMetrics(&p.findings))
	exposed := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	status := admin.New(admin.Config{Socket: filepath.Join(p.cfg.State, ControlSocket), Status: func() any { return p.status(ads) },
		Handlers: map[string]http.Handler{"GET /metrics": exposed}})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return auth.Run(ctx) })
	g.Go(func() error { return tokens.Run(ctx, p.cfg.Log) })
	g.Go(func() error { return own.Run(ctx) })
	g.Go(func() error { return p.dir.Run(ctx) })
	g.Go(func() error { return ads.Run(ctx) })
	if p.rates != nil {
		g.Go(func() error { return p.rates.run(ctx) })
	}
	g.Go(func() error { return p.serveAdmin(ctx, status) })
	g.Go(func() error { return p.serve(ctx, server) })
	g.Go(func() error { return p.report(ctx, own) })
	g.Go(func() error { return serveMetrics(ctx, p.cfg.Metrics, exposed) })
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

// serve runs the gRPC server; streams get two seconds to end when ctx does.
func (p *Plane) serve(ctx context.Context, server *grpc.Server) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		timer := time.AfterFunc(2*time.Second, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	})
	err := server.Serve(p.cfg.Listener)
	if !stop() {
		<-stopped
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving control port: %w", err)
	}
	return nil
}

func serveMetrics(ctx context.Context, ln net.Listener, exposed http.Handler) error {
	if ln == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", exposed)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(ln); err != http.ErrServerClosed {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// snapshots is the configuration in force: the adsserver.Source and attest.Workloads of this process.
type snapshots struct {
	mu      sync.Mutex // guards what follows
	current *mesh.Snapshot
	changed chan struct{}
}

func (s *snapshots) set(snapshot *mesh.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = snapshot
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch implements adsserver.Source.
func (s *snapshots) Watch() (adsserver.Views, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, s.changed
	}
	return s.current, s.changed
}

// quarantined counts the objects that stand in for refused ones.
func (s *snapshots) quarantined() float64 {
	n := 0
	if snapshot := s.get(); snapshot != nil {
		for _, o := range snapshot.Objects() {
			if o.Quarantined() {
				n++
			}
		}
	}
	return float64(n)
}

func (s *snapshots) get() *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// ServiceAccount implements attest.Workloads.
func (s *snapshots) ServiceAccount(namespace, workload string) (string, bool) {
	if snapshot := s.get(); snapshot != nil {
		return snapshot.ServiceAccount(namespace, workload)
	}
	return "", false
}

// Holds implements attest.Workloads.
func (s *snapshots) Holds(namespace, serviceAccount string) bool {
	snapshot := s.get()
	return snapshot != nil && snapshot.Holds(namespace, serviceAccount)
}
