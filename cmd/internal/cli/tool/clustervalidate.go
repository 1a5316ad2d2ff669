package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/kube/source"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// maxObjects bounds how many objects of one kind are read of a cluster.
const maxObjects = 50_000

// meshGroups are the API groups of objects that steer a mesh: what of them is not read is named.
var meshGroups = []string{mesh.GroupNetworking, mesh.GroupSecurity, mesh.GroupPolicy, "extensions.istio.io", "telemetry.istio.io",
	"gateway.networking.k8s.io"}

// survey judges a cluster's objects without anything of Signet in it.
type survey struct {
	k           *cluster
	dynamic     dynamic.Interface
	trustDomain string
	// clusterDomain ends the names of Services, root is the namespace of mesh-wide objects.
	clusterDomain, root string
	control             *policy.ControlSettings
	// namespace is the one whose findings are shown; "" for all.
	namespace string

	// partial says that only namespace could be listed: references to others can't be judged.
	partial  bool
	objects  []*mesh.Object
	authored int
	problems []mesh.Problem
	// pods are those that pods are judged by: their annotations.
	pods []*corev1.Pod
	// unread counts the objects of kinds that are not read, by KIND.GROUP.
	unread map[string]int
	notes  []string
}

// run lists and judges.
func (s *survey) run(ctx context.Context) error {
	var err error
	if s.dynamic, err = dynamic.NewForConfig(s.k.cfg); err != nil {
		return fmt.Errorf("building Kubernetes client: %w", err)
	}
	s.unread = map[string]int{}
	if err := s.core(ctx); err != nil {
		return err
	}
	resources, err := s.resources()
	if err != nil {
		return err
	}
	for _, r := range resources {
		if err := s.kind(ctx, r); err != nil {
			return err
		}
	}
	if err := s.config(ctx); err != nil {
		return err
	}
	_, more := mesh.Build(s.objects, mesh.BuildOptions{TrustDomain: s.trustDomain, ClusterDomain: s.clusterDomain, Check: compile.NewCheck(), Control: s.control})
	s.problems = append(s.problems, more...)
	if err := s.injection(ctx); err != nil {
		return err
	}
	if s.namespace != "" {
		s.problems = slices.DeleteFunc(s.problems, func(p mesh.Problem) bool { return p.Key.Namespace != s.namespace })
	}
	for i := range s.problems {
		s.problems[i].Position = mesh.Position{} // there is no file
	}
	slices.SortStableFunc(s.problems, func(a, b mesh.Problem) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return nil
}

// core reads Services and Pods, which objects refer to. Who may list one namespace alone gets that one judged alone.
func (s *survey) core(ctx context.Context) error {
	in := ""
	services, err := s.services(ctx, in)
	if apierrors.IsForbidden(err) && s.namespace != "" {
		in, s.partial = s.namespace, true
		s.notes = append(s.notes, fmt.Sprintf("only namespace %q may be listed: references to others are not judged", in))
		services, err = s.services(ctx, in)
	}
	if err != nil {
		return listing("services", in, err)
	}
	for _, v := range services {
		if o := source.ServiceObject(v, s.clusterDomain); o != nil {
			s.objects = append(s.objects, o)
		}
	}
	if s.pods, err = s.k.pods(ctx, in, ""); err != nil {
		return err
	}
	for _, p := range s.pods {
		if o := source.PodObject(p); o != nil {
			s.objects = append(s.objects, o)
		}
	}
	return nil
}

func (s *survey) services(ctx context.Context, namespace string) ([]*corev1.Service, error) {
	var out []*corev1.Service
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		list, err := s.k.client.CoreV1().Services(namespace).List(ctx, opts)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		if opts.Continue = list.Continue; opts.Continue == "" || len(out) >= maxObjects {
			return out, nil
		}
	}
}

// resources are the kinds of meshGroups that the API server serves, each in one version: one that is read, else its own first.
func (s *survey) resources() ([]metav1.APIResource, error) {
	groups, err := s.k.client.Discovery().ServerGroups()
	if err != nil {
		return nil, fmt.Errorf("asking the API server what it serves: %w", err)
	}
	var out []metav1.APIResource
	for _, g := range groups.Groups {
		if !slices.Contains(meshGroups, g.Name) {
			continue
		}
		seen := map[string]bool{}
		for _, v := range preferred(g) {
			list, err := s.k.client.Discovery().ServerResourcesForGroupVersion(g.Name + "/" + v)
			if err != nil {
				return nil, fmt.Errorf("asking the API server what it serves of %s/%s: %w", g.Name, v, err)
			}
			for _, r := range list.APIResources {
				if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || seen[r.Kind] {
					continue
				}
				seen[r.Kind] = true
				r.Group, r.Version = g.Name, v
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// preferred are the versions of a group, the one that is read first.
func preferred(g metav1.APIGroup) []string {
	var out []string
	for _, v := range g.Versions {
		if v.Version == mesh.VersionOf(g.Name) {
			out = append([]string{v.Version}, out...)
		} else {
			out = append(out, v.Version)
		}
	}
	return out
}

// kind reads all objects of a kind.
func (s *survey) kind(ctx context.Context, r metav1.APIResource) error {
	in := ""
	if s.partial && r.Namespaced {
		in = s.namespace
	}
	_, read := mesh.NewSpec(r.Group, r.Kind)
	resource := s.dynamic.Resource(schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name})
	opts := metav1.ListOptions{Limit: pageSize}
	for n := 0; n < maxObjects; n += pageSize {
		list, err := resource.Namespace(in).List(ctx, opts)
		if apierrors.IsForbidden(err) && !read {
			s.notes = append(s.notes, fmt.Sprintf("%s.%s may not be listed; Signet does not read them", r.Name, r.Group))
			return nil
		}
		if err != nil {
			return listing(r.Name+"."+r.Group, in, err)
		}
		for i := range list.Items {
			if read {
				s.parse(&list.Items[i])
			} else {
				s.pass(&list.Items[i], r.Group)
			}
		}
		if opts.Continue = list.GetContinue(); opts.Continue == "" {
			return nil
		}
	}
	return fmt.Errorf("listing %s.%s: there are more than %d", r.Name, r.Group, maxObjects)
}

// parse judges one object by itself, as a file with it would be.
func (s *survey) parse(u *unstructured.Unstructured) {
	u.SetManagedFields(nil)
	annotations := u.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	u.SetAnnotations(annotations)
	delete(u.Object, "status")
	key := mesh.Key{Group: u.GroupVersionKind().Group, Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
	if s.namespace == "" || key.Namespace == s.namespace {
		s.authored++
	}
	data, err := json.Marshal(u.Object)
	if err != nil {
		s.problems = append(s.problems, mesh.Problem{Key: key, Message: "encoding it: " + err.Error()})
		return
	}
	objects, problems := mesh.Parse("", data, mesh.ParseOptions{TrustDomain: s.trustDomain, RootNamespace: s.root, Now: time.Now(), Judge: compile.Judge(s.trustDomain, s.control)})
	for i := range problems {
		if problems[i].Key == (mesh.Key{}) {
			problems[i].Key = key
		}
	}
	s.objects, s.problems = append(s.objects, objects...), append(s.problems, problems...)
}

// pass counts an object of a kind that is not read, and names it.
func (s *survey) pass(u *unstructured.Unstructured, group string) {
	if s.namespace != "" && u.GetNamespace() != s.namespace {
		return
	}
	s.unread[u.GetKind()+"."+group]++
	text, err := json.Marshal(map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(),
		"metadata": map[string]any{"name": u.GetName(), "namespace": u.GetNamespace()}})
	if err != nil {
		return
	}
	_, problems := mesh.Parse("", text, mesh.ParseOptions{}) // says what to use instead
	for _, p := range problems {
		p.Severity = mesh.Warning
		s.problems = append(s.problems, p)
	}
}

// config reads the MeshConfig.
func (s *survey) config(ctx context.Context) error {
	const name = "istio" // Istio's, of its default revision
	if s.partial && s.namespace != s.root {
		return nil
	}
	c, err := s.k.client.CoreV1().ConfigMaps(s.root).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsForbidden(err):
		s.notes = append(s.notes, fmt.Sprintf("the ConfigMap %s/%s may not be read: MeshConfig is taken to be empty", s.root, name))
		return nil
	case err != nil:
		return fmt.Errorf("reading ConfigMap %s/%s: %w", s.root, name, err)
	}
	data := map[string]any{}
	for _, key := range []string{"mesh", "meshNetworks"} {
		if v, ok := c.Data[key]; ok {
			data[key] = v
		}
	}
	s.parse(&unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": mesh.KindConfigMap, "data": data,
		"metadata": map[string]any{"name": name, "namespace": s.root}}})
	return nil
}

// write prints the findings as `signet validate` does, and ends as it does.
func (s *survey) write(out, notes io.Writer) error {
	failed := 0
	for i := range s.problems {
		p := &s.problems[i]
		severity := "warning"
		if p.Severity == mesh.Refused || p.Dangling && !s.partial {
			severity = "error"
			failed++
		}
		fmt.Fprintf(out, "%s: %s\n", p.Error(), severity)
	}
	for _, kind := range slices.Sorted(maps.Keys(s.unread)) {
		fmt.Fprintf(out, "%s: %d objects are not read by Signet: warning\n", kind, s.unread[kind])
	}
	for _, n := range s.notes {
		fmt.Fprintf(notes, "note: %s\n", n)
	}
	if failed > 0 {
		return cli.Mistake(fmt.Errorf("%d of %d objects' findings are errors", failed, max(s.authored, failed)))
	}
	fmt.Fprintf(out, "%d objects are good\n", s.authored)
	return nil
}
