package source

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/signet-mesh/signet/kube"
)

// maxAnnotation bounds what is kept of an authored object's annotations, in bytes of one value: none that is read is longer.
const maxAnnotation = 4 << 10

// exportTo is Istio's annotation of a Service for ServiceEntry.exportTo.
const exportTo = "networking.istio.io/exportTo"

// The transforms keep of an object what is read of it, so that a cache of a cluster stays small. They are called before an
// object is shared, also with tombstones and with objects that were trimmed before.

func trimMeta(m *metav1.ObjectMeta, annotations ...string) {
	m.ManagedFields, m.Finalizers, m.GenerateName = nil, nil, ""
	var kept map[string]string
	for _, name := range annotations {
		if v, ok := m.Annotations[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = v
		}
	}
	m.Annotations = kept
}

func trimPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	trimMeta(&p.ObjectMeta, kube.AnnotationStatus)
	out := &corev1.Pod{TypeMeta: p.TypeMeta, ObjectMeta: p.ObjectMeta}
	out.Spec.ServiceAccountName, out.Spec.HostNetwork = p.Spec.ServiceAccountName, p.Spec.HostNetwork
	out.Spec.InitContainers, out.Spec.Containers = proxyOnly(p.Spec.InitContainers), proxyOnly(p.Spec.Containers)
	out.Status.Phase, out.Status.PodIP, out.Status.PodIPs = p.Status.Phase, p.Status.PodIP, p.Status.PodIPs
	return out, nil
}

// proxyOnly keeps of containers the name of the sidecar's.
func proxyOnly(containers []corev1.Container) []corev1.Container {
	for i := range containers {
		if containers[i].Name == kube.ProxyContainer {
			return []corev1.Container{{Name: kube.ProxyContainer}}
		}
	}
	return nil
}

func trimService(o any) (any, error) {
	v, ok := o.(*corev1.Service)
	if !ok {
		return o, nil
	}
	trimMeta(&v.ObjectMeta, exportTo)
	v.Labels = nil
	v.Status = corev1.ServiceStatus{}
	return v, nil
}

func trimSlice(o any) (any, error) {
	v, ok := o.(*discoveryv1.EndpointSlice)
	if !ok {
		return o, nil
	}
	trimMeta(&v.ObjectMeta)
	v.Labels = map[string]string{discoveryv1.LabelServiceName: v.Labels[discoveryv1.LabelServiceName]}
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		e.Hints, e.Zone, e.NodeName, e.DeprecatedTopology = nil, nil, nil, nil
	}
	return v, nil
}

func trimNamespace(o any) (any, error) {
	if v, ok := o.(*corev1.Namespace); ok {
		trimMeta(&v.ObjectMeta)
	}
	return o, nil
}

func trimConfig(o any) (any, error) {
	if v, ok := o.(*corev1.ConfigMap); ok {
		trimMeta(&v.ObjectMeta)
	}
	return o, nil
}

func trimAuthored(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	u.SetManagedFields(nil)
	annotations := u.GetAnnotations()
	maps.DeleteFunc(annotations, func(k, v string) bool {
		return k == corev1.LastAppliedConfigAnnotation || len(v) > maxAnnotation
	})
	u.SetAnnotations(annotations)
	return u, nil
}

// trimDefinition drops the schemas.
func trimDefinition(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	u.SetManagedFields(nil)
	u.SetAnnotations(nil)
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		if m, ok := v.(map[string]any); ok {
			delete(m, "schema")
			delete(m, "additionalPrinterColumns")
		}
	}
	if versions != nil {
		if err := unstructured.SetNestedSlice(u.Object, versions, "spec", "versions"); err != nil {
			return nil, err
		}
	}
	return u, nil
}
