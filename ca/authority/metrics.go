package authority

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"

	"github.com/prometheus/client_golang/prometheus"
)

// tally is what happened so far. Shared.mu guards it.
type tally struct {
	failures int
	refusals map[string]int // by reason
	refused  string         // reason of the CA that is refused now, "" for none
}

func (t *tally) refuse(reason string) {
	if t.refusals == nil {
		t.refusals = map[string]int{}
	}
	t.refusals[reason]++
	t.refused = reason
}

func (s *Shared) count(change func(*tally)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.tally)
}

// Describe is part of prometheus.Collector. What is collected depends on the slots, so nothing is described.
func (s *Shared) Describe(chan<- *prometheus.Desc) {}

// Collect is part of prometheus.Collector.
func (s *Shared) Collect(ch chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, value float64, name, help string, labels prometheus.Labels) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, labels), kind, value)
	}
	use := s.inUse.Load()
	seen := map[string]bool{}
	for _, r := range use.slots {
		for _, c := range r.certs {
			hash := sha256.Sum256(c.Raw)
			name := hex.EncodeToString(hash[:8])
			if seen[r.word+name] {
				continue
			}
			seen[r.word+name] = true
			send(prometheus.GaugeValue, float64(c.NotAfter.Unix()), "signet_ca_root_not_after_seconds",
				"Unix time at which a trusted root ends, by its slot.", prometheus.Labels{"slot": r.word, "origin": r.origin, "sha256": name})
		}
	}
	send(prometheus.GaugeValue, float64(use.slot.by.cert.NotAfter.Unix()), "signet_ca_signing_not_after_seconds",
		"Unix time at which this replica's signing certificate ends.", nil)
	s.mu.Lock()
	refusals, failures, refused := maps.Clone(s.tally.refusals), s.tally.failures, s.tally.refused
	s.mu.Unlock()
	for reason, n := range refusals {
		send(prometheus.CounterValue, float64(n), "signet_ca_plugged_refusals_total", "Plugged-in CAs that were refused while another went on, by reason.",
			prometheus.Labels{"reason": reason})
	}
	now := 0.0
	if refused != "" {
		now = 1
	}
	send(prometheus.GaugeValue, now, "signet_ca_plugged_refused", "Whether the plugged-in CA as it is now is refused.", nil)
	send(prometheus.CounterValue, float64(failures), "signet_ca_state_failures_total", "Times that the CA's state could not be read or written.", nil)
}
