package inject

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/signet-mesh/signet/proxy/capture"
)

// Scrape is where the program's own metrics are, for the sidecar to merge.
type Scrape struct {
	Port   string `json:"port"`
	Path   string `json:"path"`
	Scheme string `json:"scheme"`
}

// mergePrometheus points the prometheus.io annotations to the sidecar, which serves the program's metrics with its own. It returns
// where those are as JSON, "" for nowhere. A pod that says prometheus.io/scrape "false" is left alone.
func (w *wishes) mergePrometheus(pod *corev1.Pod) (string, error) {
	a := pod.Annotations
	own := strconv.Itoa(capture.MetricsPort)
	if !w.merge || strings.EqualFold(a[annScrape], "false") || a[annPort] == own {
		return "", nil
	}
	from := Scrape{Port: a[annPort], Path: a[annPath], Scheme: a[annScheme]}
	asked := strings.EqualFold(a[annScrape], "true")
	if from.Path == "" {
		from.Path = "/metrics"
	}
	if from.Scheme == "" {
		from.Scheme = "http"
	}
	if from.Port == "" {
		from.Port = onlyPort(pod)
	}
	a[annScrape], a[annPort], a[annPath] = "true", own, "/stats/prometheus"
	delete(a, annScheme)
	if !asked {
		return "", nil
	}
	if n, err := strconv.ParseUint(from.Port, 10, 16); err != nil || n == 0 {
		w.warnings = append(w.warnings, fmt.Sprintf("annotation %s is %q: the program's metrics are not merged: name their port", annPort, from.Port))
		return "", nil
	}
	if from.Scheme != "http" && from.Scheme != "https" {
		return "", fmt.Errorf("annotation %s is %q: want http or https", annScheme, from.Scheme)
	}
	if !strings.HasPrefix(from.Path, "/") {
		from.Path = "/" + from.Path
	}
	b, err := json.Marshal(from)
	return string(b), err
}

// onlyPort is the pod's one TCP port, "" where it has none or several.
func onlyPort(pod *corev1.Pod) string {
	port := ""
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
				continue
			}
			if port != "" {
				return ""
			}
			port = strconv.Itoa(int(p.ContainerPort))
		}
	}
	return port
}
