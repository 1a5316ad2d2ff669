package telemetry

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
)

// unknown is what Istio writes for an absent label value.
const unknown = "unknown"

// deniedBy is empty, which to Prometheus is absent, on whatever nobody refused.
const deniedBy = "denied_by"

// labelNames are the labels of Istio's standard metrics and denied_by, which says what refused an exchange, sorted. TCP metrics lack those of httpOnly.
var labelNames = [...]string{
	"connection_security_policy", deniedBy,
	"destination_app", "destination_canonical_revision", "destination_canonical_service", "destination_cluster",
	"destination_principal", "destination_service", "destination_service_name", "destination_service_namespace",
	"destination_version", "destination_workload", "destination_workload_namespace",
	"grpc_response_status", "reporter", "request_protocol", "response_code", "response_flags",
	"source_app", "source_canonical_revision", "source_canonical_service", "source_cluster", "source_principal",
	"source_version", "source_workload", "source_workload_namespace",
}

func httpOnly(name string) bool { return name == "grpc_response_status" || name == "response_code" }

// labelValues are the values of labelNames in their order.
func (k *seriesKey) labelValues() [len(labelNames)]string {
	s, d := &k.source, &k.destination
	reporter, protocol := "source", "http"
	if k.side == proxy.DestinationSide {
		reporter = "destination"
	}
	if k.tcp {
		protocol = "tcp"
	}
	security := unknown
	switch k.security {
	case proxy.SecurityNone:
		security = "none"
	case proxy.SecurityMTLS:
		security = "mutual_tls"
	}
	v := [len(labelNames)]string{
		security, k.deniedBy,
		d.App, d.CanonicalRevision, d.CanonicalService, "",
		d.Principal, k.service.Service, k.service.ServiceName, k.service.ServiceNamespace,
		d.Version, d.Workload, d.Namespace,
		"", reporter, protocol, strconv.Itoa(k.status), k.flag,
		s.App, s.CanonicalRevision, s.CanonicalService, "", s.Principal,
		s.Version, s.Workload, s.Namespace,
	}
	for i := range v {
		if v[i] == "" && labelNames[i] != "grpc_response_status" && labelNames[i] != deniedBy {
			v[i] = unknown
		}
	}
	return v
}

// labels are the series' labels as the exposition wants them; all its metrics share them.
func (k *seriesKey) labels() []*dto.LabelPair {
	values := k.labelValues()
	out := make([]*dto.LabelPair, 0, len(labelNames))
	for i := range labelNames {
		if (!k.tcp || !httpOnly(labelNames[i])) && (labelNames[i] != deniedBy || values[i] != "") {
			out = append(out, &dto.LabelPair{Name: &labelNames[i], Value: &values[i]})
		}
	}
	return out
}

// collector turns the book into metrics at each scrape.
type collector struct {
	book                                *book
	requests, duration, request, answer *prometheus.Desc
	sent, received, opened, ended       *prometheus.Desc
}

func newCollector(b *book) *collector {
	var tcp []string
	for _, n := range labelNames {
		if !httpOnly(n) {
			tcp = append(tcp, n)
		}
	}
	http := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, labelNames[:], nil) }
	stream := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, tcp, nil) }
	return &collector{
		book:     b,
		requests: http("istio_requests_total", "Requests that ended."),
		duration: http("istio_request_duration_milliseconds", "Time from a request's first byte to its end, in milliseconds."),
		request:  http("istio_request_bytes", "Bytes of request bodies."),
		answer:   http("istio_response_bytes", "Bytes of response bodies."),
		sent:     stream("istio_tcp_sent_bytes_total", "Bytes sent to callers on TCP connections that ended."),
		received: stream("istio_tcp_received_bytes_total", "Bytes received from callers on TCP connections that ended."),
		opened:   stream("istio_tcp_connections_opened_total", "TCP connections opened."),
		ended:    stream("istio_tcp_connections_closed_total", "TCP connections closed."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.duration, c.request, c.answer, c.sent, c.received, c.opened, c.ended} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.book.all() {
		labels := s.key.labels()
		if s.key.tcp {
			ch <- counter(c.sent, labels, s.sent.Load())
			ch <- counter(c.received, labels, s.received.Load())
			ch <- counter(c.opened, labels, s.opened.Load())
			ch <- counter(c.ended, labels, s.ended.Load())
			continue
		}
		ch <- counter(c.requests, labels, s.requests.Load())
		ch <- s.duration.metric(c.duration, labels, 1000)
		ch <- s.requestSize.metric(c.request, labels, 1)
		ch <- s.answerSize.metric(c.answer, labels, 1)
	}
}

// sample is one metric as it was at a scrape.
type sample struct {
	desc  *prometheus.Desc
	value dto.Metric
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label, out.Counter, out.Histogram = s.value.Label, s.value.Counter, s.value.Histogram
	return nil
}

func counter(d *prometheus.Desc, labels []*dto.LabelPair, n uint64) *sample {
	v := float64(n)
	return &sample{d, dto.Metric{Label: labels, Counter: &dto.Counter{Value: &v}}}
}

// metric reads the histogram; its sum is divided by unit.
func (h *histogram) metric(d *prometheus.Desc, labels []*dto.LabelPair, unit float64) *sample {
	var n uint64
	out := &dto.Histogram{Bucket: make([]*dto.Bucket, 0, len(bounds))}
	for i := range h.buckets {
		n += h.buckets[i].Load()
		if i < len(bounds) {
			count := n
			out.Bucket = append(out.Bucket, &dto.Bucket{CumulativeCount: &count, UpperBound: &bounds[i]})
		}
	}
	sum := float64(h.sum.Load()) / unit
	out.SampleCount, out.SampleSum = &n, &sum
	return &sample{d, dto.Metric{Label: labels, Histogram: out}}
}

// expiry exports the seconds that the workload's certificate has left; nothing before the first one.
type expiry struct {
	src  certs.Source
	desc *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (e expiry) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc }

// Collect implements prometheus.Collector.
func (e expiry) Collect(ch chan<- prometheus.Metric) {
	if svid := e.src.Current().SVID; svid != nil {
		ch <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, time.Until(svid.Leaf().NotAfter).Seconds(), "default")
	}
}

// register enters everything into the registry.
func register(reg *prometheus.Registry, r *Recorder, c Config) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "signet_build_info", Help: "What is running; always 1.",
		ConstLabels: prometheus.Labels{"version": c.Version, "goversion": runtime.Version()}})
	build.Set(1)
	count := func(name, help string, read func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(read()) })
	}
	reg.MustRegister(build, newCollector(r.book), r.refusals.total, newShadowCollector(r.denials),
		count("signet_access_log_dropped_total", "Access log lines dropped because the writer did not keep up.", r.lines.dropped.Load),
		count("signet_series_overflow_total", "Label sets that were counted under unknown parties because there were too many.", r.book.overflow.Load),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if c.Source != nil {
		reg.MustRegister(expiry{c.Source, prometheus.NewDesc("istio_agent_cert_expiry_seconds",
			"Seconds until the workload's certificate expires.", []string{"resource_name"}, nil)})
	}
}
