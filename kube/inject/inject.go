package inject

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/signet-mesh/signet/kube"
)

// Labels and ports of Istio's that an injected pod carries.
const (
	labelTLSMode           = "security.istio.io/tlsMode"
	labelCanonicalName     = "service.istio.io/canonical-name"
	labelCanonicalRevision = "service.istio.io/canonical-revision"
)

// Status is the JSON of annotation sidecar.istio.io/status: what was put into the pod.
type Status struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
}

// Inject gives the pod its sidecar. workload is the name of the Deployment, Job... that it is of, and "" where the pod's owner
// and name tell. An injected pod is left as it is. What is dropped because it only adds is told in warnings; an error names the
// annotation or field, and leaves the pod as it was.
func (c *Config) Inject(pod *corev1.Pod, workload string) (warnings []string, err error) {
	return c.inject(pod, workload, chance)
}

// inject is Inject with the words of the paths that lifecycle hooks get.
func (c *Config) inject(pod *corev1.Pod, workload string, word func(path string) string) (warnings []string, err error) {
	if Injected(pod) {
		return nil, nil
	}
	if err := conflicts(pod); err != nil {
		return nil, fmt.Errorf("injecting a sidecar: %w", err)
	}
	w, err := c.wishes(pod)
	if err != nil {
		return nil, fmt.Errorf("injecting a sidecar: %w", err)
	}
	out := pod.DeepCopy()
	if workload == "" {
		workload = workloadName(pod)
	}
	if err := c.build(out, w, workload, word); err != nil {
		return nil, fmt.Errorf("injecting a sidecar: %w", err)
	}
	*pod = *out
	return w.warnings, nil
}

// conflicts refuses names that are the sidecar's.
func conflicts(pod *corev1.Pod) error {
	for _, name := range []string{kube.ProxyContainer, kube.CaptureContainer} {
		if hasContainer(pod, name) {
			return fmt.Errorf("container %q is there: the name is the sidecar's, and settings for it are annotations: rename the container", name)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if slices.Contains([]string{kube.TokenVolume, kube.BundleVolume, kube.RunVolume, kube.PodInfoVolume}, v.Name) {
			return fmt.Errorf("volume %q is there: the name is the sidecar's: rename the volume", v.Name)
		}
	}
	return nil
}

func (c *Config) build(pod *corev1.Pod, w *wishes, workload string, word func(path string) string) error {
	pod.Labels, pod.Annotations = copyOf(pod.Labels), copyOf(pod.Annotations)
	var e environment
	var err error
	if w.rewrite {
		if e.probers, err = probersJSON(rewriteProbes(pod, word)); err != nil {
			return err
		}
	}
	if e.prometheus, err = w.mergePrometheus(pod); err != nil {
		return err
	}
	if e.proxy, err = proxyConfigJSON(w.proxy); err != nil {
		return err
	}
	first := ""
	if len(pod.Spec.Containers) > 0 {
		first = pod.Spec.Containers[0].Name
	}
	s := &pod.Spec
	status := Status{InitContainers: []string{kube.CaptureContainer}, Revision: c.Revision}
	init, proxy := c.captureContainer(w), c.proxyContainer(pod, w, e)
	if w.native {
		s.InitContainers = append([]corev1.Container{init, proxy}, s.InitContainers...)
		status.InitContainers = append(status.InitContainers, kube.ProxyContainer)
	} else {
		// The programs' init containers run without a sidecar, so what they call must not be captured yet.
		s.InitContainers = append(slices.Clip(s.InitContainers), init)
		s.Containers = append([]corev1.Container{proxy}, s.Containers...)
		status.Containers = []string{kube.ProxyContainer}
	}
	volumes := append(c.volumes(), w.volumes...)
	for _, v := range volumes {
		if slices.ContainsFunc(s.Volumes, func(o corev1.Volume) bool { return o.Name == v.Name }) {
			return fmt.Errorf("annotation %s: volume %q is there twice", annVolume, v.Name)
		}
		s.Volumes = append(s.Volumes, v)
		status.Volumes = append(status.Volumes, v.Name)
	}
	c.pullSecrets(s, &status)
	return c.mark(pod, first, workload, status)
}

func (c *Config) pullSecrets(s *corev1.PodSpec, status *Status) {
	for _, name := range c.ImagePullSecrets {
		r := corev1.LocalObjectReference{Name: name}
		if !slices.Contains(s.ImagePullSecrets, r) {
			s.ImagePullSecrets = append(s.ImagePullSecrets, r)
			status.ImagePullSecrets = append(status.ImagePullSecrets, name)
		}
	}
}

// mark writes Istio's labels and annotations of an injected pod.
func (c *Config) mark(pod *corev1.Pod, first, workload string, status Status) error {
	name, revision := canonical(pod.Labels, workload)
	for label, value := range map[string]string{labelTLSMode: "istio", labelCanonicalName: name, labelCanonicalRevision: revision} {
		if _, said := pod.Labels[label]; !said && value != "" {
			pod.Labels[label] = value
		}
	}
	if _, said := pod.Annotations[annDefaultContainer]; !said && first != "" {
		pod.Annotations[annDefaultContainer] = first // kubectl logs and exec mean the program
	}
	pod.Annotations[kube.LabelRevision] = c.Revision // an annotation, as Istio writes it: the label would select
	b, err := json.Marshal(status)
	pod.Annotations[kube.AnnotationStatus] = string(b)
	return err
}

// canonical is the service that a pod belongs to and its version, as Istio names them.
func canonical(labels map[string]string, workload string) (name, revision string) {
	first := func(or string, keys ...string) string {
		for _, k := range keys {
			if labels[k] != "" {
				return labels[k]
			}
		}
		return or
	}
	return first(labelValue(workload), labelCanonicalName, "app.kubernetes.io/name", "app"),
		first("latest", labelCanonicalRevision, "app.kubernetes.io/version", "version")
}

// labelValue makes a name fit into a label.
func labelValue(s string) string {
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.TrimRight(s, "-._")
}

// cronJobTime ends the name of a CronJob's Job: minutes since 1970.
var cronJobTime = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadName is what a pod is of: its controller, or itself.
func workloadName(pod *corev1.Pod) string {
	for _, o := range pod.OwnerReferences {
		if o.Controller == nil || !*o.Controller {
			continue
		}
		if hash := pod.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
			return strings.TrimSuffix(o.Name, "-"+hash)
		}
		return WorkloadName(o.Kind, o.Name)
	}
	if pod.Name != "" {
		return pod.Name
	}
	return strings.TrimRight(pod.GenerateName, "-")
}

// WorkloadName is the name that pods of an object go by: its own, and for a Job that a CronJob made the CronJob's.
func WorkloadName(kind, name string) string {
	if m := cronJobTime.FindStringSubmatch(name); kind == "Job" && m != nil {
		return m[1]
	}
	return name
}

// literal keeps a value as it is: kubelet replaces $(NAME) in the values of environment variables, and $$ by $.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }

func runLimit() resource.Quantity { return resource.MustParse(runBytes) }
