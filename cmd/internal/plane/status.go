package plane

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-mesh/signet/mesh"
)

// ControlSocket is the control plane's admin socket, in its state directory.
const ControlSocket = "control.sock"

// Status is what the control plane says of the mesh: GET /status of its admin socket, or in a cluster of its metrics port.
type Status struct {
	TrustDomain string `json:"trustDomain"`
	Objects     int    `json:"objects"`
	// Problems are what is refused, quarantined, unresolved or dropped.
	Problems []Problem     `json:"problems"`
	Proxies  []ProxyStatus `json:"proxies"`
}

// Problem is one finding about one object. State is refused (the last good version goes on, or the object is not there),
// quarantined (it denies what it selects), unresolved (it refers to what does not exist) or warning.
type Problem struct {
	State     string `json:"state"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Where     string `json:"where,omitempty"`
	Field     string `json:"field,omitempty"`
	Message   string `json:"message"`
}

// ProxyStatus is one sidecar as the control plane knows it.
type ProxyStatus struct {
	Workload  string    `json:"workload"`
	Connected bool      `json:"connected"`
	InSync    bool      `json:"inSync"`
	Since     time.Time `json:"since"`
	// Refusal is why it keeps an older configuration; "" if it doesn't.
	Refusal string `json:"refusal,omitempty"`
	// Pod is what the pod says of itself, of one that no replica of a cluster knows a sidecar of; "" elsewhere.
	Pod string `json:"pod,omitempty"`
}

// findings are the problems of the configuration in force.
type findings struct {
	mu       sync.Mutex // guards problems
	problems []Problem
}

func (f *findings) set(s *mesh.Snapshot, all []mesh.Problem) {
	quarantined := map[mesh.Key]bool{}
	var closed []*mesh.Object
	for _, o := range s.Objects() {
		if o.Quarantined() {
			quarantined[o.Key], closed = true, append(closed, o)
		}
	}
	told := map[mesh.Key]bool{}
	out := make([]Problem, 0, len(all))
	for i := range all {
		p := &all[i]
		state := "warning"
		switch {
		case p.Severity == mesh.Refused && quarantined[p.Key]:
			state, told[p.Key] = "quarantined", true
		case p.Severity == mesh.Refused:
			state = "refused"
		case p.Dangling:
			state = "unresolved"
		}
		where := ""
		if p.Position.File != "" {
			where = p.Position.String()
		}
		out = append(out, Problem{state, p.Key.Kind, p.Key.Namespace, p.Key.Name, where, p.Field, p.Message})
	}
	for _, o := range closed { // refused before the last start
		if !told[o.Key] {
			out = append(out, Problem{State: "quarantined", Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Message: o.Annotations[mesh.QuarantineAnnotation]})
		}
	}
	f.mu.Lock()
	f.problems = out
	f.mu.Unlock()
}

func (f *findings) list() []Problem {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problems
}

// Status is the document of GET /status.
func (f *Front) Status() Status {
	out := Status{TrustDomain: f.cfg.TrustDomain, Problems: f.cfg.State.findings.list(), Proxies: []ProxyStatus{}}
	if s := f.cfg.State.Snapshot(); s != nil {
		out.Objects = len(s.Objects())
	}
	for _, x := range f.ads.Status() {
		one := ProxyStatus{Workload: x.Node, Connected: x.Connected, InSync: x.InSync(), Since: x.Since}
		if x.LastNACK != nil {
			one.Refusal = x.LastNACK.Detail
		}
		out.Proxies = append(out.Proxies, one)
	}
	return out
}

// problemMetrics exports how many findings there are of each state, by kind.
type problemMetrics struct {
	*findings
	desc *prometheus.Desc
}

func newProblemMetrics(f *findings) problemMetrics {
	return problemMetrics{f, prometheus.NewDesc("signet_object_problems",
		"Findings about authored objects: refused, quarantined, unresolved or warning.", []string{"state", "kind"}, nil)}
}

// Describe implements prometheus.Collector.
func (m problemMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.desc }

// Collect implements prometheus.Collector.
func (m problemMetrics) Collect(ch chan<- prometheus.Metric) {
	counts := map[[2]string]float64{}
	for _, p := range m.list() {
		counts[[2]string{p.State, p.Kind}]++
	}
	for k, n := range counts {
		ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, n, k[0], k[1])
	}
}
