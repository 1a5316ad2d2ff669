package source

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/mesh"
)

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// authoredKinds are the kinds that people author, and the group of each.
var authoredKinds = map[what]string{
	mesh.KindWorkloadEntry:         mesh.GroupNetworking,
	mesh.KindServiceEntry:          mesh.GroupNetworking,
	mesh.KindSidecar:               mesh.GroupNetworking,
	mesh.KindVirtualService:        mesh.GroupNetworking,
	mesh.KindDestinationRule:       mesh.GroupNetworking,
	mesh.KindAuthorizationPolicy:   mesh.GroupSecurity,
	mesh.KindPeerAuthentication:    mesh.GroupSecurity,
	mesh.KindRequestAuthentication: mesh.GroupSecurity,
	mesh.KindRegoPolicy:            mesh.GroupPolicy,
	mesh.KindRateLimitPolicy:       mesh.GroupPolicy,
}

// versions are those in which a group's kinds are read, the first one served is taken: all mean the same.
func versions(group string) []string {
	if group == mesh.GroupPolicy {
		return []string{mesh.VersionOf(group)}
	}
	return []string{"v1", "v1beta1", "v1alpha3"}
}

// kinds follows the CustomResourceDefinitions of what people author, with an informer for each that is there.
type kinds struct {
	source      *Source
	definitions cache.SharedIndexInformer
	changed     chan struct{} // holds one

	mu      sync.Mutex // guards what follows; run alone writes
	looked  bool       // the definitions were read
	running map[what]*running
}

// running is the informer of one kind. Its goroutines end when stop was called, and then done is closed.
type running struct {
	*informed
	resource schema.GroupVersionResource
	stop     context.CancelFunc
	done     chan struct{}
}

func newKinds(s *Source) *kinds {
	return &kinds{source: s, changed: make(chan struct{}, 1), running: map[what]*running{}}
}

// handler wakes run when a definition changes.
func (k *kinds) handler() cache.ResourceEventHandler {
	wake := func(any) {
		select {
		case k.changed <- struct{}{}:
		default:
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: wake, DeleteFunc: wake, UpdateFunc: func(_, now any) { wake(now) }}
}

// run keeps an informer for each kind that the API server serves, until ctx ends.
func (k *kinds) run(ctx context.Context) error {
	defer k.stopAll()
	if !cache.WaitForCacheSync(ctx.Done(), k.definitions.HasSynced) {
		return nil
	}
	for {
		k.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-k.changed:
		}
	}
}

// reconcile starts what is served and stops what is not.
func (k *kinds) reconcile(ctx context.Context) {
	wanted := map[what]schema.GroupVersionResource{}
	for _, o := range k.definitions.GetStore().List() {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		// One that stops being established for a moment (another claims its names) goes on being read.
		if w, resource, ok := served(u); ok && (established(u) || k.at(w) != nil) {
			wanted[w] = resource
		}
	}
	for w := range authoredKinds {
		resource, want := wanted[w]
		have := k.at(w)
		if have != nil && (!want || have.resource != resource) {
			k.end(w, have, want)
			have = nil
		}
		if want && have == nil {
			k.begin(ctx, w, resource)
		}
	}
	k.mu.Lock()
	k.looked = true
	k.mu.Unlock()
}

// served is the kind that a definition defines and the resource to read it by; false if it is none of ours, or serves no
// version that is read.
func served(u *unstructured.Unstructured) (what, schema.GroupVersionResource, bool) {
	var none schema.GroupVersionResource
	group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
	plural, _, _ := unstructured.NestedString(u.Object, "spec", "names", "plural")
	if g, ok := authoredKinds[what(kind)]; !ok || g != group {
		return "", none, false
	}
	all, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, version := range versions(group) {
		if slices.ContainsFunc(all, func(v any) bool {
			m, ok := v.(map[string]any)
			return ok && m["name"] == version && m["served"] == true
		}) {
			return what(kind), schema.GroupVersionResource{Group: group, Version: version, Resource: plural}, true
		}
	}
	return "", none, false
}

func established(u *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		m, ok := c.(map[string]any)
		return ok && m["type"] == "Established" && m["status"] == "True"
	})
}

func (k *kinds) at(w what) *running {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running[w]
}

// begin starts the informer of a kind. Once it has read everything, all that is known of the kind is looked at again.
func (k *kinds) begin(ctx context.Context, w what, resource schema.GroupVersionResource) {
	informer := dynamicinformer.NewFilteredDynamicInformer(k.source.cfg.Dynamic, resource, "", 0, cache.Indexers{}, nil).Informer()
	i, err := k.source.handle(w, informer, trimAuthored)
	if err != nil {
		k.source.log.Error("a kind can't be read", "kind", string(w), "error", err)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	r := &running{informed: i, resource: resource, stop: stop, done: make(chan struct{})}
	k.mu.Lock()
	k.running[w] = r
	k.mu.Unlock()
	go func() {
		defer close(r.done)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			i.RunWithContext(ctx)
		}()
		if cache.WaitForCacheSync(ctx.Done(), i.synced) {
			k.source.dirty.mark(item{w, wholeKind})
		}
		<-ended
	}()
}

// end stops the informer of a kind. If another takes its place, what is known stays until that one has read everything.
func (k *kinds) end(w what, r *running, replaced bool) {
	r.stop()
	<-r.done
	if replaced {
		return
	}
	k.mu.Lock()
	delete(k.running, w)
	k.mu.Unlock()
	k.source.dirty.mark(item{w, wholeKind})
}

func (k *kinds) stopAll() {
	for w := range authoredKinds {
		if r := k.at(w); r != nil {
			r.stop()
			<-r.done
		}
	}
}

// full reports whether the definitions and all objects of their kinds were read.
func (k *kinds) full() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.running {
		if !r.synced() {
			return false
		}
	}
	return k.looked
}

// wholeKind stands for the key of every object of a kind.
const wholeKind = ""

// get is an object of a kind, nil if it does not exist. known is false while the kind is being read.
func (k *kinds) get(w what, key string) (u *unstructured.Unstructured, known bool) {
	r := k.at(w)
	if r == nil {
		return nil, true
	}
	if o, ok, err := r.GetIndexer().GetByKey(key); err == nil && ok {
		u, _ = o.(*unstructured.Unstructured)
		return u, u != nil
	}
	return nil, r.synced()
}

// resource is what a kind is read by, and written by for its status.
func (k *kinds) resource(w what) schema.GroupVersionResource {
	if r := k.at(w); r != nil {
		return r.resource
	}
	return schema.GroupVersionResource{}
}
