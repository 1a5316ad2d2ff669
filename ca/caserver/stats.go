package caserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-mesh/signet/ca"
)

// stats are the CA's metrics under Istio's names (security/pkg/server/ca/monitoring.go there).
type stats struct {
	requests, unauthenticated, badCSR, issued prometheus.Counter
	signErrors                                *prometheus.CounterVec
	rootExpiry, rootExpirySeconds             prometheus.GaugeFunc
	chainExpiry, chainExpirySeconds           prometheus.GaugeFunc
}

func newStats(authority *ca.CA, now func() time.Time) *stats {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "citadel_server_" + name, Help: help})
	}
	gauge := func(name, help string, value func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "citadel_server_" + name, Help: help}, value)
	}
	rootEnd := func() time.Time {
		var end time.Time
		for _, r := range authority.Key().Roots() {
			if end.IsZero() || r.NotAfter.Before(end) {
				end = r.NotAfter
			}
		}
		return end
	}
	chainEnd := func() time.Time { return authority.Key().Chain()[0].NotAfter }
	stamp := func(end func() time.Time) func() float64 {
		return func() float64 { return float64(end().Unix()) }
	}
	left := func(end func() time.Time) func() float64 {
		return func() float64 { return end().Sub(now()).Seconds() }
	}
	return &stats{
		requests:        counter("csr_count", "Certificate requests received."),
		unauthenticated: counter("authentication_failure_count", "Certificate requests whose caller could not be authenticated."),
		badCSR:          counter("csr_parsing_err_count", "Certificate requests whose CSR was refused."),
		issued:          counter("success_cert_issuance_count", "Certificates issued."),
		signErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "citadel_server_csr_sign_err_count", Help: "Certificate requests that failed after authentication, by kind.",
		}, []string{"error"}),
		rootExpiry:         gauge("root_cert_expiry_timestamp", "Unix time at which the first of the roots ends.", stamp(rootEnd)),
		rootExpirySeconds:  gauge("root_cert_expiry_seconds", "Seconds until the first of the roots ends.", left(rootEnd)),
		chainExpiry:        gauge("cert_chain_expiry_timestamp", "Unix time at which the signing certificate ends.", stamp(chainEnd)),
		chainExpirySeconds: gauge("cert_chain_expiry_seconds", "Seconds until the signing certificate ends.", left(chainEnd)),
	}
}

func (s *stats) all() []prometheus.Collector {
	return []prometheus.Collector{
		s.requests, s.unauthenticated, s.badCSR, s.issued, s.signErrors,
		s.rootExpiry, s.rootExpirySeconds, s.chainExpiry, s.chainExpirySeconds,
	}
}

// Describe is part of prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.stats.all() {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.stats.all() {
		c.Collect(ch)
	}
}
