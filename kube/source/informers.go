package source

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/signet-mesh/signet/mesh"
)

// what says which cache an item is in: a core kind, or the Kind of an authored object.
type what string

const (
	whatPod       what = "Pod"
	whatService   what = "Service"
	whatSlice     what = "EndpointSlice"
	whatNamespace what = "Namespace"
	whatConfig    what = "ConfigMap"
)

// The indexes of the caches.
const (
	byAddress = "address" // pods by NAMESPACE|IP
	byService = "service" // EndpointSlices by NAMESPACE/SERVICE
	byPod     = "pod"     // EndpointSlices by NAMESPACE/POD, or NAMESPACE|IP where an endpoint names no pod
)

// configName is the ConfigMap of the MeshConfig.
const configName = "istio"

// informed is an informer whose events were all handled when synced says so.
type informed struct {
	cache.SharedIndexInformer
	handled cache.ResourceEventHandlerRegistration
}

func (i *informed) synced() bool { return i.HasSynced() && i.handled.HasSynced() }

// inform builds the informers of the core kinds, and what follows the CustomResourceDefinitions.
func (s *Source) inform() error {
	c := s.cfg.Client
	s.pods = coreinformers.NewFilteredPodInformer(c, metav1.NamespaceAll, 0, cache.Indexers{byAddress: addressesOf}, nil)
	s.services = coreinformers.NewFilteredServiceInformer(c, metav1.NamespaceAll, 0, cache.Indexers{}, nil)
	s.slices = discoveryinformers.NewFilteredEndpointSliceInformer(c, metav1.NamespaceAll, 0, cache.Indexers{byService: serviceOf, byPod: podsOf}, nil)
	s.spaces = coreinformers.NewFilteredNamespaceInformer(c, 0, cache.Indexers{}, nil)
	s.config = coreinformers.NewFilteredConfigMapInformer(c, s.cfg.RootNamespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = "metadata.name=" + configName
	})
	for _, k := range []struct {
		what     what
		informer cache.SharedIndexInformer
		trim     cache.TransformFunc
	}{{whatPod, s.pods, trimPod}, {whatService, s.services, trimService}, {whatSlice, s.slices, trimSlice}, {whatNamespace, s.spaces, trimNamespace}, {whatConfig, s.config, trimConfig}} {
		i, err := s.handle(k.what, k.informer, k.trim)
		if err != nil {
			return err
		}
		s.informed = append(s.informed, i)
	}
	s.kinds = newKinds(s)
	definitions := dynamicinformer.NewFilteredDynamicInformer(s.cfg.Dynamic, definitionResource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	i, err := s.watch(definitions, trimDefinition, s.kinds.handler())
	if err != nil {
		return err
	}
	s.kinds.definitions = definitions
	s.informed = append(s.informed, i)
	return nil
}

// handle makes an informer mark what changes.
func (s *Source) handle(w what, i cache.SharedIndexInformer, trim cache.TransformFunc) (*informed, error) {
	mark := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		// What a slice says is read with its Service; a Service without one is nothing that a slice's name leads to.
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			s.dirty.mark(item{whatService, slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]})
		} else if key, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			s.dirty.mark(item{w, key})
		}
	}
	return s.watch(i, trim, cache.ResourceEventHandlerFuncs{AddFunc: mark, DeleteFunc: mark, UpdateFunc: func(before, now any) {
		if !same(before, now) {
			mark(before) // a slice may have been another Service's
			mark(now)
		}
	}})
}

func (s *Source) watch(i cache.SharedIndexInformer, trim cache.TransformFunc, h cache.ResourceEventHandler) (*informed, error) {
	if err := i.SetTransform(trim); err != nil {
		return nil, fmt.Errorf("setting transform: %w", err)
	}
	err := i.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if ctx.Err() == nil {
			s.log.Warn("watching the API server fails, what is known stays in force", "kind", r.TypeDescription(), "error", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("setting error handler: %w", err)
	}
	handled, err := i.AddEventHandler(h)
	if err != nil {
		return nil, fmt.Errorf("adding event handler: %w", err)
	}
	return &informed{i, handled}, nil
}

// same reports whether nothing that is read of an object differs: after trimming all that is left is read, save versions.
func same(before, now any) bool {
	switch b := before.(type) {
	case *corev1.Pod:
		n, ok := now.(*corev1.Pod)
		return ok && sameMeta(&b.ObjectMeta, &n.ObjectMeta) && equality.Semantic.DeepEqual(b.Spec, n.Spec) && equality.Semantic.DeepEqual(b.Status, n.Status)
	case *corev1.Service:
		n, ok := now.(*corev1.Service)
		return ok && sameMeta(&b.ObjectMeta, &n.ObjectMeta) && equality.Semantic.DeepEqual(b.Spec, n.Spec)
	case *discoveryv1.EndpointSlice:
		n, ok := now.(*discoveryv1.EndpointSlice)
		return ok && sameMeta(&b.ObjectMeta, &n.ObjectMeta) && b.AddressType == n.AddressType &&
			equality.Semantic.DeepEqual(b.Endpoints, n.Endpoints) && equality.Semantic.DeepEqual(b.Ports, n.Ports)
	case *corev1.Namespace:
		n, ok := now.(*corev1.Namespace)
		return ok && sameMeta(&b.ObjectMeta, &n.ObjectMeta)
	case *corev1.ConfigMap:
		n, ok := now.(*corev1.ConfigMap)
		return ok && sameMeta(&b.ObjectMeta, &n.ObjectMeta) && equality.Semantic.DeepEqual(b.Data, n.Data) && equality.Semantic.DeepEqual(b.BinaryData, n.BinaryData)
	case *unstructured.Unstructured:
		n, ok := now.(*unstructured.Unstructured)
		return ok && b.GetUID() == n.GetUID() && equality.Semantic.DeepEqual(written(b), written(n))
	}
	return false
}

func sameMeta(a, b *metav1.ObjectMeta) bool {
	return a.UID == b.UID && equality.Semantic.DeepEqual(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.Annotations, b.Annotations)
}

func addressesOf(o any) ([]string, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok || !placed(pod) {
		return nil, nil
	}
	var out []string
	for _, a := range podAddresses(pod) {
		out = append(out, pod.Namespace+"|"+a.String())
	}
	return out, nil
}

func serviceOf(o any) ([]string, error) {
	if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	}
	return nil, nil
}

func podsOf(o any) ([]string, error) {
	slice, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, nil
	}
	var out []string
	for i := range slice.Endpoints {
		if name := podName(slice, &slice.Endpoints[i]); name != "" {
			out = append(out, slice.Namespace+"/"+name)
			continue
		}
		for _, a := range slice.Endpoints[i].Addresses {
			out = append(out, slice.Namespace+"|"+canonical(a))
		}
	}
	return out, nil
}

// podName is that of the pod that an endpoint names, which must be one of its own namespace; "" if it names none.
func podName(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) string {
	if r := e.TargetRef; r != nil && r.Kind == mesh.KindPod && (r.Namespace == "" || r.Namespace == slice.Namespace) {
		return r.Name
	}
	return ""
}
