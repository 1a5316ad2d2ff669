package tokens

import "github.com/prometheus/client_golang/prometheus"

// stats are this package's metrics.
type stats struct {
	accepted, reviews, pods prometheus.Counter
	refused                 *prometheus.CounterVec
}

func newStats() *stats {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "signet_ca_" + name, Help: help})
	}
	return &stats{
		accepted: counter("tokens_accepted_total", "Service-account tokens that were good."),
		reviews:  counter("token_reviews_total", "TokenReviews asked of the API server."),
		pods:     counter("token_pods_asked_total", "Pods that the API server was asked for because no informer knew them."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_ca_tokens_refused_total", Help: "Service-account tokens that were refused, by reason.",
		}, []string{"reason"}),
	}
}

func (s *stats) all() []prometheus.Collector {
	return []prometheus.Collector{s.accepted, s.reviews, s.pods, s.refused}
}

// Describe is part of prometheus.Collector.
func (j *Judge) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range j.stats.all() {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector.
func (j *Judge) Collect(ch chan<- prometheus.Metric) {
	for _, c := range j.stats.all() {
		c.Collect(ch)
	}
}
