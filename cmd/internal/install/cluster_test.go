package install_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/signet-mesh/signet/cmd/internal/install"
	"github.com/signet-mesh/signet/kube/kubetest"
)

var config *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(c *rest.Config) { config = c }) }

// api is the API server as kubectl uses it.
type api struct {
	t       *testing.T
	client  *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func connect(t *testing.T) *api {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(config)
	return &api{t, client, dynamic.NewForConfigOrDie(config), restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))}
}

func (a *api) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	m, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		a.mapper.Reset()
		m, err = a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		ns := o.GetNamespace()
		if ns == "" {
			ns = "default"
		}
		return a.dynamic.Resource(m.Resource).Namespace(ns), nil
	}
	return a.dynamic.Resource(m.Resource), nil
}

// apply writes one object as kubectl apply --server-side does, with strict validation of fields.
func (a *api) apply(o *unstructured.Unstructured, dry ...string) error {
	body, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var r dynamic.ResourceInterface
		if r, err = a.resource(o); err == nil {
			force := true
			_, err = r.Patch(a.t.Context(), o.GetName(), types.ApplyPatchType, body,
				metav1.PatchOptions{FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict, DryRun: dry})
		}
		// A CustomResourceDefinition is served a moment after it was written.
		if !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) || time.Now().After(end) {
			return err
		}
	}
}

func (a *api) mustApply(text string) {
	a.t.Helper()
	for _, o := range decode(a.t, text) {
		if err := a.apply(o); err != nil {
			a.t.Fatalf("applying %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

func decode(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}

// everything names each object of every kind that can be listed, with the labels and annotations that it has. Events, Leases of
// the API server and addresses of its Service come and go by themselves.
func (a *api) everything() []string {
	a.t.Helper()
	lists, err := a.client.Discovery().ServerPreferredResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		a.t.Fatal(err)
	}
	var all []string
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			a.t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.Contains([]string{"events", "componentstatuses", "apiservices", "endpointslices", "endpoints"}, r.Name) {
				continue
			}
			found, err := a.dynamic.Resource(gv.WithResource(r.Name)).List(a.t.Context(), metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				a.t.Fatalf("listing %s: %v", r.Name, err)
			}
			for i := range found.Items {
				if o := &found.Items[i]; o.GetNamespace() != "kube-system" || r.Name != "leases" {
					all = append(all, fmt.Sprint(r.Name, " ", o.GetNamespace(), "/", o.GetName(), " ", o.GetLabels(), o.GetAnnotations()))
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// lasting is a context that outlives the test, for its clean-up.
func (a *api) lasting() context.Context { return context.WithoutCancel(a.t.Context()) }

// gone ends a namespace: there is no controller manager that would.
func (a *api) gone(name string) {
	a.t.Helper()
	ns, err := a.client.CoreV1().Namespaces().Get(a.lasting(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	if err != nil || ns.DeletionTimestamp == nil {
		a.t.Fatalf("namespace %s is not being deleted: %v", name, err)
	}
	ns.Spec.Finalizers = nil
	if _, err := a.client.CoreV1().Namespaces().Finalize(a.lasting(), ns, metav1.UpdateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

func difference(before, after []string) (more, less []string) {
	for _, s := range after {
		if !slices.Contains(before, s) {
			more = append(more, s)
		}
	}
	for _, s := range before {
		if !slices.Contains(after, s) {
			less = append(less, s)
		}
	}
	return more, less
}

// told is what 'signet install' prints for this cluster, and what it says on standard error.
func told(t *testing.T, o install.Options) (text, said string, err error) {
	t.Helper()
	text, _, said, err = printed(t, o)
	return text, said, err
}

// output is what 'signet install' would print for this cluster.
func output(t *testing.T, o install.Options) (text string, kept []string, err error) {
	t.Helper()
	text, kept, said, err := printed(t, o)
	t.Logf("\n%s", said)
	return text, kept, err
}

func printed(t *testing.T, o install.Options) (text string, kept []string, said string, err error) {
	t.Helper()
	if o.Profile == "" {
		o.Profile = "default"
	}
	if o.Namespace == "" {
		o.Namespace = "signet-system"
	}
	values, err := o.Values()
	if err != nil {
		return "", nil, "", err
	}
	found, err := install.Look(t.Context(), config, o.Namespace, install.Revision(values))
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Decide(values); err != nil {
		return "", nil, "", err
	}
	made, err := install.Render(values, o.Namespace, found.Version())
	if err != nil {
		return "", nil, "", err
	}
	kept = made.Without(found)
	var b bytes.Buffer
	made.Tell(&b, &o, found, kept)
	said = b.String()
	b.Reset()
	if err := made.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String(), kept, said, nil
}

// remove is 'signet uninstall'. There is no controller manager, so namespaces end by the test's hand while it waits.
func (a *api) remove(revision string, purge bool) string {
	a.t.Helper()
	plan, err := install.PlanRemoval(a.lasting(), config, "signet-system", revision, purge)
	if err != nil {
		a.t.Fatal(err)
	}
	var b bytes.Buffer
	plan.Tell(&b)
	ctx, stop := context.WithCancel(a.lasting())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.finish(ctx, "signet-system")
	}()
	err = plan.Run(a.lasting(), &b)
	stop()
	<-ended
	if err != nil {
		a.t.Fatal(err)
	}
	return b.String()
}

// finish ends a namespace once it has been deleting for a second.
func (a *api) finish(ctx context.Context, name string) {
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		ns, err := a.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if err != nil || ns.DeletionTimestamp == nil || time.Since(ns.DeletionTimestamp.Time) < time.Second {
			continue
		}
		ns.Spec.Finalizers = nil
		if _, err := a.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

func unmarshal(body []byte, v any) error { return json.Unmarshal(body, v) }

func text(v any) string { return fmt.Sprint(v) }
