// Package source keeps a mesh.Snapshot of a cluster: Services with their EndpointSlices, Pods, Namespaces, the ConfigMap of
// the MeshConfig, and the objects that people author as custom resources.
//
// Informers fill caches and name what changed; one goroutine, that of Run, turns what was named into mesh objects and builds
// the next snapshot. An object is read once for each change of what is authored in it: status and bookkeeping of the API
// server are no changes. While the API server is away the caches stay, and so does the snapshot.
//
// A refused object is never simply gone: its last good version goes on, which the leader of several replicas keeps in a
// ConfigMap (Keep), and a security object without one is quarantined.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// How changes are gathered: a snapshot is built when nothing changed for quiet, or longest after the first change.
const (
	quiet   = 20 * time.Millisecond
	longest = 100 * time.Millisecond
)

// Config is what New takes.
type Config struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// TrustDomain is that of all identities, ClusterDomain that of the names of Services; "" is cluster.local for both.
	TrustDomain, ClusterDomain string
	// SystemNamespace is the control plane's own, "" is kube.SystemNamespace; RootNamespace is that of mesh-wide objects,
	// "" is mesh.DefaultRootNamespace.
	SystemNamespace, RootNamespace string
	// Ours says of which namespaces the problems are told, by name and labels: those of our revision. nil: of all. What is
	// asked of it may change; Reconsider says so.
	Ours func(namespace string, labels map[string]string) bool
	// LastGood is the ConfigMap in SystemNamespace that Keep writes; "" is LastGoodConfigMap. Revisions have one each.
	LastGood string
	// Judge is asked what can't be run: mesh.ParseOptions.Judge.
	Judge func(*mesh.Object) []mesh.Problem
	// Control is mesh.BuildOptions.Control.
	Control *policy.ControlSettings
	// OnChange is called from Run with each new snapshot and what was found wrong in namespaces of our revision, one call at
	// a time.
	OnChange func(*mesh.Snapshot, []mesh.Problem)
	Log      *slog.Logger
}

// Source follows one cluster. Its methods are safe for concurrent use; what they tell of before Synced is incomplete.
type Source struct {
	cfg      Config
	log      *slog.Logger
	informed []*informed // the core kinds and the CustomResourceDefinitions
	pods     cache.SharedIndexInformer
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer
	spaces   cache.SharedIndexInformer
	config   cache.SharedIndexInformer
	kinds    *kinds

	dirty    dirty
	current  atomic.Pointer[mesh.Snapshot]
	authored authored
	good     good
	synced   chan struct{} // closed by Run with the first snapshot

	// The rest belongs to Run's goroutine that applies.
	objects map[mesh.Key]*mesh.Object // of core kinds
	records map[mesh.Key]*record      // of authored kinds
	last    attempt                   // what the current snapshot was built of
	told    map[string]bool           // problems that were logged
	root    *mesh.Object              // what rooted made of rootOf, nil before the first
	rootOf  *mesh.Object
}

// New is pure: nothing is asked before Run.
func New(c Config) (*Source, error) {
	if c.Client == nil || c.Dynamic == nil || c.Log == nil {
		return nil, errors.New("building source: Client, Dynamic and Log must be set")
	}
	fill(&c.TrustDomain, "cluster.local")
	fill(&c.ClusterDomain, "cluster.local")
	fill(&c.SystemNamespace, kube.SystemNamespace)
	fill(&c.RootNamespace, mesh.DefaultRootNamespace)
	fill(&c.LastGood, LastGoodConfigMap)
	s := &Source{cfg: c, log: c.Log, synced: make(chan struct{}), objects: map[mesh.Key]*mesh.Object{}, records: map[mesh.Key]*record{}, told: map[string]bool{}}
	s.dirty.wake = make(chan struct{}, 1)
	s.good.changed = make(chan struct{}, 1)
	s.authored.changed = make(chan struct{})
	if err := s.inform(); err != nil {
		return nil, fmt.Errorf("building source: %w", err)
	}
	return s, nil
}

func fill(s *string, otherwise string) {
	if *s == "" {
		*s = otherwise
	}
}

// Run follows the cluster until ctx ends; then it returns nil. The first snapshot is built when every cache was filled; until
// then errors of the API server are logged and it is asked again.
func (s *Source) Run(ctx context.Context) error {
	if err := s.restore(ctx); err != nil {
		return nil //nolint:nilerr // only the end of ctx ends the attempts
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, i := range s.informed {
		g.Go(func() error { i.RunWithContext(ctx); return nil })
	}
	g.Go(func() error { return s.kinds.run(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	return g.Wait()
}

// follow builds the first snapshot once the caches are full, and the next ones as things change.
func (s *Source) follow(ctx context.Context) error {
	if !s.fillCaches(ctx) {
		return nil
	}
	s.apply()
	close(s.synced)
	for s.dirty.wait(ctx) {
		s.apply()
	}
	return nil
}

// fillCaches waits until every informer has told of all there is; false if ctx ended before.
func (s *Source) fillCaches(ctx context.Context) bool {
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for {
		full := s.kinds.full()
		for _, i := range s.informed {
			full = full && i.synced()
		}
		if full {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// Synced is closed when there is a first snapshot.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Current is the snapshot in force, nil before the first.
func (s *Source) Current() *mesh.Snapshot { return s.current.Load() }

// Pod is the uid and the service account of a pod that lives: it exists and its containers have not all ended.
func (s *Source) Pod(namespace, name string) (uid, serviceAccount string, ok bool) {
	pod := s.pod(namespace, name)
	if pod == nil || ended(pod) {
		return "", "", false
	}
	return string(pod.UID), pod.Spec.ServiceAccountName, true
}

// Owner is what a workload of the mesh shares with those that do the same after it: of a pod the Deployment, the StatefulSet, the
// CronJob..., of a WorkloadEntry its name. "" where there is nothing of that kind: of bare pods, and of what was made for one run.
func (s *Source) Owner(namespace, name string) string {
	if pod := s.pod(namespace, name); pod != nil {
		return lastingOwner(pod)
	}
	if snapshot := s.Current(); snapshot != nil {
		if _, ok := snapshot.ServiceAccount(namespace, name); ok {
			return name
		}
	}
	return ""
}

// Addresses are the IP addresses of a pod that lives.
func (s *Source) Addresses(namespace, name string) []netip.Addr {
	if pod := s.pod(namespace, name); pod != nil && !ended(pod) {
		return podAddresses(pod)
	}
	return nil
}

// Endpoint is where a pod serves a port of a Service.
type Endpoint struct {
	// Pod is its name, "" if the API server does not say.
	Pod     string
	Address netip.AddrPort
}

// Behind are the endpoints of a Service's port that serve, also those on their way out; of a pod with several addresses one.
func (s *Source) Behind(namespace, service string, port int32) []Endpoint {
	o, _, err := s.services.GetIndexer().GetByKey(namespace + "/" + service)
	v, ok := o.(*corev1.Service)
	found, _ := s.slices.GetIndexer().ByIndex(byService, namespace+"/"+service)
	if err != nil || !ok {
		return nil
	}
	var out []Endpoint
	for i := range v.Spec.Ports {
		for _, o := range found {
			if slice, ok := o.(*discoveryv1.EndpointSlice); ok && v.Spec.Ports[i].Port == port {
				out = append(out, behind(slice, &v.Spec.Ports[i])...)
			}
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return cmp.Or(strings.Compare(a.Pod, b.Pod), a.Address.Compare(b.Address)) })
	return slices.CompactFunc(out, func(a, b Endpoint) bool { return a == b || a.Pod != "" && a.Pod == b.Pod })
}

func behind(slice *discoveryv1.EndpointSlice, p *corev1.ServicePort) []Endpoint {
	number, ok := slicePort(slice, p)
	var out []Endpoint
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if !ok || len(e.Addresses) == 0 || !ready(e.Conditions) && !draining(e.Conditions) {
			continue
		}
		if a, err := netip.ParseAddr(e.Addresses[0]); err == nil {
			out = append(out, Endpoint{podName(slice, e), netip.AddrPortFrom(a.Unmap(), uint16(number))})
		}
	}
	return out
}

// NamespaceLabels are the labels of a namespace, and whether it exists. They must not be modified.
func (s *Source) NamespaceLabels(name string) (map[string]string, bool) {
	o, ok, err := s.spaces.GetIndexer().GetByKey(name)
	if err != nil || !ok {
		return nil, false
	}
	n, ok := o.(*corev1.Namespace)
	if !ok {
		return nil, false
	}
	return n.Labels, true
}

// Ours reports whether a namespace exists and is of our revision.
func (s *Source) Ours(namespace string) bool {
	labels, ok := s.NamespaceLabels(namespace)
	return ok && (s.cfg.Ours == nil || s.cfg.Ours(namespace, labels))
}

// Reconsider asks Config.Ours again for every namespace.
func (s *Source) Reconsider() { s.dirty.mark(item{whatNamespace, ""}) }

func (s *Source) pod(namespace, name string) *corev1.Pod {
	o, ok, err := s.pods.GetIndexer().GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	pod, _ := o.(*corev1.Pod)
	return pod
}

// dirty are the objects that changed since they were looked at.
type dirty struct {
	mu   sync.Mutex // guards keys
	keys map[item]struct{}
	wake chan struct{} // holds one, the owner of the other end is Run
}

// item names an object in a cache: what it is of, and NAMESPACE/NAME.
type item struct {
	what what
	key  string
}

func (d *dirty) mark(i item) {
	d.mu.Lock()
	if d.keys == nil {
		d.keys = map[item]struct{}{}
	}
	d.keys[i] = struct{}{}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirty) take() map[item]struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := d.keys
	d.keys = nil
	return keys
}

// wait blocks until something changed and then nothing for quiet, at most for longest; false if ctx ended.
func (d *dirty) wait(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-d.wake:
	}
	end := time.NewTimer(longest)
	defer end.Stop()
	rest := time.NewTimer(quiet)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-rest.C:
			return true
		case <-d.wake:
			rest.Reset(quiet)
		}
	}
}
