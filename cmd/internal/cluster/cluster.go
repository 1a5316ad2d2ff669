// Package cluster assembles the control plane of a Kubernetes cluster: plane's front, fed by the API server.
//
// Every replica serves the CA, configuration and the webhooks; the one that holds the Lease also publishes the trust bundle,
// signs CertificateSigningRequests, writes status and keeps the last good versions of refused objects.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/lease"
	"github.com/signet-mesh/signet/kube/source"
	"github.com/signet-mesh/signet/kube/used"
	"github.com/signet-mesh/signet/kube/webhook"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// The rate at which the API server is asked, informers' watches aside.
const (
	queriesPerSecond = 50
	queriesAtOnce    = 100
)

// Linger is how long a replica that is told to end still serves, unready, while the cluster stops sending it new clients.
const Linger = 5 * time.Second

// Config is what a control plane in a cluster is told.
type Config struct {
	// API is how the API server is reached.
	API *rest.Config
	// Instance is this replica's name (its pod's), Namespace where it lives.
	Instance, Namespace string
	// RootNamespace holds mesh-wide objects and the ConfigMap istio; "" is Namespace.
	RootNamespace              string
	TrustDomain, ClusterDomain string
	// Revision is that of istio.io/rev. Alone says that no other control plane lives in the cluster; TakeOver takes the labels
	// that name no revision beside one.
	Revision        string
	Alone, TakeOver bool
	// TokenReview asks the API server about tokens that its keys found good.
	TokenReview bool
	// TTL and MaxTTL are as in plane.Config.
	TTL, MaxTTL time.Duration
	// Control is what proxies must know beside the objects; nil is nothing.
	Control *policy.ControlSettings
	// Control port, metrics and webhooks. Run closes them.
	Listener, Metrics, Webhooks net.Listener
	// Linger is as the constant where it is 0; below 0 is none.
	Linger time.Duration
	// OnReady is called once, when this replica has become ready; nil for none.
	OnReady func()
	Log     *slog.Logger
}

// suffix tells the objects of revisions apart: those of the default one have none.
func (c *Config) suffix() string {
	if c.Revision == kube.DefaultRevision {
		return ""
	}
	return "-" + c.Revision
}

// Cluster is a control plane.
type Cluster struct {
	cfg       Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	state     *plane.State
	source    *source.Source
	used      *used.Used
	injection *injection
	authority *authority
	stopping  atomic.Bool
}

// New builds a control plane; nothing is asked before Run.
func New(cfg Config) (*Cluster, error) {
	if cfg.API == nil || cfg.Log == nil || cfg.Instance == "" || cfg.Namespace == "" {
		return nil, errors.New("building control plane: the API server, the replica's name and its namespace must be given")
	}
	cfg.RootNamespace = cmp.Or(cfg.RootNamespace, cfg.Namespace)
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, "cluster.local")
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, mesh.DefaultClusterDomain)
	cfg.Revision = cmp.Or(cfg.Revision, kube.DefaultRevision)
	cfg.Linger = max(cmp.Or(cfg.Linger, Linger), 0)
	api := rest.CopyConfig(cfg.API)
	api.QPS, api.Burst = queriesPerSecond, queriesAtOnce
	api.UserAgent = "signetd/" + cfg.Revision
	c := &Cluster{cfg: cfg, state: plane.NewState()}
	var err error
	if c.client, err = kubernetes.NewForConfig(api); err != nil {
		return nil, fmt.Errorf("building client of the API server: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(api); err != nil {
		return nil, fmt.Errorf("building client of the API server: %w", err)
	}
	if c.used, err = used.New(used.Config{Client: c.client, Namespace: cfg.Namespace, Log: cfg.Log}); err != nil {
		return nil, err
	}
	if c.injection, err = newInjection(c); err != nil {
		return nil, err
	}
	c.source, err = source.New(source.Config{Client: c.client, Dynamic: c.dynamic, TrustDomain: cfg.TrustDomain, ClusterDomain: cfg.ClusterDomain,
		SystemNamespace: cfg.Namespace, RootNamespace: cfg.RootNamespace, LastGood: source.LastGoodConfigMap + cfg.suffix(),
		Ours:  func(ns string, labels map[string]string) bool { return c.injection.current().Owns(ns, labels) },
		Judge: compile.Judge(cfg.TrustDomain, cfg.Control), Control: cfg.Control, OnChange: c.state.Set, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	c.injection.onChange = c.source.Reconsider
	return c, nil
}

// Run serves until ctx ends. Then the replica is not ready any more and gives the Lease back, but goes on serving for Linger, so
// that who is still sent here is answered; at last streams are told to go elsewhere.
func (c *Cluster) Run(ctx context.Context) error {
	defer c.closeListeners()
	var err error
	if c.authority, err = newAuthority(ctx, c); err != nil {
		return err
	}
	front, err := c.front()
	if err != nil {
		return err
	}
	hooks, err := c.webhooks(front)
	if err != nil {
		return err
	}
	leader, err := lease.New(lease.Config{Client: c.client, Namespace: c.cfg.Namespace, Name: kube.LeaderLease + c.cfg.suffix(),
		Identity: c.cfg.Instance, Log: c.cfg.Log, Lead: func(ctx context.Context) error { return c.lead(ctx, front) }})
	if err != nil {
		return err
	}
	front.Registry().MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_leader", Help: "1 on the replica that publishes bundles, signs CertificateSigningRequests and writes status.",
	}, func() float64 {
		if leader.Leading() {
			return 1
		}
		return 0
	}))
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, serving := errgroup.WithContext(serving)
	g.Go(func() error { return c.authority.run(serving) })
	g.Go(func() error { return c.source.Run(serving) })
	g.Go(func() error { return c.used.Run(serving) })
	g.Go(func() error { return c.injection.run(serving) })
	g.Go(func() error { return front.Run(serving) })
	g.Go(func() error { return hooks.run(serving) })
	g.Go(func() error { return c.competes(ctx, serving, leader) })
	g.Go(func() error { return c.announce(serving) })
	g.Go(func() error { return c.linger(ctx, serving, stop) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// competes for the Lease until either context ends: it is given back at once when the replica is told to end.
func (c *Cluster) competes(ctx, serving context.Context, leader *lease.Lease) error {
	select { // who leads must know the mesh
	case <-c.source.Synced():
	case <-ctx.Done():
		return nil
	case <-serving.Done():
		return nil
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(serving, cancel)()
	return leader.Run(both)
}

// linger waits for the end of ctx, and then for what Linger says.
func (c *Cluster) linger(ctx, serving context.Context, stop context.CancelFunc) error {
	select {
	case <-ctx.Done():
	case <-serving.Done():
		return nil
	}
	c.stopping.Store(true)
	c.cfg.Log.Info("ending: new clients go elsewhere", "linger", c.cfg.Linger)
	timer := time.NewTimer(c.cfg.Linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-serving.Done():
	}
	stop()
	return nil
}

// ready reports whether this replica can do its work and shall get new clients.
func (c *Cluster) ready() bool {
	select {
	case <-c.source.Synced():
	default:
		return false
	}
	return !c.stopping.Load() && c.used.Synced() && c.authority.source().Current().SVID != nil
}

// announce calls OnReady.
func (c *Cluster) announce(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !c.ready() {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	c.cfg.Log.Info("control plane serves", "address", c.cfg.Listener.Addr().String(), "trust_domain", c.cfg.TrustDomain, "revision", c.cfg.Revision)
	if c.cfg.OnReady != nil {
		c.cfg.OnReady()
	}
	return nil
}

// closeListeners closes what was not served: closing twice does no harm.
func (c *Cluster) closeListeners() {
	for _, l := range []net.Listener{c.cfg.Listener, c.cfg.Metrics, c.cfg.Webhooks} {
		if l != nil {
			l.Close()
		}
	}
}

// hooks are the webhooks and what keeps their caBundle.
type hooks struct {
	server *webhook.Server
	keeper *webhook.Keeper
	events *events
}

func (h *hooks) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.server.Run(ctx) })
	g.Go(func() error { return h.keeper.Run(ctx) })
	g.Go(func() error { return h.events.run(ctx) })
	return g.Wait()
}
