package source

import (
	"maps"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/mesh"
)

// labelTemplateHash is what a Deployment adds to the names and labels of its ReplicaSets and pods.
const labelTemplateHash = "pod-template-hash"

// ended reports whether all containers of a pod have ended for good: it calls nobody and nobody calls it.
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// placed reports whether a pod is a workload of the mesh: it has an address of its own and has not ended.
func placed(p *corev1.Pod) bool {
	return !ended(p) && !p.Spec.HostNetwork && p.Status.PodIP != ""
}

// podAddresses are the addresses of a pod, the one of its main family first.
func podAddresses(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, text := range append([]string{p.Status.PodIP}, podIPs(p)...) {
		if a, err := netip.ParseAddr(text); err == nil && !seen[a.Unmap()] {
			seen[a.Unmap()] = true
			out = append(out, a.Unmap())
		}
	}
	return out
}

func podIPs(p *corev1.Pod) []string {
	var out []string
	for _, ip := range p.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

// canonical is one spelling of an address, or the text itself if it is none.
func canonical(text string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().String()
	}
	return text
}

// podObject is a pod as an object of the mesh, nil if it is no workload of it.
func podObject(p *corev1.Pod) *mesh.Object {
	if p == nil || !placed(p) {
		return nil
	}
	addresses := podAddresses(p)
	if len(addresses) == 0 {
		return nil
	}
	notes := map[string]string{mesh.OwnerAnnotation: owner(p)}
	if len(addresses) > 1 {
		var others []string
		for _, a := range addresses[1:] {
			others = append(others, a.String())
		}
		notes[mesh.AddressesAnnotation] = strings.Join(others, ",")
	}
	return &mesh.Object{
		Meta: mesh.Meta{Key: podKey(p.Namespace, p.Name), Version: "v1", Created: p.CreationTimestamp.UTC(), Annotations: notes},
		Spec: &networking.WorkloadEntry{Address: addresses[0].String(), Labels: podLabels(p), ServiceAccount: account(p)},
	}
}

// account is a pod's service account, "" of the control plane's own pods: they are no workloads of the mesh, and nobody is to be led
// to them as such.
func account(p *corev1.Pod) string {
	id, err := identity.New("cluster.local", p.Namespace, p.Spec.ServiceAccountName) // whatever the trust domain
	if err == nil && id.IsControlPlane() {
		return ""
	}
	return p.Spec.ServiceAccountName
}

func podKey(namespace, name string) mesh.Key {
	return mesh.Key{Group: mesh.GroupCore, Kind: mesh.KindPod, Namespace: namespace, Name: name}
}

// podLabels are the labels of a pod, with the one that says whether it takes mTLS as its containers have it.
func podLabels(p *corev1.Pod) map[string]string {
	out := make(map[string]string, len(p.Labels)+1)
	maps.Copy(out, p.Labels)
	out[mesh.LabelTLSMode] = mesh.TLSModeDisabled
	if hasSidecar(p) {
		out[mesh.LabelTLSMode] = mesh.TLSModeIstio
	}
	return out
}

// hasSidecar reports whether a pod takes mTLS: its label says so or says not, else it has a proxy.
func hasSidecar(p *corev1.Pod) bool {
	switch p.Labels[mesh.LabelTLSMode] {
	case mesh.TLSModeIstio:
		return true
	case mesh.TLSModeDisabled:
		return false
	}
	return p.Annotations[kube.AnnotationStatus] != "" || len(p.Spec.InitContainers)+len(p.Spec.Containers) > 0
}

// owner is what metrics call a pod: the Deployment behind its ReplicaSet, the CronJob behind its Job, else what controls it,
// else the pod itself.
func owner(p *corev1.Pod) string {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return p.Name
	}
	switch c.Kind {
	case "ReplicaSet":
		if hash := p.Labels[labelTemplateHash]; hash != "" {
			if name, ok := strings.CutSuffix(c.Name, "-"+hash); ok && name != "" {
				return name
			}
		}
	case "Job":
		return unscheduled(c.Name)
	}
	return c.Name
}

// unscheduled is the name without the scheduled time that the CronJob controller appends, in minutes since 1970, and older ones
// and Argo's CronWorkflows in seconds.
func unscheduled(name string) string {
	if i := strings.LastIndexByte(name, '-'); i > 0 && len(name)-i-1 >= 8 && len(name)-i-1 <= 10 && strings.Trim(name[i+1:], "0123456789") == "" {
		return name[:i]
	}
	return name
}

// labelRolloutHash is what an Argo Rollout adds in place of labelTemplateHash.
const labelRolloutHash = "rollouts-pod-template-hash"

// lastingOwner is owner where that outlives the pod, "" where it doesn't. A controller of another kind than those that keep pods
// running was made for one run if its name ends as generated names do.
func lastingOwner(p *corev1.Pod) string {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return ""
	}
	name := owner(p)
	switch c.Kind {
	case "Node": // a static pod
		return ""
	case "ReplicaSet":
		if hash := p.Labels[labelRolloutHash]; hash != "" {
			name = strings.TrimSuffix(name, "-"+hash)
		}
		return name
	case "StatefulSet", "DaemonSet", "ReplicationController":
		return name
	}
	name = unscheduled(name)
	if i := strings.LastIndexByte(name, '-'); i > 0 && len(name)-i-1 == generatedLength && strings.Trim(name[i+1:], generatedLetters) == "" {
		return ""
	}
	return name
}

// What the API server appends to generateName.
const (
	generatedLength  = 5
	generatedLetters = "bcdfghjklmnpqrstvwxz2456789"
)

// addressesIn are the addresses of a pod's object, none for nil.
func addressesIn(o *mesh.Object) []string {
	if o == nil {
		return nil
	}
	w, _ := o.Spec.(*networking.WorkloadEntry)
	out := []string{w.GetAddress()}
	if more := o.Annotations[mesh.AddressesAnnotation]; more != "" {
		out = append(out, strings.Split(more, ",")...)
	}
	return out
}
