package adsserver

import "github.com/prometheus/client_golang/prometheus"

// metrics has labels of bounded values only: type URLs of adswire.Types, and reasons from the code.
type metrics struct {
	connected prometheus.Gauge
	pushes    *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	refused   *prometheus.CounterVec
}

func newMetrics() metrics {
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "signet_ads_connected_proxies", Help: "Streams of proxies that are open.",
		}),
		pushes:  vec("signet_ads_pushes_total", "Responses sent to proxies.", "type"),
		bytes:   vec("signet_ads_push_bytes_total", "Bytes of the resources in the responses sent to proxies.", "type"),
		nacks:   vec("signet_ads_nacks_total", "Responses that proxies refused.", "type"),
		refused: vec("signet_ads_refused_streams_total", "Streams that were not begun.", "reason"),
	}
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all() {
		c.Collect(ch)
	}
}

func (m metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.connected, m.pushes, m.bytes, m.nacks, m.refused}
}
