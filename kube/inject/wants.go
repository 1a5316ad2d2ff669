package inject

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/signet-mesh/signet/kube"
)

// Decision says what becomes of a pod.
type Decision uint8

// The decisions.
const (
	Skip   Decision = iota // left as it is
	Wanted                 // gets a sidecar
	Done                   // has one
)

// Verdict is a Decision with its reason.
type Verdict struct {
	Decision Decision
	// Reason is a word for metrics and Events: Injected names none.
	Reason Reason
	// Message says why a pod that asked for a sidecar doesn't get one; "" where nobody need be told.
	Message string
}

// Reason is why a pod is left as it is.
type Reason string

// The reasons.
const (
	ReasonNone            Reason = ""
	ReasonInjected        Reason = "already_injected"
	ReasonSystemNamespace Reason = "system_namespace"
	ReasonNotSelected     Reason = "not_selected"
	ReasonOptedOut        Reason = "opted_out"
	ReasonHostNetwork     Reason = "host_network"
	ReasonWindows         Reason = "windows"
	ReasonMirrorPod       Reason = "mirror_pod"
	ReasonProxyUser       Reason = "proxy_user"
)

// systemNamespaces never get sidecars: what runs there must start before the mesh.
func (c *Config) systemNamespaces() []string {
	return append([]string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage", c.SystemNamespace}, c.IgnoredNamespaces...)
}

// System reports whether a namespace is left out, whatever its labels say.
func (c *Config) System(namespace string) bool {
	return slices.Contains(c.systemNamespaces(), namespace)
}

// Owns reports whether objects in a namespace are this revision's to validate and to write status of. Alone, that is every
// namespace that does not name another revision; beside an Istio only those that name this one, and the system namespace.
func (c *Config) Owns(namespace string, labels map[string]string) bool {
	rev := labels[kube.LabelRevision]
	switch {
	case namespace == c.SystemNamespace:
		return true
	case labels[kube.LabelInjection] == "enabled":
		return c.DefaultRevision
	case rev != "":
		return c.isRevision(rev)
	}
	return c.DefaultRevision
}

// isRevision reports whether a value of istio.io/rev means this revision.
func (c *Config) isRevision(rev string) bool {
	return rev == c.Revision || c.DefaultRevision && rev == "default"
}

// selected is Istio's rule, which the webhook's selectors say too: the namespace's istio-injection counts first, then its
// istio.io/rev, and where it says neither the pod's own labels.
func (c *Config) selected(pod *corev1.Pod, namespaceLabels map[string]string) bool {
	if v, ok := namespaceLabels[kube.LabelInjection]; ok {
		return v == "enabled" && c.DefaultRevision
	}
	if v, ok := namespaceLabels[kube.LabelRevision]; ok {
		return c.isRevision(v)
	}
	if v, ok := pod.Labels[kube.LabelRevision]; ok {
		return c.isRevision(v)
	}
	return c.DefaultRevision && pod.Labels[kube.LabelInject] == "true"
}

// Wants judges a pod that is created in a namespace with these labels.
func (c *Config) Wants(namespace string, namespaceLabels map[string]string, pod *corev1.Pod) Verdict {
	if c.System(namespace) {
		return Verdict{Reason: ReasonSystemNamespace}
	}
	if !c.selected(pod, namespaceLabels) {
		return Verdict{Reason: ReasonNotSelected}
	}
	return c.WantsByHand(pod)
}

// WantsByHand judges a pod that somebody gives to `signet inject`: its namespace's labels don't count.
func (c *Config) WantsByHand(pod *corev1.Pod) Verdict {
	switch {
	case Injected(pod):
		return Verdict{Decision: Done, Reason: ReasonInjected}
	case optedOut(pod):
		return Verdict{Reason: ReasonOptedOut}
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return Verdict{Reason: ReasonMirrorPod} // kubelet's copy of a static pod: changing it would not change the pod
	case pod.Spec.HostNetwork:
		return Verdict{Reason: ReasonHostNetwork, Message: "no sidecar is injected: spec.hostNetwork is true, and capture would take the node's own traffic"}
	case windows(pod):
		return Verdict{Reason: ReasonWindows, Message: "no sidecar is injected: the pod is for Windows nodes"}
	}
	if name := runsAsProxy(pod); name != "" {
		return Verdict{Reason: ReasonProxyUser, Message: fmt.Sprintf(
			"no sidecar is injected: container %q runs as user %d, whose traffic is the sidecar's own and is not captured: run it as another user", name, uid)}
	}
	return Verdict{Decision: Wanted}
}

// Injected reports whether a pod has a sidecar, of whatever revision.
func Injected(pod *corev1.Pod) bool {
	return pod.Annotations[kube.AnnotationStatus] != "" && hasContainer(pod, kube.ProxyContainer)
}

func hasContainer(pod *corev1.Pod, name string) bool {
	named := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Spec.Containers, named) || slices.ContainsFunc(pod.Spec.InitContainers, named)
}

// optedOut reports what the pod itself says: the label before the annotation, YAML 1.1's words of truth, and anything else but
// nothing is a no.
func optedOut(pod *corev1.Pod) bool {
	v, ok := pod.Labels[kube.LabelInject]
	if !ok {
		v = pod.Annotations[kube.LabelInject]
	}
	return !slices.Contains([]string{"", "y", "yes", "true", "on"}, strings.ToLower(v))
}

func windows(pod *corev1.Pod) bool {
	return pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows || pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows)
}

// runsAsProxy names the first container whose user is the sidecar's, "" if there is none.
func runsAsProxy(pod *corev1.Pod) string {
	var whole *int64
	if s := pod.Spec.SecurityContext; s != nil {
		whole = s.RunAsUser
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			user := whole
			if s := list[i].SecurityContext; s != nil && s.RunAsUser != nil {
				user = s.RunAsUser
			}
			if user != nil && *user == uid {
				return list[i].Name
			}
		}
	}
	return ""
}
