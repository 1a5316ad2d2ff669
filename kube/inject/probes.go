package inject

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/proxy/capture"
)

// Prober is what the sidecar does in the place of kubelet, in the form of Istio's ISTIO_KUBE_APP_PROBERS: ports are numbers, and
// what the API server would fill in is filled in.
type Prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	GRPC           *corev1.GRPCAction      `json:"grpc,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// rewriteProbes leads kubelet's calls to the pod's programs through the sidecar: kubelet has no certificate, and STRICT would refuse
// it. It returns what the sidecar has to call, by path.
func rewriteProbes(pod *corev1.Pod) map[string]Prober {
	probers := map[string]Prober{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if c.Name == kube.ProxyContainer || c.Name == kube.CaptureContainer {
				continue
			}
			r := rewriter{c, probers}
			r.probe(c.LivenessProbe, "livez")
			r.probe(c.ReadinessProbe, "readyz")
			r.probe(c.StartupProbe, "startupz")
			if c.Lifecycle != nil {
				r.lifecycle(c.Lifecycle.PostStart, "poststartz")
				r.lifecycle(c.Lifecycle.PreStop, "prestopz")
			}
		}
	}
	return probers
}

// rewriter rewrites the probes of one container.
type rewriter struct {
	container *corev1.Container
	probers   map[string]Prober
}

func (r rewriter) probe(p *corev1.Probe, leaf string) {
	if p == nil {
		return
	}
	prober, ok := r.prober(p.HTTPGet, p.TCPSocket, p.GRPC)
	if !ok {
		return
	}
	if prober.TimeoutSeconds = p.TimeoutSeconds; prober.TimeoutSeconds == 0 {
		prober.TimeoutSeconds = 1
	}
	path := "/app-health/" + r.container.Name + "/" + leaf
	r.probers[path] = prober
	p.ProbeHandler = corev1.ProbeHandler{HTTPGet: sidecarGet(path)}
}

func (r rewriter) lifecycle(h *corev1.LifecycleHandler, leaf string) {
	if h == nil {
		return
	}
	prober, ok := r.prober(h.HTTPGet, h.TCPSocket, nil)
	if !ok {
		return
	}
	path := "/app-lifecycle/" + r.container.Name + "/" + leaf
	r.probers[path] = prober
	*h = corev1.LifecycleHandler{HTTPGet: sidecarGet(path)}
}

func sidecarGet(path string) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(capture.MetricsPort), Scheme: corev1.URISchemeHTTP}
}

// prober is a handler with its port as a number. It is false for what kubelet goes on doing by itself: exec, a host that is not the
// pod, a port that the container does not name, the sidecar's own ports.
func (r rewriter) prober(get *corev1.HTTPGetAction, socket *corev1.TCPSocketAction, grpc *corev1.GRPCAction) (Prober, bool) {
	switch {
	case get != nil && get.Host == "":
		port, ok := r.port(get.Port)
		to := get.DeepCopy()
		if to.Port = port; to.Path == "" {
			to.Path = "/"
		}
		if to.Scheme == "" {
			to.Scheme = corev1.URISchemeHTTP
		}
		return Prober{HTTPGet: to}, ok
	case socket != nil && socket.Host == "":
		port, ok := r.port(socket.Port)
		return Prober{TCPSocket: &corev1.TCPSocketAction{Port: port}}, ok
	case grpc != nil:
		to := grpc.DeepCopy()
		if to.Service == nil {
			to.Service = new(string)
		}
		return Prober{GRPC: to}, !ownPort(grpc.Port)
	}
	return Prober{}, false
}

func (r rewriter) port(p intstr.IntOrString) (intstr.IntOrString, bool) {
	number := p.IntVal
	if p.Type == intstr.String {
		i := slices.IndexFunc(r.container.Ports, func(c corev1.ContainerPort) bool { return c.Name == p.StrVal })
		if i < 0 {
			return p, false
		}
		number = r.container.Ports[i].ContainerPort
	}
	return intstr.FromInt32(number), !ownPort(number)
}

func ownPort(p int32) bool { return p == capture.MetricsPort || p == capture.ReadyPort }

// probersJSON is "" for no probers.
func probersJSON(probers map[string]Prober) (string, error) {
	if len(probers) == 0 {
		return "", nil
	}
	b, err := json.Marshal(probers)
	return string(b), err
}
