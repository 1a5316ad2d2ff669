// Package node assembles a sidecar: the identity client, SDS, configuration discovery and the two corridors of one
// workload.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsclient"
	"github.com/signet-mesh/signet/proxy/admin"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/telemetry"
	"github.com/signet-mesh/signet/proxy/upstream"
	"github.com/signet-mesh/signet/sds/sdsserver"
)

// Sockets inside Config.RunDir.
const (
	SDSSocket   = "sds.sock"
	AdminSocket = "admin.sock"
)

// MetricsPort serves /stats/prometheus and /healthz/ready on the workload's address.
const MetricsPort = 15020

// Config is what a sidecar is told on its command line.
type Config struct {
	// Control is host:port of the control plane's CA and ADS.
	Control string
	// Token gives the join token; it is asked each time one is needed.
	Token func() (string, error)
	// RunDir takes the SDS and admin sockets; it is made 0700.
	RunDir string
	// StateDir keeps key, certificate and the last good configuration over restarts; "" keeps them in memory only.
	StateDir string
	// CacheDir keeps the last good policy bundles and key sets over restarts; "" keeps them in memory only.
	CacheDir string
	// TTL is the certificate lifetime to ask for; 0 leaves it to the CA.
	TTL     time.Duration
	Version string
	Log     *slog.Logger
	// AccessLog takes access log lines.
	AccessLog io.Writer
	// Pod is set for the sidecar of a pod of Kubernetes; Token is not asked then.
	Pod *Pod
	// OnReady is called after each change of Status that is ready, from one goroutine; nil for none.
	OnReady func(Status)
}

// Status is what a ready sidecar says of itself. It is the workload's part of `signet up -o json`.
type Status struct {
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	SPIFFEID  string    `json:"spiffeID"`
	Inbound   []string  `json:"inbound"`
	Outbound  string    `json:"outbound"`
	SDS       string    `json:"sds"`
	Admin     string    `json:"admin"`
	Metrics   string    `json:"metrics"`
	NotAfter  time.Time `json:"notAfter"`
	// Generation is the configuration that the sidecar runs on; not part of the object that `up` prints.
	Generation string `json:"-"`
}

// Node is one sidecar.
type Node struct {
	cfg       Config
	namespace string
	workload  string
	rotator   *rotate.Rotator
	sds       *sdsserver.Server
	upstreams *upstream.Set
	recorder  *telemetry.Recorder
	parts     *parts
	admin     *admin.Server
	pod       *podlife // nil off Kubernetes
	// life is the context of everything below the listeners; set once by Run.
	life context.Context

	// corridors is owned by apply, which adsclient calls one at a time; mu guards it against Status.
	mu        sync.Mutex
	corridors *corridors
	ads       *adsclient.Client
}

// New reads the token to learn whose sidecar this is, or takes the pod's word, and builds it. Nothing is opened before Run.
func New(cfg Config) (*Node, error) {
	n := &Node{cfg: cfg}
	client, err := n.issuer()
	if err != nil {
		return nil, err
	}
	var store rotate.Store
	if cfg.StateDir != "" {
		store = rotate.FileStore(cfg.StateDir)
	}
	if n.rotator, err = rotate.New(rotate.Config{Issuer: client, Log: cfg.Log, TTL: cfg.TTL, Store: store}); err != nil {
		return nil, err
	}
	n.sds, err = sdsserver.New(sdsserver.Config{Socket: filepath.Join(cfg.RunDir, SDSSocket), Source: n.rotator, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	n.upstreams = upstream.NewSet(n.rotator, upstream.Options{Log: cfg.Log, Private: cfg.RunDir, Forbids: n.keeps})
	n.recorder = telemetry.New(telemetry.Config{
		Workload: n.namespace + "." + n.workload, Writer: cfg.AccessLog, Log: cfg.Log, Source: n.rotator,
		Version: cfg.Version, AccessLog: telemetry.LogText,
	})
	n.admin = admin.New(admin.Config{Socket: filepath.Join(cfg.RunDir, AdminSocket), Status: func() any { return n.dump() },
		Handlers: map[string]http.Handler{
			"POST " + explain.WhyPath:    explain.Handler(n.at),
			"GET " + explain.DenialsPath: http.HandlerFunc(n.denials),
		}})
	n.parts = newParts(cfg.Log, n.namespace+"/"+n.workload, cfg.CacheDir)
	n.parts.principal = n.principal
	n.recorder.Registry().MustRegister(newPolicyMetrics(n.parts))
	n.corridors = newCorridors(n)
	if cfg.Pod != nil {
		n.pod = newPodlife(n)
		n.admin = n.pod.adminServer()
	}
	return n, nil
}

// issuer learns whose sidecar this is, and is its client of the CA.
func (n *Node) issuer() (*caclient.Client, error) {
	if p := n.cfg.Pod; p != nil {
		n.namespace, n.workload = p.Namespace, p.Name
		return p.issuer(n.cfg.Control)
	}
	text, err := n.cfg.Token()
	if err != nil {
		return nil, err
	}
	token, err := attest.ParseToken(text)
	if err != nil {
		return nil, fmt.Errorf("reading join token: %w", err)
	}
	n.namespace, n.workload = token.Namespace, token.Workload
	return caclient.New(caclient.Options{Addr: n.cfg.Control, Token: n.cfg.Token, Workload: n.namespace + "/" + n.workload})
}

// Run runs the sidecar until ctx ends, then drains: listeners first, identity and connections to others last.
func (n *Node) Run(ctx context.Context) error {
	if err := os.MkdirAll(n.cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("making run directory: %w", err)
	}
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	n.life, n.parts.life = below, below
	g, failed := errgroup.WithContext(below)
	g.Go(func() error { return n.rotator.Run(below) })
	g.Go(func() error { return n.sds.Run(below) })
	g.Go(func() error { return n.upstreams.Run(below) })
	g.Go(func() error { return n.recorder.Run(below) })
	g.Go(func() error { return n.discover(below) })
	if n.pod != nil {
		g.Go(func() error { return n.pod.run(below) })
	} else {
		g.Go(func() error { return n.admin.Run(below) })
	}
	if n.cfg.OnReady != nil {
		g.Go(func() error { n.report(below); return nil })
	}
	n.wait(ctx, failed)
	n.corridors.stop()
	n.parts.stop()
	stop()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// wait is the sidecar's life: until it is told to end, and in a pod has drained, or something fails.
func (n *Node) wait(ctx, failed context.Context) {
	if n.pod == nil {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		return
	}
	select {
	case <-n.pod.quit:
		n.pod.draining.Store(true)
	case <-ctx.Done():
		n.pod.draining.Store(true)
		n.corridors.leave()
		n.drain(failed, n.pod.quit)
	case <-failed.Done():
	}
}

// discover waits for the first certificate, which says what the trust domain is, and then follows ADS.
func (n *Node) discover(ctx context.Context) error {
	svid := waitSVID(ctx, n.rotator)
	if svid == nil {
		return nil
	}
	server, err := identity.ControlPlane(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	cfg := adsclient.Config{
		Addr: n.cfg.Control, Source: n.rotator, Server: server, Namespace: n.namespace, Workload: n.workload,
		Log: n.cfg.Log, Apply: func(v *mesh.View) error { return n.corridors.apply(v) }, Trust: n.rotator.Trust,
	}
	if n.pod != nil {
		cfg.Apply, cfg.OnDemand = n.pod.apply, !n.cfg.Pod.Full
	}
	if n.cfg.StateDir != "" {
		cfg.Store = lastGood(n.cfg.StateDir)
	}
	client, err := adsclient.New(cfg)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.ads = client
	n.mu.Unlock()
	return client.Run(ctx)
}

func waitSVID(ctx context.Context, src certs.Source) *certs.SVID {
	for {
		snap, changed := src.Watch()
		if snap.SVID != nil {
			return snap.SVID
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// report tells OnReady of each new state in which the sidecar has a certificate and a configuration.
func (n *Node) report(ctx context.Context) {
	var last Status
	for {
		_, renewed := n.rotator.Watch()
		applied := n.corridors.changed()
		if s, ok := n.Status(); ok && (s.NotAfter != last.NotAfter || s.Generation != last.Generation) {
			if last.NotAfter.IsZero() {
				forgetStart()
			}
			last = s
			n.cfg.OnReady(s)
		}
		select {
		case <-renewed:
		case <-applied:
		case <-ctx.Done():
			return
		}
	}
}

// Status is the sidecar's state; false while it lacks a certificate or a configuration.
func (n *Node) Status() (Status, bool) {
	snap := n.rotator.Current()
	view := n.corridors.current()
	if snap.SVID == nil || view == nil {
		return Status{}, false
	}
	return Status{
		Name: n.workload, Namespace: n.namespace, SPIFFEID: snap.SVID.ID.String(),
		Inbound: view.inbound, Outbound: view.outbound, Metrics: view.metrics,
		SDS: filepath.Join(n.cfg.RunDir, SDSSocket), Admin: filepath.Join(n.cfg.RunDir, AdminSocket),
		NotAfter: snap.SVID.Leaf().NotAfter, Generation: view.generation,
	}, true
}

// principal is the sidecar's own identity, nobody's while it has none.
func (n *Node) principal() identity.ID {
	if s := n.rotator.Current().SVID; s != nil {
		return s.ID
	}
	return identity.ID{}
}

// dump is what the admin socket shows.
func (n *Node) dump() any {
	s, ready := n.Status()
	n.mu.Lock()
	ads := n.ads
	n.mu.Unlock()
	out := map[string]any{"ready": ready, "workload": s, "version": n.cfg.Version}
	if ads != nil {
		out["discovery"] = ads.Status()
	}
	r := n.rotator.Status()
	cert := map[string]any{"notBefore": r.NotBefore, "notAfter": r.NotAfter, "nextAttempt": r.NextAttempt, "failures": r.Failures, "renewals": r.Renewals}
	if r.LastError != nil {
		cert["lastError"] = r.LastError.Error()
	}
	out["certificate"] = cert
	out["listeners"] = n.corridors.list()
	out["policies"] = n.parts.status()
	out["warnings"] = n.corridors.warnings()
	return out
}

// at is the workload as it runs, for explanations; nil before there is one.
func (n *Node) at() *explain.At {
	w := n.corridors.workload()
	if w == nil {
		return nil
	}
	return &explain.At{Workload: w, Judge: judge.New(w.Settings, w.Program, w.Tokens), Live: true, Demand: learner(w, n.demand, n.at)}
}

// denials answers with who was refused last.
func (n *Node) denials(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(rw).Encode(n.recorder.Denials())
}

// listen opens a TCP listener; its errors say what may be done.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("opening listener %s: another process has the port; it is tried again until that is gone: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("opening listener %s: this machine does not have the address; it is tried again until it has: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("opening listener %s: %w", addr, err)
	}
	return ln, nil
}
