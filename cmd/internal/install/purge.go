package install

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
)

const (
	maxForeign = 10               // how many foreign objects are named
	tellAgain  = 10 * time.Second // how often a wait is told of
)

// home takes the control plane's namespace where it is ours and holds nothing that somebody else put there: with a namespace goes
// all that is in it. definitions are those that go, and the objects of their kinds with them.
func (r *Removal) home(ctx context.Context, definitions []unstructured.Unstructured) error {
	namespaces := resource("", "v1", "namespaces")
	found, err := r.list(ctx, namespaces, "", metav1.ListOptions{FieldSelector: "metadata.name=" + r.namespace})
	if err != nil || len(found) == 0 {
		return err
	}
	if !ours(&found[0]) {
		if r.purge {
			r.kept = append(r.kept, "namespaces/"+r.namespace+", which Signet did not make")
		}
		return nil
	}
	for i := range definitions {
		group, _, _ := unstructured.NestedString(definitions[i].Object, "spec", "group")
		plural, _, _ := unstructured.NestedString(definitions[i].Object, "spec", "names", "plural")
		r.leaving = append(r.leaving, schema.GroupResource{Group: group, Resource: plural})
	}
	if r.purge {
		foreign, err := r.foreign(ctx, false)
		if err != nil {
			return err
		}
		if len(foreign) > 0 {
			r.kept = append(r.kept, r.holding(foreign))
			return nil
		}
	}
	r.take(namespaces, found)
	return nil
}

// holding is why the namespace is kept.
func (r *Removal) holding(foreign []string) string {
	return "namespaces/" + r.namespace + ", which holds what is not Signet's: " + strings.Join(foreign, ", ")
}

// content is an object of the control plane's namespace.
type content struct {
	kind   schema.GroupVersionResource
	object *unstructured.Unstructured
}

// foreign names what of the control plane's namespace neither goes nor comes by itself. deleted says that the rest is deleted
// already, so that what belonged to it may have lost its owner.
func (r *Removal) foreign(ctx context.Context, deleted bool) ([]string, error) {
	kinds, err := r.kinds()
	if err != nil {
		return nil, err
	}
	byUID := map[types.UID]content{}
	var all []content
	for _, gvr := range kinds {
		found, err := r.list(ctx, gvr, r.namespace, metav1.ListOptions{})
		if apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range found {
			c := content{gvr, &found[i]}
			byUID[found[i].GetUID()] = c
			all = append(all, c)
		}
	}
	var names []string
	for _, c := range all {
		if !r.goes(c, byUID, deleted, 0) {
			names = append(names, c.kind.Resource+"/"+c.object.GetName())
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > maxForeign {
		names = append(names[:maxForeign], fmt.Sprintf("and %d more", len(names)-maxForeign))
	}
	return names, nil
}

// kinds are those whose objects live in namespaces and can be deleted. A group whose server does not answer is an error: what it
// holds there is not known.
func (r *Removal) kinds() ([]schema.GroupVersionResource, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(r.discovery)
	if err != nil {
		return nil, fmt.Errorf("asking which kinds there are, to see what namespace %q holds: %w", r.namespace, err)
	}
	var kinds []schema.GroupVersionResource
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("asking which kinds there are: %w", err)
		}
		for i := range l.APIResources {
			one := &l.APIResources[i]
			gvr := gv.WithResource(one.Name)
			if strings.Contains(one.Name, "/") || !slices.Contains(one.Verbs, "list") || !slices.Contains(one.Verbs, "delete") || slices.Contains(r.leaving, gvr.GroupResource()) {
				continue
			}
			kinds = append(kinds, gvr)
		}
	}
	return kinds, nil
}

// maxOwners bounds how far owners are followed: CronJob, Job, Pod and more.
const maxOwners = 8

// goes says whether an object is nobody's loss: Kubernetes makes it by itself, it is one of those that are deleted, or it belongs
// to such a one.
func (r *Removal) goes(c content, byUID map[types.UID]content, deleted bool, depth int) bool {
	name := c.object.GetName()
	switch c.kind.Resource {
	case "events":
		return true
	case "configmaps":
		if name == "kube-root-ca.crt" || name == "openshift-service-ca.crt" {
			return true
		}
	case "serviceaccounts":
		if name == "default" {
			return true
		}
	case "endpoints": // named as their Service is, and nobody owns them
		return deleted || slices.ContainsFunc(r.items, func(i item) bool {
			return i.resource.Resource == "services" && i.namespace == r.namespace && i.name == name
		})
	}
	if slices.ContainsFunc(r.items, func(i item) bool {
		return i.resource.GroupResource() == c.kind.GroupResource() && i.namespace == r.namespace && i.name == name
	}) {
		return true
	}
	owners := c.object.GetOwnerReferences()
	if len(owners) == 0 || depth > maxOwners {
		return false
	}
	for _, o := range owners {
		owner, there := byUID[o.UID]
		if there && !r.goes(owner, byUID, deleted, depth+1) {
			return false
		}
		if !there && !(deleted && slices.Contains([]string{"Deployment", "ReplicaSet", "Service"}, o.Kind)) {
			return false
		}
	}
	return true
}

// waitForHome waits until the namespace is gone, and tells what it waits for: an installation into a namespace that is going fails.
func (r *Removal) waitForHome(ctx context.Context, w io.Writer) error {
	what := "namespaces/" + r.namespace
	var said string
	var told time.Time
	err := r.wait(ctx, namespaceWait, what, func() (bool, error) {
		ns, err := r.client.Resource(resource("", "v1", "namespaces")).Get(ctx, r.namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("looking whether %s is gone: %w", what, err)
		}
		if now := remaining(ns); now != said || time.Since(told) > tellAgain {
			said, told = now, time.Now()
			fmt.Fprintf(w, "waiting for %s to go%s\n", what, now)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, said)
	}
	fmt.Fprintln(w, "deleted", what)
	return nil
}

// remaining is what the API server says that keeps a namespace from going.
func remaining(ns *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(ns.Object, "status", "conditions")
	var all []string
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["status"] == "True" {
			all = append(all, fmt.Sprint(m["message"]))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, "; ")
}
