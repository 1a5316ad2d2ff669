package source_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/source"
	"github.com/signet-mesh/signet/mesh"
)

var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }, "deploy/crds") }

// lab is the API server, and the sources that a test runs on it.
type lab struct {
	t       *testing.T
	client  kubernetes.Interface
	dynamic dynamic.Interface
	spaces  []string // those of this test: others' objects are not looked at
}

func newLab(t *testing.T, spaces ...string) *lab {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"),
			goleak.IgnoreAnyFunction("net/http/internal/http2.(*clientConnReadLoop).run"))
	})
	l := &lab{t, kubernetes.NewForConfigOrDie(api), dynamic.NewForConfigOrDie(api), spaces}
	for _, ns := range spaces {
		_, err := l.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		l.must(err)
	}
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		l.t.Fatal(err)
	}
}

// following is a source that runs.
type following struct {
	*source.Source
	l    *lab
	stop func()

	mu       sync.Mutex
	told     int
	problems []mesh.Problem
	changed  chan struct{} // closed when it is told again
}

func (l *lab) follow(change func(*source.Config)) *following {
	l.t.Helper()
	f := &following{l: l, changed: make(chan struct{})}
	cfg := source.Config{Client: l.client, Dynamic: l.dynamic, SystemNamespace: l.spaces[0], RootNamespace: l.spaces[0],
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})),
		OnChange: func(_ *mesh.Snapshot, problems []mesh.Problem) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told++
			f.problems = problems
			close(f.changed)
			f.changed = make(chan struct{})
		}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if f.Source, err = source.New(cfg); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error, 2)
	go func() { done <- f.Run(ctx) }()
	go func() { done <- f.Keep(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				l.t.Error(err)
			}
		}
	})
	l.t.Cleanup(f.stop)
	select {
	case <-f.Synced():
	case <-time.After(20 * time.Second):
		l.t.Fatal("the caches are not filled")
	}
	return f
}

// names are the authored objects that stand in the test's namespaces, quarantines in parentheses.
func (f *following) names() string {
	var out []string
	for _, o := range f.Current().Objects() {
		if !slices.Contains(f.l.spaces, o.Namespace) || o.Group == mesh.GroupCore {
			continue
		}
		if o.Quarantined() {
			out = append(out, "("+o.Name+")")
		} else {
			out = append(out, o.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (f *following) soon(what string, ok func() bool) {
	f.l.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	f.l.t.Fatalf("%s: does not come; there is %q", what, f.names())
}

func (f *following) stands(want string) {
	f.l.t.Helper()
	f.soon(want, func() bool { return f.names() == want })
}

func resource(group, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: mesh.VersionOf(group), Resource: plural}
}

// apply creates or replaces an authored object.
func (l *lab) apply(r schema.GroupVersionResource, text string) *unstructured.Unstructured {
	l.t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		l.t.Fatal(err)
	}
	client := l.dynamic.Resource(r).Namespace(u.GetNamespace())
	made, err := client.Create(l.t.Context(), u, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		have, err := client.Get(l.t.Context(), u.GetName(), metav1.GetOptions{})
		l.must(err)
		u.SetResourceVersion(have.GetResourceVersion())
		made, err = client.Update(l.t.Context(), u, metav1.UpdateOptions{})
		l.must(err)
		return made
	}
	l.must(err)
	return made
}

const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, namespace: SPACE, annotations: {emoji: "\U0001F512 <>&"}}
spec: {action: DENY, rules: [{to: [{operation: {paths: ["PATH"]}}]}]}
`

func text(space, name, path string) string {
	return strings.NewReplacer("SPACE", space, "NAME", name, "PATH", path).Replace(policy)
}

// A refused object keeps its last good version, also for a control plane that starts afterwards; one that was always refused is
// quarantined; one that is deleted and written again has no past.
func TestLastGoodOverRestart(t *testing.T) {
	l := newLab(t, "keep-system", "keep")
	policies := resource(mesh.GroupSecurity, "authorizationpolicies")
	l.apply(policies, text("keep", "a", "/good"))
	f := l.follow(nil)
	f.stands("a")
	before := f.Current()
	l.apply(policies, text("keep", "a", "/x/*/y"))
	l.apply(policies, text("keep", "b", "/x/*/y"))
	f.stands("(b) a")
	path := func(f *following) bool {
		o := f.Standing(mesh.Key{Group: mesh.GroupSecurity, Kind: mesh.KindAuthorizationPolicy, Namespace: "keep", Name: "a"})
		return o != nil && strings.Contains(fmt.Sprint(o.Spec), "/good")
	}
	if !path(f) || f.Current() == before {
		t.Error("what stands is not the last good version")
	}
	f.mu.Lock()
	for _, p := range f.problems {
		if p.Position != (mesh.Position{}) || p.Field != "spec.rules[0].to[0].operation.paths[0]" {
			t.Errorf("problem %+v", p)
		}
	}
	f.mu.Unlock()
	f.soon("the ConfigMap", func() bool {
		c, err := l.client.CoreV1().ConfigMaps("keep-system").Get(t.Context(), source.LastGoodConfigMap, metav1.GetOptions{})
		return err == nil && len(c.Data) == 1
	})
	f.stop()
	again := l.follow(nil)
	again.stands("(b) a")
	if !path(again) {
		t.Error("after a restart the last good version is gone")
	}
	all, _ := again.Authored()
	effects := map[string]source.Effect{}
	for _, a := range all {
		effects[a.Name] = a.Effect
	}
	if effects["a"] != source.LastGood || effects["b"] != source.Quarantined {
		t.Errorf("effects %v", effects)
	}
	l.must(l.dynamic.Resource(policies).Namespace("keep").Delete(t.Context(), "a", metav1.DeleteOptions{}))
	again.stands("(b)")
	l.apply(policies, text("keep", "a", "/x/*/y"))
	again.stands("(a) (b)")
	l.apply(policies, text("keep", "a", "/good"))
	again.stands("(b) a")
	again.soon("an empty ConfigMap", func() bool {
		c, err := l.client.CoreV1().ConfigMaps("keep-system").Get(t.Context(), source.LastGoodConfigMap, metav1.GetOptions{})
		return err == nil && len(c.Data) == 0
	})
}

// Status and bookkeeping are no changes; a change of one object leaves the others as they are, pointer for pointer.
func TestOnlyWhatIsAuthoredCounts(t *testing.T) {
	l := newLab(t, "quiet-system", "quiet")
	policies := resource(mesh.GroupSecurity, "authorizationpolicies")
	l.apply(policies, text("quiet", "a", "/a"))
	f := l.follow(nil)
	f.stands("a")
	key := mesh.Key{Group: mesh.GroupSecurity, Kind: mesh.KindAuthorizationPolicy, Namespace: "quiet", Name: "a"}
	object, snapshot := f.Standing(key), f.Current()
	u, _ := f.Object(key)
	u = u.DeepCopy()
	l.must(unstructured.SetNestedSlice(u.Object, []any{map[string]any{"type": "Accepted", "status": "True", "reason": "x", "message": "y",
		"lastTransitionTime": "2026-01-01T00:00:00Z"}}, "status", "conditions"))
	_, err := l.dynamic.Resource(policies).Namespace("quiet").UpdateStatus(t.Context(), u, metav1.UpdateOptions{})
	l.must(err)
	f.soon("the status in the cache", func() bool {
		now, _ := f.Object(key)
		c, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
		return len(c) == 1
	})
	time.Sleep(300 * time.Millisecond)
	if f.Current() != snapshot {
		t.Error("status made a snapshot")
	}
	l.apply(policies, text("quiet", "b", "/b"))
	f.stands("a b")
	if f.Standing(key) != object {
		t.Error("an object that did not change was read again")
	}
}

// A kind that is installed later is picked up, and let go of when its definition goes.
func TestDefinitionsComeAndGo(t *testing.T) {
	l := newLab(t, "kinds-system", "kinds")
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	const name = "sidecars.networking.istio.io"
	have, err := l.dynamic.Resource(definitions).Get(t.Context(), name, metav1.GetOptions{})
	l.must(err)
	remove := func() {
		l.must(l.dynamic.Resource(definitions).Delete(t.Context(), name, metav1.DeleteOptions{}))
		for {
			if _, err := l.dynamic.Resource(definitions).Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	install := func() {
		fresh := have.DeepCopy()
		fresh.SetResourceVersion("")
		fresh.SetUID("")
		unstructured.RemoveNestedField(fresh.Object, "status")
		_, err := l.dynamic.Resource(definitions).Create(t.Context(), fresh, metav1.CreateOptions{})
		l.must(err)
	}
	remove()
	f := l.follow(nil)
	f.stands("")
	install()
	sidecars := resource(mesh.GroupNetworking, "sidecars")
	f.soon("the kind", func() bool {
		_, err := l.dynamic.Resource(sidecars).Namespace("kinds").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	l.apply(sidecars, "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: kinds}\nspec: {egress: [{hosts: [\"./*\"]}]}\n")
	f.stands("s")
	remove()
	f.stands("")
	install()
}

// Problems are told of namespaces of our revision only; the snapshot has everything.
func TestProblemsOfOurNamespaces(t *testing.T) {
	l := newLab(t, "ours-system", "theirs")
	f := l.follow(func(c *source.Config) {
		c.Ours = func(ns string, labels map[string]string) bool { return labels["istio.io/rev"] == "mine" }
	})
	l.apply(resource(mesh.GroupSecurity, "authorizationpolicies"), text("theirs", "p", "/x/*/y"))
	f.stands("(p)")
	if all, _ := f.Authored(); len(all) != 0 {
		t.Errorf("told of %+v", all)
	}
	n, err := l.client.CoreV1().Namespaces().Get(t.Context(), "theirs", metav1.GetOptions{})
	l.must(err)
	n.Labels["istio.io/rev"] = "mine"
	_, err = l.client.CoreV1().Namespaces().Update(t.Context(), n, metav1.UpdateOptions{})
	l.must(err)
	f.soon("its problem", func() bool { all, _ := f.Authored(); return len(all) == 1 && len(all[0].Problems) > 0 })
}

// TestLargeClusterChange measures how long one endpoint takes to be in a snapshot of 1,000 Services with 5,000 endpoints.
func TestLargeClusterChange(t *testing.T) {
	l := newLab(t, "large-system", "large")
	const services, each = 1000, 5
	ctx := t.Context()
	var wg sync.WaitGroup
	work := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range work {
				l.largeService(i, each)
			}
		})
	}
	for i := range services {
		work <- i
	}
	close(work)
	wg.Wait()
	f := l.follow(nil)
	count := func() int {
		n := 0
		for _, o := range f.Current().Objects() {
			if o.Namespace == "large" && o.Kind == mesh.KindService {
				n++
			}
		}
		return n
	}
	f.soon("all Services", func() bool { return count() == services })
	took := make([]time.Duration, 0, 20)
	for i := range 20 {
		name := fmt.Sprintf("svc-%d", i*37)
		s, err := l.client.DiscoveryV1().EndpointSlices("large").Get(ctx, name, metav1.GetOptions{})
		l.must(err)
		s.Endpoints = s.Endpoints[1:]
		before := f.Current()
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		_, err = l.client.DiscoveryV1().EndpointSlices("large").Update(ctx, s, metav1.UpdateOptions{})
		l.must(err)
		begin := time.Now()
		<-changed
		if f.Current() == before {
			t.Fatal("told of no new snapshot")
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("change to snapshot: p50 %v, worst %v (of which %v is quiet)", took[len(took)/2], took[len(took)-1], 20*time.Millisecond)
	if took[len(took)/2] > 100*time.Millisecond {
		t.Errorf("half of the changes took longer than 100 ms: %v", took)
	}
}

func (l *lab) largeService(i, endpoints int) {
	ctx, name := l.t.Context(), fmt.Sprintf("svc-%d", i)
	_, err := l.client.CoreV1().Services("large").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		l.t.Error(err)
		return
	}
	port, number := "http", int32(8080)
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number}}}
	for k := range endpoints {
		n := i*endpoints + k
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.20.%d.%d", n/250, n%250+1)}})
	}
	if _, err := l.client.DiscoveryV1().EndpointSlices("large").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		l.t.Error(err)
	}
}

// A change that a proxy has no part in leaves its view made of what it was made of: nothing is computed or sent for it.
func TestOthersChangeLeavesView(t *testing.T) {
	l := newLab(t, "apart-system", "apart")
	l.apply(resource(mesh.GroupNetworking, "workloadentries"), `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: caller, namespace: apart}
spec: {address: 10.77.0.1, serviceAccount: caller}
`)
	for _, name := range []string{"mine", "other"} {
		_, err := l.client.CoreV1().Services("apart").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}, metav1.CreateOptions{})
		l.must(err)
	}
	f := l.follow(nil)
	asked := []string{"mine.apart.svc.cluster.local"}
	before, ok := f.Current().Demand("apart", "caller", asked)
	if !ok || len(before.Services) != 1 {
		t.Fatalf("no view of one service: %+v", before)
	}
	port, name := int32(8080), "http"
	endpoint := func(service, address string) {
		_, err := l.client.DiscoveryV1().EndpointSlices("apart").Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}}}, metav1.CreateOptions{})
		l.must(err)
		f.soon(address, func() bool {
			v, ok := f.Current().Demand("apart", "caller", []string{service + ".apart.svc.cluster.local"})
			return ok && len(v.Services) == 1 && len(v.Services[0].Endpoints[0]) == 1
		})
	}
	endpoint("other", "10.77.0.3")
	if after, ok := f.Current().Demand("apart", "caller", asked); !ok || !after.Same(before) {
		t.Error("another Service's endpoint made another view")
	}
	endpoint("mine", "10.77.0.2")
	if after, ok := f.Current().Demand("apart", "caller", asked); !ok || after.Same(before) {
		t.Error("an endpoint of its own made no other view")
	}
}
