// Package bundle publishes the trust bundle: in a ConfigMap in every namespace of the mesh, and in a ClusterTrustBundle
// where the API server has that kind. Only the leader runs it.
//
// It needs list and watch of Namespaces, get, list, watch, create and update of ConfigMaps by name, get, list, watch,
// create and update of ClusterTrustBundles, and attest of signer signet.dev/workload.
package bundle

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/kube"
)

// callTimeout bounds one call of the API server.
const callTimeout = 10 * time.Second

// Bounds of the wait before what could not be published is tried again; it doubles.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = time.Minute
)

// workers is how many ConfigMaps are written at once.
const workers = 4

// Roots is where the roots come from; *authority.Shared is one.
type Roots interface {
	// Watch returns the roots and a channel that is closed when they have been replaced.
	Watch() ([]*x509.Certificate, <-chan struct{})
}

// Config is what New needs. Client, Roots and Selected are required.
type Config struct {
	Client kubernetes.Interface
	// Dynamic reaches ClusterTrustBundles of whatever version there is; nil publishes none.
	Dynamic dynamic.Interface
	Roots   Roots
	// Selected says which namespaces get the ConfigMap. It is asked again when the Namespace object changes.
	Selected func(*corev1.Namespace) bool
	// Istio publishes istio-ca-root-cert as well, where nobody else does.
	Istio bool
	Log   *slog.Logger
}

// Publisher publishes while it runs.
type Publisher struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Publisher, error) {
	if cfg.Client == nil || cfg.Roots == nil || cfg.Selected == nil {
		return nil, errors.New("building bundle publisher: client, roots and selection must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{cfg}, nil
}

// job is a ConfigMap to look at, or the ClusterTrustBundle where namespace is "".
type job struct{ namespace, name string }

// running is one Run.
type running struct {
	*Publisher
	queue      workqueue.TypedRateLimitingInterface[job]
	names      []string
	namespaces listers.NamespaceLister
	maps       map[string]listers.ConfigMapLister // by name
	cluster    *clusterBundle                     // nil where there is none
}

// Run publishes until ctx ends, and returns nil. What others change is put right when the watch tells of it. Nothing is
// deleted: a namespace that leaves the mesh keeps its ConfigMap, since pods of it may live on.
func (p *Publisher) Run(ctx context.Context) error {
	r := &running{
		Publisher: p, names: []string{kube.BundleConfigMap}, maps: map[string]listers.ConfigMapLister{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[job](firstRetry, lastRetry)),
	}
	if p.cfg.Istio {
		r.names = append(r.names, kube.IstioBundleConfigMap)
	}
	g, ctx := errgroup.WithContext(ctx)
	defer r.queue.ShutDown()
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	synced, stop, err := r.inform(ctx)
	defer stop()
	if err != nil {
		return fmt.Errorf("watching namespaces and ConfigMaps: %w", err)
	}
	// Before the first lists are there every ConfigMap would seem to be missing.
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	if p.cfg.Dynamic != nil {
		r.cluster = &clusterBundle{client: p.cfg.Dynamic, discovery: p.cfg.Client.Discovery(), log: p.cfg.Log}
		g.Go(func() error { return r.cluster.watch(ctx, func() { r.queue.Add(job{}) }) })
	}
	for range workers {
		g.Go(func() error {
			for r.next(ctx) {
			}
			return nil
		})
	}
	g.Go(func() error {
		r.follow(ctx)
		return nil
	})
	return g.Wait()
}

// follow looks at everything again whenever the roots changed.
func (r *running) follow(ctx context.Context) {
	for {
		_, changed := r.cfg.Roots.Watch()
		r.all()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// inform starts the informers. stop waits for their end, which is ctx's.
func (r *running) inform(ctx context.Context) (synced []cache.InformerSynced, stop func(), err error) {
	factory := informers.NewSharedInformerFactory(r.cfg.Client, 0)
	factories := []informers.SharedInformerFactory{factory}
	stop = func() {
		for _, f := range factories {
			f.Shutdown()
		}
	}
	namespaces := factory.Core().V1().Namespaces()
	r.namespaces = namespaces.Lister()
	add := func(o any) {
		if ns, ok := o.(*corev1.Namespace); ok {
			r.namespace(ns)
		}
	}
	if _, err := namespaces.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }}); err != nil {
		return nil, stop, err
	}
	synced = append(synced, namespaces.Informer().HasSynced)
	for _, name := range r.names {
		f := informers.NewSharedInformerFactoryWithOptions(r.cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}))
		maps := f.Core().V1().ConfigMaps()
		r.maps[name] = maps.Lister()
		touched := func(o any) {
			if key, err := cache.DeletionHandlingObjectToName(o); err == nil {
				r.queue.Add(job{key.Namespace, name})
			}
		}
		_, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: touched, UpdateFunc: func(_, o any) { touched(o) }, DeleteFunc: touched})
		if err != nil {
			return nil, stop, err
		}
		synced = append(synced, maps.Informer().HasSynced)
		factories = append(factories, f)
	}
	for _, f := range factories {
		f.StartWithContext(ctx)
	}
	return synced, stop, nil
}

func (r *running) namespace(ns *corev1.Namespace) {
	for _, name := range r.names {
		r.queue.Add(job{ns.Name, name})
	}
}

func (r *running) all() {
	list, err := r.namespaces.List(everything())
	if err != nil {
		r.cfg.Log.Error("listing namespaces failed", "error", err)
	}
	for _, ns := range list {
		r.namespace(ns)
	}
	if r.cluster != nil {
		r.queue.Add(job{})
	}
}

// next does one job; false when the queue has shut down.
func (r *running) next(ctx context.Context) bool {
	j, stopped := r.queue.Get()
	if stopped {
		return false
	}
	defer r.queue.Done(j)
	if err := r.do(ctx, j); err != nil && ctx.Err() == nil {
		level := slog.LevelWarn
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
			level = slog.LevelDebug // somebody else was faster, and the watch has not told of it yet
		}
		r.cfg.Log.Log(ctx, level, "publishing trust bundle failed, trying again", "namespace", j.namespace, "name", j.name, "error", err)
		r.queue.AddRateLimited(j)
		return true
	}
	r.queue.Forget(j)
	return true
}

func (r *running) do(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	roots, _ := r.cfg.Roots.Watch()
	text := string(certs.ChainPEM(roots))
	if j.namespace == "" {
		return r.cluster.publish(ctx, text)
	}
	return r.publish(ctx, j, text)
}
