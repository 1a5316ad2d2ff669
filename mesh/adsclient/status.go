package adsclient

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Status is how the client stands.
type Status struct {
	// Connected: a stream is open, whether or not a generation came over it.
	Connected bool
	// Since is when Connected last changed.
	Since time.Time
	// Generation is the one the proxy runs on, "" before the first.
	Generation string
	// LastError is why the last stream ended, "" if none did or a generation was applied since.
	LastError string
	// LastNACK is the last refusal, "" if a generation was applied since.
	LastNACK string
	// Counters since the start: streams opened, generations applied, responses refused, resources received (removals
	// included) and their bytes.
	Streams, Generations, NACKs, Resources, Bytes uint64
}

// state guards the status.
type state struct {
	mu     sync.Mutex
	status Status
	// reported: LastError was reported since a stream was last open.
	reported bool
}

// Status is safe for concurrent use.
func (c *Client) Status() Status {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	return c.state.status
}

func (s *state) connected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Connected, s.status.Since = true, time.Now()
	s.status.Streams++
	s.reported = false
}

// disconnected reports whether the reason is news: another than the last, or the first since a stream was open.
func (s *state) disconnected(reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := !s.reported || s.status.LastError != reason
	s.reported = true
	if s.status.Connected {
		s.status.Connected, s.status.Since = false, time.Now()
	}
	s.status.LastError = reason
	return news
}

func (s *state) received(resources, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Resources += uint64(resources)
	s.status.Bytes += uint64(bytes)
}

func (s *state) applied(generation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Generation, s.status.LastError, s.status.LastNACK = generation, "", ""
	s.status.Generations++
}

func (s *state) refused(detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.LastNACK = detail
	s.status.NACKs++
}

// metric is one number of the status.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(Status) float64
}

func metrics() []metric {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return []metric{
		{desc("signet_ads_connected", "1 while a stream to the control plane is open."), prometheus.GaugeValue,
			func(s Status) float64 {
				if s.Connected {
					return 1
				}
				return 0
			}},
		{desc("signet_ads_streams_total", "Streams opened."), prometheus.CounterValue,
			func(s Status) float64 { return float64(s.Streams) }},
		{desc("signet_ads_generations_total", "Configurations applied."), prometheus.CounterValue,
			func(s Status) float64 { return float64(s.Generations) }},
		{desc("signet_ads_rejected_total", "Responses refused."), prometheus.CounterValue,
			func(s Status) float64 { return float64(s.NACKs) }},
		{desc("signet_ads_received_bytes_total", "Bytes of the responses received."), prometheus.CounterValue,
			func(s Status) float64 { return float64(s.Bytes) }},
	}
}

// Describe implements prometheus.Collector.
func (c *Client) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics() {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Client) Collect(ch chan<- prometheus.Metric) {
	s := c.Status()
	for _, m := range metrics() {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}
