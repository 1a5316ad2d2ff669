package install

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/source"
)

// How long the control plane's pods, each CustomResourceDefinition and the namespace may take to go.
const (
	podsWait = 90 * time.Second
	goneWait = 60 * time.Second
	// A namespace goes once everything in it has, and its finalizers are done.
	namespaceWait = 5 * time.Minute
	goneTick      = 500 * time.Millisecond
	listPage      = 500
)

// Removal is what taking Signet out of a cluster would delete.
type Removal struct {
	client    dynamic.Interface
	discovery discovery.DiscoveryInterface
	namespace string
	revision  string
	purge     bool
	items     []item
	kept      []string               // what stays, for people
	injected  map[string]int         // pods that still have a sidecar, by namespace
	labelled  []string               // namespaces that still ask for this revision
	leaving   []schema.GroupResource // kinds whose definitions go
}

// item is one object to delete.
type item struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

func (i item) String() string {
	s := i.resource.Resource + "/" + i.name
	if i.namespace != "" {
		s = i.namespace + " " + s
	}
	return s
}

func resource(group, version, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: plural}
}

// installed are the kinds of the chart in the order in which they are deleted: the webhooks first, so that pods can start, and
// the control plane before what it may do.
func installed() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
		resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
		resource("policy", "v1", "poddisruptionbudgets"),
		resource("apps", "v1", "deployments"),
		resource("", "v1", "services"),
		resource("networking.k8s.io", "v1", "networkpolicies"),
		resource("rbac.authorization.k8s.io", "v1", "rolebindings"),
		resource("rbac.authorization.k8s.io", "v1", "roles"),
		resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
		resource("rbac.authorization.k8s.io", "v1", "clusterroles"),
		resource("", "v1", "configmaps"),
		resource("", "v1", "serviceaccounts"),
	}
}

// PlanRemoval finds what the installation of a revision made, and what the control plane made. It only reads. purge means the
// CustomResourceDefinitions (and with them all objects of their kinds), the CA and the namespace too.
func PlanRemoval(ctx context.Context, cfg *rest.Config, namespace, revision string, purge bool) (*Removal, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	asked, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	r := &Removal{client: client, discovery: asked, namespace: namespace, revision: revision, purge: purge}
	for _, gvr := range installed() {
		found, err := r.list(ctx, gvr, "", metav1.ListOptions{LabelSelector: labelPartOf + "=" + partOf + "," + kube.LabelRevision + "=" + revision})
		if err != nil {
			return nil, err
		}
		for i := range found {
			if found[i].GetLabels()[kube.LabelManagedBy] == "Helm" {
				return nil, fmt.Errorf("%s %q belongs to a release of Helm; take it out by 'helm uninstall -n %s %s'", found[i].GetKind(), found[i].GetName(),
					namespace, found[i].GetAnnotations()["meta.helm.sh/release-name"])
			}
		}
		if err := r.elsewhere(found); err != nil {
			return nil, err
		}
		r.take(gvr, found)
	}
	if err := r.state(ctx, func(name string) bool { return name == r.lease() || name == r.lastGood() }); err != nil {
		return nil, err
	}
	others, err := r.list(ctx, installed()[0], "", metav1.ListOptions{LabelSelector: labelPartOf + "=" + partOf + "," + kube.LabelRevision + "!=" + revision})
	if err != nil {
		return nil, err
	}
	if len(others) > 0 {
		r.kept = append(r.kept, "the CA, the trust bundle and the CustomResourceDefinitions, for the other revision that lives here")
	} else if err := r.shared(ctx); err != nil {
		return nil, err
	}
	return r, r.users(ctx)
}

// elsewhere refuses what belongs to an installation in another namespace.
func (r *Removal) elsewhere(found []unstructured.Unstructured) error {
	for i := range found {
		if o := &found[i]; o.GetKind() == "Deployment" && o.GetNamespace() != r.namespace {
			return fmt.Errorf("revision %q is not installed in namespace %q but in %q: give --namespace %s", r.revision, r.namespace, o.GetNamespace(), o.GetNamespace())
		}
	}
	return nil
}

// lease and lastGood are what the control plane of this revision keeps for itself alone.
func (r *Removal) lease() string    { return kube.LeaderLease + r.suffix() }
func (r *Removal) lastGood() string { return source.LastGoodConfigMap + r.suffix() }

// suffix tells the objects of revisions apart, as in the chart.
func (r *Removal) suffix() string {
	if r.revision == kube.DefaultRevision {
		return ""
	}
	return "-" + r.revision
}

// state takes ConfigMaps and Leases that a control plane keeps its state in, by their names in its namespace.
func (r *Removal) state(ctx context.Context, which func(name string) bool) error {
	for _, kind := range []schema.GroupVersionResource{resource("", "v1", "configmaps"), resource("coordination.k8s.io", "v1", "leases")} {
		found, err := r.list(ctx, kind, r.namespace, metav1.ListOptions{})
		if err != nil {
			return err
		}
		r.take(kind, slices.DeleteFunc(found, func(o unstructured.Unstructured) bool { return !which(o.GetName()) }))
	}
	return nil
}

func (r *Removal) take(gvr schema.GroupVersionResource, found []unstructured.Unstructured) {
	for i := range found {
		one := item{gvr, found[i].GetNamespace(), found[i].GetName()}
		if !slices.Contains(r.items, one) {
			r.items = append(r.items, one)
		}
	}
}

// shared is what all revisions have in common: what the control plane publishes and keeps, and with purge what would be lost.
// Revisions that were taken out another way left their state behind: it goes too, as nobody reads it any more.
func (r *Removal) shared(ctx context.Context) error {
	for _, name := range []string{kube.BundleConfigMap, kube.IstioBundleConfigMap} {
		if err := r.named(ctx, resource("", "v1", "configmaps"), "", name); err != nil {
			return err
		}
	}
	for _, version := range []string{"v1", "v1beta1", "v1alpha1"} { // the first that is served
		before := len(r.items)
		if err := r.named(ctx, resource("certificates.k8s.io", version, "clustertrustbundles"), "", kube.ClusterTrustBundle); err != nil {
			return err
		}
		if len(r.items) > before {
			break
		}
	}
	err := r.state(ctx, func(name string) bool {
		return strings.HasPrefix(name, kube.UsedConfigMap) || strings.HasPrefix(name, kube.LeaderLease) || strings.HasPrefix(name, source.LastGoodConfigMap)
	})
	if err != nil {
		return err
	}
	return r.lost(ctx)
}

// lost is what --purge takes and a plain removal leaves.
func (r *Removal) lost(ctx context.Context) error {
	before := len(r.items)
	secrets := resource("", "v1", "secrets") // the CA's, even where it was restored without its labels
	roots, err := r.list(ctx, secrets, r.namespace, metav1.ListOptions{FieldSelector: "metadata.name=" + kube.RootsSecret})
	if err != nil {
		return err
	}
	r.take(secrets, roots)
	crds := resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
	found, err := r.list(ctx, crds, "", metav1.ListOptions{LabelSelector: kube.LabelManagedBy + "=" + kube.ManagedBy})
	if err != nil {
		return err
	}
	r.take(crds, found)
	if err := r.home(ctx, found); err != nil {
		return err
	}
	if r.purge {
		return nil
	}
	for _, i := range r.items[before:] {
		r.kept = append(r.kept, i.String())
	}
	r.items = r.items[:before]
	return nil
}

// ours says whether Signet made an object: the label is on all that it makes.
func ours(o *unstructured.Unstructured) bool {
	return o.GetLabels()[kube.LabelManagedBy] == kube.ManagedBy
}

// named takes our objects of one name, in one namespace or ("") in all. What somebody else made is not ours, whatever its name.
func (r *Removal) named(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string) error {
	found, err := r.list(ctx, gvr, namespace, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	r.take(gvr, slices.DeleteFunc(found, func(o unstructured.Unstructured) bool { return !ours(&o) }))
	return nil
}

// list is all objects, by pages. A kind that the API server has not is empty.
func (r *Removal) list(ctx context.Context, gvr schema.GroupVersionResource, namespace string, o metav1.ListOptions) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	for o.Limit = listPage; ; {
		page, err := r.client.Resource(gvr).Namespace(namespace).List(ctx, o)
		switch {
		case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("looking for %s: %w", gvr.Resource, err)
		}
		all = append(all, page.Items...)
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return all, nil
		}
	}
}

// users finds who still needs the control plane.
func (r *Removal) users(ctx context.Context) error {
	pods, err := r.list(ctx, resource("", "v1", "pods"), "", metav1.ListOptions{})
	if err != nil {
		return err
	}
	r.injected = map[string]int{}
	for i := range pods {
		var status struct {
			Revision string `json:"revision"`
		}
		text := pods[i].GetAnnotations()[kube.AnnotationStatus]
		phase, _, _ := unstructured.NestedString(pods[i].Object, "status", "phase")
		if text != "" && json.Unmarshal([]byte(text), &status) == nil && status.Revision == r.revision && phase != "Succeeded" && phase != "Failed" {
			r.injected[pods[i].GetNamespace()]++
		}
	}
	spaces, err := r.list(ctx, resource("", "v1", "namespaces"), "", metav1.ListOptions{LabelSelector: kube.LabelRevision + "=" + r.revision})
	if err != nil {
		return err
	}
	for i := range spaces {
		r.labelled = append(r.labelled, spaces[i].GetName())
	}
	return nil
}

// Empty says that nothing of the revision is there.
func (r *Removal) Empty() bool { return len(r.items) == 0 }

// InUse names the pods that still have a sidecar of this revision; "" if none has.
func (r *Removal) InUse() string {
	all := make([]string, 0, len(r.injected))
	for _, ns := range slices.Sorted(maps.Keys(r.injected)) {
		all = append(all, fmt.Sprintf("%s (%d)", ns, r.injected[ns]))
	}
	return strings.Join(all, ", ")
}

// Tell prints what would go and what stays.
func (r *Removal) Tell(w io.Writer) {
	for _, i := range r.items {
		fmt.Fprintln(w, "delete", i)
	}
	for _, k := range r.kept {
		fmt.Fprintln(w, "keep  ", k)
	}
	if len(r.labelled) > 0 {
		fmt.Fprintf(w, "These namespaces still have the label %s=%s: %s\n", kube.LabelRevision, r.revision, strings.Join(r.labelled, ", "))
	}
}

// Run deletes, one line of progress for each object. What is gone already is no error; the first that cannot be deleted ends it,
// and it may be run again.
func (r *Removal) Run(ctx context.Context, w io.Writer) error {
	for _, i := range r.items {
		if i.resource.Resource == "namespaces" { // somebody may have put something in since the plan
			foreign, err := r.foreign(ctx, true)
			if err != nil {
				return err
			}
			if len(foreign) > 0 {
				fmt.Fprintln(w, "keep", r.holding(foreign))
				continue
			}
		}
		background := metav1.DeletePropagationBackground
		err := r.client.Resource(i.resource).Namespace(i.namespace).Delete(ctx, i.name, metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting %s: %w", i, err)
		}
		if i.resource.Resource == "namespaces" {
			fmt.Fprintln(w, "deleting", i)
		} else {
			fmt.Fprintln(w, "deleted", i)
		}
		if err := r.leave(ctx, i, w); err != nil {
			return err
		}
	}
	return nil
}

// leave waits for what has to be gone before the next object is deleted, or before Signet can be installed again.
func (r *Removal) leave(ctx context.Context, i item, w io.Writer) error {
	switch i.resource.Resource {
	case "deployments": // as long as it lives it would make again what is deleted next
		return r.wait(ctx, podsWait, "the control plane's pods", func() (bool, error) {
			pods, err := r.list(ctx, resource("", "v1", "pods"), r.namespace, metav1.ListOptions{LabelSelector: labelPartOf + "=" + partOf + "," + kube.LabelRevision + "=" + r.revision})
			return len(pods) == 0, err
		})
	case "customresourcedefinitions":
		return r.wait(ctx, goneWait, i.String(), func() (bool, error) {
			_, err := r.client.Resource(i.resource).Get(ctx, i.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			return false, err
		})
	case "namespaces":
		return r.waitForHome(ctx, w)
	}
	return nil
}

func (r *Removal) wait(ctx context.Context, most time.Duration, what string, gone func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(goneTick)
	defer tick.Stop()
	for {
		done, err := gone()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting %s for %s to go: %w", most, what, ctx.Err())
		case <-tick.C:
		}
	}
}
