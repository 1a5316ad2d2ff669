package status_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/status"
	"github.com/signet-mesh/signet/mesh"
)

var admin *rest.Config

func TestMain(m *testing.M) {
	kubetest.Main(m, func(cfg *rest.Config) { admin = cfg }, "deploy/crds")
}

var policies = schema.GroupVersionResource{Group: mesh.GroupSecurity, Version: "v1", Resource: "authorizationpolicies"}

// world is an API server with a writer beside it, and what that is told.
type world struct {
	t         *testing.T
	dynamic   dynamic.Interface
	client    kubernetes.Interface
	namespace string

	mu      sync.Mutex // guards the rest
	objects []status.Object
	changed chan struct{}
	acks    map[mesh.Key]ack
	logs    strings.Builder
	urgent  bool
	unasked int
	grace   time.Duration // 0: one that is over at once
}

type ack struct {
	acked, wanted int
	refusal       string
}

func (w *world) Findings() ([]status.Object, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.objects), w.changed
}

func (w *world) Refresh(_ context.Context, urgent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.urgent = urgent
}

func (w *world) Programmed(key mesh.Key) status.Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.acks[key]
	return status.Progress{Acked: a.acked, Wanted: a.wanted, Refusal: a.refusal, Unasked: w.unasked}
}

// found replaces the findings.
func (w *world) found(objects ...status.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.objects = objects
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) acknowledged(o status.Object, acked, wanted int, refusal string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks[o.Key] = ack{acked, wanted, refusal}
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.Write(p)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	d, err := dynamic.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "status-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, dynamic: d, client: c, namespace: ns.Name, changed: make(chan struct{}), acks: map[mesh.Key]ack{}}
}

// every is the pause between two writes in tests.
const every = 700 * time.Millisecond

// run starts a writer, and returns what ends it.
func (w *world) run() (stop func()) {
	w.t.Helper()
	writer, err := status.New(status.Config{Dynamic: w.dynamic, Client: w.client, Findings: w, Programs: w, Instance: "signetd-0",
		Ours: func(ns string) bool { return ns == w.namespace }, Log: slog.New(slog.NewTextHandler(w, nil)),
		Every: every, Settle: 60 * time.Millisecond, Grace: max(w.grace, 1), Tick: 20 * time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// create makes an object of YAML and returns what a source would say of it.
func (w *world) create(gvr schema.GroupVersionResource, text string) status.Object {
	w.t.Helper()
	var u unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		w.t.Fatal(err)
	}
	got, err := w.dynamic.Resource(gvr).Namespace(w.namespace).Create(w.t.Context(), &u, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.judged(got)
}

func (w *world) judged(u *unstructured.Unstructured) status.Object {
	return status.Object{Key: mesh.Key{Group: u.GroupVersionKind().Group, Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()},
		UID: u.GetUID(), Generation: u.GetGeneration(), ResourceVersion: u.GetResourceVersion()}
}

func (w *world) policy(name string) status.Object {
	w.t.Helper()
	return w.create(policies, `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: `+name+`}, spec: {action: DENY, rules: [{}]}}`)
}

func (w *world) get(gvr schema.GroupVersionResource, name string) *unstructured.Unstructured {
	w.t.Helper()
	u, err := w.dynamic.Resource(gvr).Namespace(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// conditions are TYPE=STATUS/REASON: MESSAGE of an object.
func conditions(u *unstructured.Unstructured) []string {
	var out []string
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range all {
		m, _ := c.(map[string]any)
		out = append(out, fmt.Sprintf("%v=%v/%v: %v", m["type"], m["status"], m["reason"], m["message"]))
	}
	return out
}

// field is one field of one condition.
func field(u *unstructured.Unstructured, kind, name string) string {
	all, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range all {
		if m, _ := c.(map[string]any); m["type"] == kind {
			return fmt.Sprint(m[name])
		}
	}
	return ""
}

// until waits for conditions, which begin with what is wanted.
func (w *world) until(gvr schema.GroupVersionResource, name string, want ...string) *unstructured.Unstructured {
	w.t.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		u := w.get(gvr, name)
		got := conditions(u)
		if len(got) == len(want) && !slices.ContainsFunc(want, func(x string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, x) })
		}) {
			return u
		}
		if time.Now().After(end) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("%s has\n  %s\nwant\n  %s\nlog: %s", name, strings.Join(got, "\n  "), strings.Join(want, "\n  "), w.logs.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// writes counts the versions that an object goes through while do runs.
func (w *world) writes(gvr schema.GroupVersionResource, name string, do func()) int {
	w.t.Helper()
	u := w.get(gvr, name)
	watch, err := w.dynamic.Resource(gvr).Namespace(w.namespace).Watch(w.t.Context(), metav1.ListOptions{ResourceVersion: u.GetResourceVersion(), FieldSelector: "metadata.name=" + name})
	if err != nil {
		w.t.Fatal(err)
	}
	defer watch.Stop()
	do()
	n := 0
	for {
		select {
		case <-watch.ResultChan():
			n++
		case <-time.After(100 * time.Millisecond):
			return n
		}
	}
}

const resolved, stands = "ResolvedRefs=True/ResolvedRefs: ", "Accepted=True/Accepted: "

func TestConditions(t *testing.T) {
	for name, c := range map[string]struct {
		problems    []mesh.Problem
		quarantined bool
		acks        ack
		want        []string
	}{
		"good":             {acks: ack{2, 2, ""}, want: []string{stands + "the object stands", "Programmed=True/Programmed: 2 of 2 proxies acknowledged", resolved}},
		"nobody":           {want: []string{stands, "Programmed=True/Programmed: 0 of 0 proxies acknowledged", resolved}},
		"pending":          {acks: ack{1, 3, ""}, want: []string{stands, "Programmed=False/Pending: 1 of 3 proxies acknowledged", resolved}},
		"refused-by-proxy": {acks: ack{1, 3, "shop/cart: field\n unknown"}, want: []string{stands, "Programmed=False/Refused: 1 of 3 proxies acknowledged; refused: shop/cart: field unknown", resolved}},
		"warned": {problems: []mesh.Problem{{Severity: mesh.Warning, Field: "spec.rules[0]", Message: "port 50051 is carried as TCP"}},
			want: []string{stands + "with warnings: spec.rules[0]: port 50051 is carried as TCP", "Programmed=True/", resolved}},
		"dangling": {problems: []mesh.Problem{{Severity: mesh.Warning, Dangling: true, Field: "spec.provider.name", Message: `no provider "opa"`}},
			want: []string{stands, "Programmed=True/", `ResolvedRefs=False/NotFound: spec.provider.name: no provider "opa"`}},
		"invalid": {problems: []mesh.Problem{{Field: "spec.rules[0].when[1].key", Message: "unknown key"}, {Message: "and more"}}, acks: ack{4, 4, ""},
			want: []string{"Accepted=False/Invalid: spec.rules[0].when[1].key: unknown key; and more", "Programmed=False/Invalid: ", "ResolvedRefs=Unknown/Invalid: "}},
		"quarantined": {problems: []mesh.Problem{{Field: "spec.action", Message: "is new"}}, quarantined: true, acks: ack{3, 4, ""},
			want: []string{"Accepted=False/Quarantined: spec.action: is new", "Programmed=False/Quarantined: 3 of 4 proxies acknowledged that", "ResolvedRefs=Unknown/"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := w.policy(name)
			o.Problems, o.Quarantined = c.problems, c.quarantined
			w.acknowledged(o, c.acks.acked, c.acks.wanted, c.acks.refusal)
			w.found(o)
			w.run()
			u := w.until(policies, name, c.want...)
			if g := u.GetGeneration(); g != 1 {
				t.Errorf("writing status made it generation %d", g)
			}
			if got := field(u, status.Accepted, "observedGeneration"); got != "1" {
				t.Errorf("observedGeneration is %q", got)
			}
			if got, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); got != 1 {
				t.Errorf("status.observedGeneration is %d", got)
			}
		})
	}
}

// That nobody needs an object is written only when proxies had a chance to learn of it; that one does, or a refusal, at once.
// After a change it is waited for again.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	w.grace = 2500 * time.Millisecond
	lonely, bad, used := w.policy("lonely"), w.policy("bad"), w.policy("used")
	bad.Problems = []mesh.Problem{{Message: "is wrong"}}
	w.acknowledged(used, 1, 1, "")
	w.found(lonely, bad, used)
	began := time.Now()
	w.run()
	w.until(policies, "bad", "Accepted=False/", "Programmed=False/Invalid", "ResolvedRefs=Unknown/")
	w.until(policies, "used", stands, "Programmed=True/Programmed: 1 of 1", resolved)
	if took := time.Since(began); took > 2*time.Second {
		t.Fatalf("took %s", took)
	}
	if got := conditions(w.get(policies, "lonely")); len(got) != 0 {
		t.Errorf("has %v already", got)
	}
	w.until(policies, "lonely", stands, "Programmed=True/Programmed: 0 of 0 proxies acknowledged", resolved)
	if took := time.Since(began); took < w.grace {
		t.Errorf("0 of 0 after %s", took)
	}
}

// What some replicas of the control plane did not say is told, and nothing is claimed without any knowledge.
func TestUnasked(t *testing.T) {
	w := newWorld(t)
	w.unasked = 2
	known, unknown := w.policy("known"), w.policy("unknown")
	w.acknowledged(known, 3, 3, "")
	w.found(known, unknown)
	w.run()
	const left = "; 2 replicas of the control plane could not be asked"
	w.until(policies, "known", stands, "Programmed=True/Programmed: 3 of 3 proxies acknowledged"+left, resolved)
	w.until(policies, "unknown", stands, "Programmed=Unknown/Pending: 0 of 0 proxies acknowledged"+left, resolved)
}

// Programs are asked with urgency while a status may change, and without when all is written.
func TestUrgency(t *testing.T) {
	w := newWorld(t)
	o := w.policy("calm")
	w.acknowledged(o, 1, 1, "")
	w.found(o)
	w.run()
	until := func(urgent bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			w.mu.Lock()
			got := w.urgent
			w.mu.Unlock()
			if got == urgent {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("urgent is %v", got)
			}
		}
	}
	until(true)
	until(false)
	w.acknowledged(o, 1, 2, "")
	until(true)
	time.Sleep(2 * every) // written, and still pending
	until(true)
	w.acknowledged(o, 2, 2, "")
	until(false)
}

// Every kind's CustomResourceDefinition takes the conditions and gives them back.
func TestEveryKind(t *testing.T) {
	w := newWorld(t)
	kinds := map[string]string{
		"workloadentries": "networking.istio.io/v1 WorkloadEntry {address: 10.0.0.1}", "serviceentries": "networking.istio.io/v1 ServiceEntry {hosts: [a.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
		"sidecars": "networking.istio.io/v1 Sidecar {egress: [{hosts: ['./*']}]}", "virtualservices": "networking.istio.io/v1 VirtualService {hosts: [a.example], http: [{route: [{destination: {host: a.example}}]}]}",
		"destinationrules": "networking.istio.io/v1 DestinationRule {host: a.example}", "authorizationpolicies": "security.istio.io/v1 AuthorizationPolicy {}",
		"peerauthentications": "security.istio.io/v1 PeerAuthentication {mtls: {mode: STRICT}}", "requestauthentications": "security.istio.io/v1 RequestAuthentication {jwtRules: [{issuer: i}]}",
		"regopolicies":      "policy.signet.dev/v1alpha1 RegoPolicy {query: data.a.allow, module: 'package a'}",
		"ratelimitpolicies": "policy.signet.dev/v1alpha1 RateLimitPolicy {selector: {matchLabels: {app: a}}, local: {rules: [{limit: {requests: 3, unit: Minute}}]}}",
	}
	var all []status.Object
	for plural, text := range kinds {
		parts := strings.SplitN(text, " ", 3)
		gv, err := schema.ParseGroupVersion(parts[0])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w.create(gv.WithResource(plural), fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: x}, spec: %s}", parts[0], parts[1], parts[2])))
	}
	w.found(all...)
	w.run()
	for plural, text := range kinds {
		gv, _ := schema.ParseGroupVersion(strings.Fields(text)[0])
		u := w.until(gv.WithResource(plural), "x", stands, "Programmed=True/", resolved)
		if got := field(u, status.Programmed, "observedGeneration"); got != "1" {
			t.Errorf("%s: observedGeneration is %q", plural, got)
		}
	}
}

// However often the proxies' answers change, an object is written once in Every, and ends with the last of them.
func TestCoalesced(t *testing.T) {
	w := newWorld(t)
	o := w.policy("busy")
	w.found(o)
	w.run()
	w.until(policies, "busy", stands, "Programmed=True/", resolved)
	const wanted = 60
	began := time.Now()
	n := w.writes(policies, "busy", func() {
		for i := range wanted + 1 {
			w.acknowledged(o, i, wanted, "")
			time.Sleep(30 * time.Millisecond)
		}
		w.until(policies, "busy", stands, "Programmed=True/Programmed: 60 of 60", resolved)
	})
	if most := int(time.Since(began)/every) + 1; n > most || n < 2 {
		t.Errorf("%d writes, want at most %d", n, most)
	}
}

// Where nothing changes nothing is written: not by the same findings again, not by its own writes coming back, not by the
// next leader. Somebody else's write is looked at, and answered only where it took something away.
func TestNothingWithoutChange(t *testing.T) {
	w := newWorld(t)
	o := w.policy("still")
	w.found(o)
	stop := w.run()
	w.until(policies, "still", stands, "Programmed=True/", resolved)
	if n := w.writes(policies, "still", func() {
		for range 5 {
			w.found(w.judged(w.get(policies, "still"))) // as its own watch would say
			time.Sleep(every / 2)
		}
		stop()
		w.run() // the next leader
		time.Sleep(2 * every)
	}); n != 0 {
		t.Errorf("%d writes without a change", n)
	}
	patch := func(body string, sub ...string) {
		t.Helper()
		u, err := w.dynamic.Resource(policies).Namespace(w.namespace).Patch(t.Context(), "still", types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
		if err != nil {
			t.Fatal(err)
		}
		w.found(w.judged(u))
	}
	if n := w.writes(policies, "still", func() {
		patch(`{"metadata":{"labels":{"team":"a"}}}`)
		time.Sleep(2 * every)
	}); n != 1 {
		t.Errorf("%d writes after a label, want that one", n)
	}
	patch(`{"status":{"conditions":[{"type":"Reconciled","status":"True","lastProbeTime":"2026-01-02T03:04:05Z"}],"validationMessages":[{"level":"INFO"}]}}`, "status")
	u := w.until(policies, "still", "Reconciled=True/", stands, "Programmed=True/", resolved)
	if got := field(u, "Reconciled", "lastProbeTime"); got != "2026-01-02T03:04:05Z" {
		t.Errorf("another's condition was changed: %v", conditions(u))
	}
	if _, ok, _ := unstructured.NestedSlice(u.Object, "status", "validationMessages"); !ok {
		t.Error("another's validationMessages are gone")
	}
}

// lastTransitionTime moves with the status alone.
func TestTransitionTime(t *testing.T) {
	w := newWorld(t)
	o := w.policy("times")
	w.acknowledged(o, 0, 2, "")
	w.found(o)
	w.run()
	pending := w.until(policies, "times", stands, "Programmed=False/Pending: 0 of 2", resolved)
	time.Sleep(1100 * time.Millisecond) // times have seconds
	w.acknowledged(o, 1, 2, "")
	more := w.until(policies, "times", stands, "Programmed=False/Pending: 1 of 2", resolved)
	w.acknowledged(o, 2, 2, "")
	done := w.until(policies, "times", stands, "Programmed=True/", resolved)
	at := func(u *unstructured.Unstructured, kind string) string { return field(u, kind, "lastTransitionTime") }
	if at(pending, status.Programmed) != at(more, status.Programmed) || at(more, status.Programmed) == at(done, status.Programmed) || at(pending, status.Accepted) != at(done, status.Accepted) {
		t.Errorf("Programmed at %s, %s, %s; Accepted at %s, %s", at(pending, status.Programmed), at(more, status.Programmed), at(done, status.Programmed), at(pending, status.Accepted), at(done, status.Accepted))
	}
}

// What was judged is an older generation than what is there: nothing is said of the newer.
func TestNewerThanJudged(t *testing.T) {
	w := newWorld(t)
	o := w.policy("newer")
	if _, err := w.dynamic.Resource(policies).Namespace(w.namespace).Patch(t.Context(), "newer", types.MergePatchType, []byte(`{"spec":{"action":"ALLOW"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.found(o)
	w.run()
	time.Sleep(2 * every)
	if got := conditions(w.get(policies, "newer")); len(got) != 0 {
		t.Errorf("has %v", got)
	}
	w.found(w.judged(w.get(policies, "newer")))
	u := w.until(policies, "newer", stands, "Programmed=True/", resolved)
	if got := field(u, status.Accepted, "observedGeneration"); got != "2" {
		t.Errorf("observedGeneration is %q", got)
	}
}

// Objects of namespaces that are another revision's are left alone, and so are those that are gone.
func TestOnlyOurs(t *testing.T) {
	theirs, w := newWorld(t), newWorld(t)
	other, gone, o := theirs.policy("p"), w.policy("gone"), w.policy("p")
	if err := w.dynamic.Resource(policies).Namespace(w.namespace).Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	other.Problems = []mesh.Problem{{Message: "is refused"}}
	w.found(other, gone, o)
	w.run()
	w.until(policies, "p", stands, "Programmed=True/", resolved)
	time.Sleep(every)
	if got := conditions(theirs.get(policies, "p")); len(got) != 0 {
		t.Errorf("wrote to another's: %v", got)
	}
	if got := theirs.events(); len(got) != 0 {
		t.Errorf("told of another's: %v", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logs.Len() > 0 {
		t.Errorf("logged %s", w.logs.String())
	}
}

// events are REASON KIND/NAME: NOTE of the namespace.
func (w *world) events() []string {
	w.t.Helper()
	list, err := w.client.EventsV1().Events(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, fmt.Sprintf("%s %s %s/%s: %s", e.Type, e.Reason, e.Regarding.Kind, e.Regarding.Name, e.Note))
	}
	slices.Sort(out)
	return out
}

// There is one Event for a refusal of a generation, whatever happens in between and whoever leads.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	o := w.policy("bad-" + strings.Repeat("x", 230))
	o.Problems = []mesh.Problem{{Field: "spec.action", Message: strings.Repeat("is wrong ", 200)}}
	service := status.Object{Key: mesh.Key{Kind: mesh.KindService, Namespace: w.namespace, Name: "pay"}, UID: "u1",
		Problems: []mesh.Problem{{Severity: mesh.Warning, Message: "port grpc is carried as TCP"}}}
	config := status.Object{Key: mesh.Key{Kind: mesh.KindConfigMap, Namespace: w.namespace, Name: "istio"}, UID: "u2", Problems: []mesh.Problem{{Field: "mesh.foo", Message: "unknown field"}}}
	w.found(o, service, config)
	stop := w.run()
	w.until(policies, o.Name, "Accepted=False/Invalid: spec.action: is wrong", "Programmed=False/", "ResolvedRefs=Unknown/")
	w.found(o, service, config)
	time.Sleep(every)
	stop()
	w.run()
	time.Sleep(2 * every)
	got := w.events()
	want := []string{"Warning Invalid AuthorizationPolicy/" + o.Name + ": spec.action: is wrong", "Warning Invalid ConfigMap/istio: mesh.foo: unknown field",
		"Warning NotHonoured Service/pay: port grpc is carried as TCP"}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %.300q, want %q", got[i], want[i])
		}
	}
	o.Quarantined, o.Generation = true, 2 // not there yet: an Event, no conditions
	w.found(o)
	for end := time.Now().Add(10 * time.Second); len(w.events()) < 4; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no Event of the quarantine: %q", w.events())
		}
	}
}

// Without the right to write, it says so and goes on trying, less and less often.
func TestForbidden(t *testing.T) {
	w := newWorld(t)
	cfg := rest.CopyConfig(admin)
	cfg.Impersonate.UserName = "nobody"
	var err error
	if w.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	w.found(status.Object{Key: mesh.Key{Group: mesh.GroupSecurity, Kind: mesh.KindAuthorizationPolicy, Namespace: w.namespace, Name: "p"}, Generation: 1})
	stop := w.run()
	time.Sleep(4 * every)
	stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := strings.Count(w.logs.String(), "status not written"); n < 1 || n > 3 || !strings.Contains(w.logs.String(), "forbidden") {
		t.Errorf("logged %d times: %s", n, w.logs.String())
	}
}
