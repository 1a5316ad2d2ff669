package cluster

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/kube/bundle"
	"github.com/signet-mesh/signet/kube/csr"
	"github.com/signet-mesh/signet/kube/source"
	"github.com/signet-mesh/signet/kube/status"
	"github.com/signet-mesh/signet/kube/tokens"
	"github.com/signet-mesh/signet/kube/webhook"
	"github.com/signet-mesh/signet/mesh"
)

// front builds what proxies talk to, and the judge of their tokens, which runs with the authority.
func (c *Cluster) front() (*front, error) {
	judge, err := tokens.New(tokens.Config{Client: c.client, Pods: c.source.Pod, Review: c.cfg.TokenReview, Log: c.cfg.Log})
	if err != nil {
		return nil, err
	}
	attestor, err := attest.NewWithBearers(c.cfg.TrustDomain, judge)
	if err != nil {
		return nil, err
	}
	f, err := plane.NewFront(plane.FrontConfig{TrustDomain: c.cfg.TrustDomain, State: c.state, CA: c.authority.issuer, Attestor: attestor,
		Own: c.authority.source(), Roots: c.authority.shared.Roots, WatchRoots: c.authority.shared.Watch, Used: owners{c}, Listener: c.cfg.Listener, Metrics: c.cfg.Metrics,
		Ready: c.ready, Standing: c.standing, Collectors: []prometheus.Collector{judge, c.authority.shared}, Log: c.cfg.Log})
	if err != nil {
		return nil, err
	}
	return &front{f, judge}, nil
}

// front is plane's, and the judge of tokens.
type front struct {
	*plane.Front
	judge *tokens.Judge
}

// Run serves until ctx ends.
func (f *front) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.judge.Run(ctx) })
	g.Go(func() error { return f.Front.Run(ctx) })
	return g.Wait()
}

// owners are the hosts that workloads use, under the names of what the pods belong to: a new pod of a Deployment begins with
// what the others use. Of a pod that belongs to nothing lasting none are remembered.
type owners struct{ c *Cluster }

// Names implements adsserver.Used.
func (o owners) Names(namespace, name string) []string {
	if owner := o.c.source.Owner(namespace, name); owner != "" {
		return o.c.used.Names(namespace, owner)
	}
	return nil
}

// Note implements adsserver.Used.
func (o owners) Note(namespace, name string, hosts []string) {
	if owner := o.c.source.Owner(namespace, name); owner != "" {
		o.c.used.Note(namespace, owner, hosts)
	}
}

// webhooks builds what the API server asks.
func (c *Cluster) webhooks(f *front) (*hooks, error) {
	h := &hooks{events: newEvents(c)}
	var err error
	h.server, err = webhook.New(webhook.Config{Listener: c.cfg.Webhooks, Source: c.authority.source(), Injection: c.injection.current,
		Namespace: c.source.NamespaceLabels, Ask: c.askNamespace, TrustDomain: c.cfg.TrustDomain, RootNamespace: c.cfg.RootNamespace,
		Judge: compile.Judge(c.cfg.TrustDomain, c.cfg.Control), Objects: c.objects, Events: h.events.recorder, Metrics: f.Registry(), Log: c.cfg.Log})
	if err != nil {
		return nil, err
	}
	h.keeper = webhook.NewKeeper(webhook.KeeperConfig{Client: c.client, Source: c.authority.source(), TrustDomain: c.cfg.TrustDomain,
		Mutating: []string{"signet-injector" + c.cfg.suffix()}, Validating: []string{"signet-validator" + c.cfg.suffix()}, Log: c.cfg.Log})
	return h, nil
}

// askNamespace asks for a namespace's labels as they are now.
func (c *Cluster) askNamespace(ctx context.Context, name string) (map[string]string, error) {
	n, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return n.Labels, nil
}

func (c *Cluster) objects() []*mesh.Object {
	if s := c.source.Current(); s != nil {
		return s.Objects()
	}
	return nil
}

// standing are the objects whose status tells which proxies run on them.
func (c *Cluster) standing() []*mesh.Object {
	all, _ := c.source.Authored()
	out := make([]*mesh.Object, 0, len(all))
	for i := range all {
		if o := all[i].Object; o != nil && o.Group != mesh.GroupCore {
			out = append(out, o)
		}
	}
	return out
}

// lead does what only one replica may, until ctx ends.
func (c *Cluster) lead(ctx context.Context, f *front) error {
	publisher, err := bundle.New(bundle.Config{Client: c.client, Dynamic: c.dynamic, Roots: c.authority.shared, Istio: c.cfg.Alone, Log: c.cfg.Log,
		Selected: func(n *corev1.Namespace) bool { return c.injection.current().Owns(n.Name, n.Labels) }})
	if err != nil {
		return err
	}
	signer, err := csr.New(csr.Config{Client: c.client, CA: c.authority.issuer, Log: c.cfg.Log})
	if err != nil {
		return err
	}
	writer, err := status.New(status.Config{Dynamic: c.dynamic, Client: c.client, Findings: findings{c}, Programs: newReplicas(c, f.Front),
		Log: c.cfg.Log, Instance: c.cfg.Instance})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return publisher.Run(ctx) })
	g.Go(func() error { return signer.Run(ctx) })
	g.Go(func() error { return writer.Run(ctx) })
	g.Go(func() error { return c.source.Keep(ctx) })
	return g.Wait()
}

// findings are the source's, as status wants them.
type findings struct{ c *Cluster }

// Findings implements status.Findings.
func (f findings) Findings() ([]status.Object, <-chan struct{}) {
	all, changed := f.c.source.Authored()
	out := make([]status.Object, 0, len(all))
	for i := range all {
		a := &all[i]
		if a.Group == mesh.GroupCore { // a ConfigMap has no status
			continue
		}
		o := status.Object{Key: a.Key, Resource: a.Resource, UID: a.UID, Generation: a.Generation, Problems: a.Problems,
			Quarantined: a.Effect == source.Quarantined}
		if u, ok := f.c.source.Object(a.Key); ok {
			o.ResourceVersion = u.GetResourceVersion()
		}
		out = append(out, o)
	}
	return out, changed
}

// events tells people of pods that stay without a sidecar.
type events struct {
	client      typedcorev1.EventsGetter
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

func newEvents(c *Cluster) *events {
	b := record.NewBroadcaster()
	return &events{c.client.CoreV1(), b, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "signetd", Host: c.cfg.Instance})}
}

func (e *events) run(ctx context.Context) error {
	e.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: e.client.Events("")})
	<-ctx.Done()
	e.broadcaster.Shutdown()
	return nil
}
