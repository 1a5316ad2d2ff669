package inject

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"google.golang.org/protobuf/proto"
	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/kube"
)

// Istio's annotations of a pod that mean something here.
const (
	annCPU, annCPULimit            = "sidecar.istio.io/proxyCPU", "sidecar.istio.io/proxyCPULimit"
	annMemory, annMemoryLimit      = "sidecar.istio.io/proxyMemory", "sidecar.istio.io/proxyMemoryLimit"
	annLogLevel                    = "sidecar.istio.io/logLevel"
	annImage                       = "sidecar.istio.io/proxyImage"
	annNative                      = "sidecar.istio.io/nativeSidecar"
	annVolume, annVolumeMount      = "sidecar.istio.io/userVolume", "sidecar.istio.io/userVolumeMount"
	annRewrite                     = "sidecar.istio.io/rewriteAppHTTPProbers"
	annInterception                = "sidecar.istio.io/interceptionMode"
	annStatusPort                  = "status.sidecar.istio.io/port"
	annReady                       = "readiness.status.sidecar.istio.io/"
	annConfig                      = "proxy.istio.io/config"
	annTemplates                   = "inject.istio.io/templates"
	annMerge                       = "prometheus.istio.io/merge-metrics"
	annScrape, annPort             = "prometheus.io/scrape", "prometheus.io/port"
	annPath, annScheme             = "prometheus.io/path", "prometheus.io/scheme"
	annDefaultContainer            = "kubectl.kubernetes.io/default-container"
	annVirtualInterfaces           = "istio.io/reroute-virtual-interfaces"
	onlyStatistics, onlyEnvoysLogs = "is dropped: it shapes Envoy's statistics", "is dropped: it sets Envoy's or the agent's log"
)

// annotationPrefixes are those under which every name must be known: what is not honoured is refused, never passed over.
var annotationPrefixes = []string{"sidecar.istio.io/", "proxy.istio.io/", trafficPrefix, "status.sidecar.istio.io/", annReady, "inject.istio.io/"}

// annotationsHonoured are known; what they say is judged where it is used.
var annotationsHonoured = []string{kube.LabelInject, kube.AnnotationStatus, annCPU, annCPULimit, annMemory, annMemoryLimit, annLogLevel, annImage,
	annNative, annVolume, annVolumeMount, annRewrite, annConfig,
	annReady + "initialDelaySeconds", annReady + "periodSeconds", annReady + "failureThreshold",
	trafficPrefix + "includeOutboundPorts", trafficPrefix + "excludeOutboundPorts", trafficPrefix + "includeOutboundIPRanges",
	trafficPrefix + "excludeOutboundIPRanges", trafficPrefix + "includeInboundPorts", trafficPrefix + "excludeInboundPorts"}

// annotationDropped says of an annotation that only adds why it has no effect, "" for any other.
func annotationDropped(name string) string {
	switch name {
	case "sidecar.istio.io/agentLogLevel", "sidecar.istio.io/componentLogLevel":
		return onlyEnvoysLogs
	case "sidecar.istio.io/extraStatTags", "sidecar.istio.io/statsCompression", "sidecar.istio.io/statsEvictionInterval",
		"sidecar.istio.io/statsFlushInterval", "sidecar.istio.io/statsHistogramBins", "sidecar.istio.io/statsHistogramBuckets",
		"sidecar.istio.io/statsInclusionPrefixes", "sidecar.istio.io/statsInclusionRegexps", "sidecar.istio.io/statsInclusionSuffixes":
		return onlyStatistics
	case "sidecar.istio.io/proxyImageType":
		return "is dropped: there is one image"
	case annReady + "applicationPorts":
		return "is dropped: the sidecar is ready when it has its certificate and configuration"
	}
	return ""
}

// annotationValues are annotations of which only some values mean what happens anyway.
var annotationValues = map[string][]string{
	annInterception: {"REDIRECT"},
	annStatusPort:   {"15020"},
	annTemplates:    {"sidecar"},
}

// wishes are what a pod's annotations and the Config say together.
type wishes struct {
	native, dns, rewrite, merge bool
	image, logLevel             string
	resources                   corev1.ResourceRequirements
	capture                     Capture
	ready                       [3]int32 // initial delay, period, failure threshold
	volumes                     []corev1.Volume
	mounts                      []corev1.VolumeMount
	proxy                       *meshconfig.ProxyConfig
	warnings                    []string
}

// wishes judges every annotation of the pod.
func (c *Config) wishes(pod *corev1.Pod) (*wishes, error) {
	a := pod.Annotations
	w := &wishes{native: c.Native == nil || *c.Native, rewrite: c.RewriteProbes, merge: c.MergePrometheus, image: c.image(),
		resources: *c.Resources.DeepCopy(), proxy: &meshconfig.ProxyConfig{}, ready: [3]int32{0, 15, 4}}
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		w.resources = corev1.ResourceRequirements{} // the pod as a whole has its own (KEP-2837), which bound each container's
	}
	w.logLevel, _ = logLevel(c.LogLevel)
	if c.read != nil {
		w.proxy = proto.Clone(c.read).(*meshconfig.ProxyConfig)
	}
	if err := w.names(a); err != nil {
		return nil, err
	}
	for _, step := range []func(map[string]string) error{w.switches, w.sidecar, w.sizes, w.readiness, w.userVolumes, w.proxyConfig} {
		if err := step(a); err != nil {
			return nil, err
		}
	}
	w.dns = c.DNS
	if v, ok := w.proxy.ProxyMetadata[metaDNS]; ok {
		w.dns = v == "true"
	}
	var err error
	w.capture, err = c.Capture.over(a)
	return w, err
}

// names refuses annotations that are not known or not honoured.
func (w *wishes) names(a map[string]string) error {
	for _, name := range sortedKeys(a) {
		if allowed, ok := annotationValues[name]; ok {
			if !slices.Contains(allowed, a[name]) {
				return fmt.Errorf("annotation %s is %q: only %s is honoured: take it out", name, a[name], strings.Join(allowed, ", "))
			}
			continue
		}
		known := name == annVirtualInterfaces || slices.ContainsFunc(annotationPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !known || slices.Contains(annotationsHonoured, name) {
			continue
		}
		why := annotationDropped(name)
		if why == "" {
			return fmt.Errorf("annotation %s is not honoured: take it out", name)
		}
		w.warnings = append(w.warnings, fmt.Sprintf("annotation %s %s", name, why))
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// switches reads the annotations that are true or false.
func (w *wishes) switches(a map[string]string) error {
	for name, into := range map[string]*bool{annNative: &w.native, annRewrite: &w.rewrite, annMerge: &w.merge} {
		if v, ok := a[name]; ok {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("annotation %s is %q: want true or false", name, v)
			}
			*into = b
		}
	}
	return nil
}

func (w *wishes) sidecar(a map[string]string) error {
	if v, ok := a[annImage]; ok {
		if v == "" || strings.ContainsAny(v, " \t\n") {
			return fmt.Errorf("annotation %s is %q: want an image", annImage, v)
		}
		w.image = v
	}
	if v, ok := a[annLogLevel]; ok {
		level, known := logLevel(v)
		if !known {
			return fmt.Errorf("annotation %s is %q: want debug, info, warning or error", annLogLevel, v)
		}
		w.logLevel = level
	}
	return nil
}

// sizes reads the sidecar's resources. As with Istio, one annotation replaces all that the settings say.
func (w *wishes) sizes(a map[string]string) error {
	given := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	found := false
	for _, s := range []struct {
		name string
		into corev1.ResourceList
		of   corev1.ResourceName
	}{{annCPU, given.Requests, corev1.ResourceCPU}, {annMemory, given.Requests, corev1.ResourceMemory},
		{annCPULimit, given.Limits, corev1.ResourceCPU}, {annMemoryLimit, given.Limits, corev1.ResourceMemory}} {
		v, ok := a[s.name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(v)
		if err != nil || q.Sign() < 0 {
			return fmt.Errorf("annotation %s is %q: want a quantity such as 100m or 128Mi", s.name, v)
		}
		s.into[s.of], found = q, true
	}
	if !found {
		return nil
	}
	for of, request := range given.Requests {
		if limit, ok := given.Limits[of]; ok && request.Cmp(limit) > 0 {
			return fmt.Errorf("annotations sidecar.istio.io/proxy*: the request of %s, %s, is above its limit, %s", of, request.String(), limit.String())
		}
	}
	w.resources = given
	return nil
}

func (w *wishes) readiness(a map[string]string) error {
	for i, name := range []string{annReady + "initialDelaySeconds", annReady + "periodSeconds", annReady + "failureThreshold"} {
		v, ok := a[name]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 0 || i > 0 && n == 0 {
			return fmt.Errorf("annotation %s is %q: want a positive number", name, v)
		}
		w.ready[i] = int32(n)
	}
	return nil
}

// userVolumes reads volumes and mounts for the sidecar: a JSON array, or a mapping from the name to the rest.
func (w *wishes) userVolumes(a map[string]string) error {
	if v, ok := a[annVolume]; ok {
		if err := readNamed(v, &w.volumes, func(i *corev1.Volume, n string) { i.Name = n }); err != nil {
			return fmt.Errorf("annotation %s: %w", annVolume, err)
		}
	}
	if v, ok := a[annVolumeMount]; ok {
		if err := readNamed(v, &w.mounts, func(i *corev1.VolumeMount, n string) { i.Name = n }); err != nil {
			return fmt.Errorf("annotation %s: %w", annVolumeMount, err)
		}
	}
	for _, m := range w.mounts {
		for _, own := range ownMounts() {
			if m.Name == own.Name || within(m.MountPath, own.MountPath) || within(own.MountPath, m.MountPath) {
				return fmt.Errorf("annotation %s: %q at %q is the sidecar's own", annVolumeMount, m.Name, m.MountPath)
			}
		}
	}
	return nil
}

// within reports whether a path is another one or below it.
func within(p, dir string) bool {
	return strings.HasPrefix(path.Clean(p)+"/", strings.TrimSuffix(path.Clean(dir), "/")+"/")
}

func readNamed[T any](text string, into *[]T, name func(*T, string)) error {
	if strings.HasPrefix(strings.TrimSpace(text), "[") {
		return yaml.UnmarshalStrict([]byte(text), into)
	}
	byName := map[string]json.RawMessage{}
	if err := yaml.UnmarshalStrict([]byte(text), &byName); err != nil {
		return err
	}
	names := make([]string, 0, len(byName))
	for n := range byName {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		var item T
		if err := yaml.UnmarshalStrict(byName[n], &item); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		name(&item, n)
		*into = append(*into, item)
	}
	return nil
}

func (w *wishes) proxyConfig(a map[string]string) error {
	v, ok := a[annConfig]
	if !ok {
		return nil
	}
	warnings, err := readProxyConfig([]byte(v), w.proxy)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", annConfig, err)
	}
	for _, warning := range warnings {
		w.warnings = append(w.warnings, fmt.Sprintf("annotation %s: %s", annConfig, warning))
	}
	return nil
}

// logLevel is Istio's word for a level as ours.
func logLevel(s string) (string, bool) {
	switch strings.ToLower(s) {
	case "":
		return "info", true
	case "trace", "debug":
		return "debug", true
	case "info":
		return "info", true
	case "warn", "warning":
		return "warn", true
	case "error", "critical", "fatal", "off", "none":
		return "error", true
	}
	return "", false
}
