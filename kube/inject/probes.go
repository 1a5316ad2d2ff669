package inject

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
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
// it. It returns what the sidecar has to call, by path. word gives that of a hook's path: whoever reaches the pod reaches the sidecar
// as well, and must not be able to stop the program by its hook, so such a path can't be guessed. It stands in the pod's
// specification, for kubelet and for those who may read that.
func rewriteProbes(pod *corev1.Pod, word func(path string) string) map[string]Prober {
	probers := map[string]Prober{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if c.Name == kube.ProxyContainer || c.Name == kube.CaptureContainer {
				continue
			}
			r := rewriter{c, probers, word}
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
	word      func(path string) string
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
	path += "/" + r.word(path)
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

// hookWords makes the words of hooks' paths: 128 bits, of chance or, with a HookKey, of that and what the hook is of, so that the
// same text gives the same words.
func (c *Config) hookWords(namespace, workload string) func(path string) string {
	if c.HookKey == "" {
		return chance
	}
	return func(path string) string {
		h := hmac.New(sha256.New, []byte(c.HookKey))
		h.Write([]byte(namespace + "/" + workload + path)) // a path begins with a slash, which no name has
		return base32.StdEncoding.EncodeToString(h.Sum(nil))[:hookWordLength]
	}
}

// hookWordLength is that of 128 bits in base32, as rand.Text has it.
const hookWordLength = 26

func chance(string) string { return rand.Text() }

// probersJSON is "" for no probers.
func probersJSON(probers map[string]Prober) (string, error) {
	if len(probers) == 0 {
		return "", nil
	}
	b, err := json.Marshal(probers)
	return string(b), err
}
