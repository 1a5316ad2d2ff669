package node

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-mesh/signet/authz/rego"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/limit/lease"
)

// Policies is the part of the admin page that says how RegoPolicies, key sets and limits do.
type Policies struct {
	Rego   []RegoStatus   `json:"rego,omitempty"`
	Keys   []jwks.Status  `json:"keys,omitempty"`
	Store  *lease.Status  `json:"store,omitempty"`
	Limits []limit.Status `json:"limits,omitempty"`
}

// RegoStatus is how one RegoPolicy does.
type RegoStatus struct {
	Policy string `json:"policy"`
	rego.Status
}

func (p *parts) status() Policies {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out Policies
	for key, one := range p.in {
		switch v := one.value.(type) {
		case *rego.Policy:
			name, _, _ := strings.Cut(strings.TrimPrefix(key, "rego "), " ")
			out.Rego = append(out.Rego, RegoStatus{name, v.Status()})
		case *jwks.Remote:
			out.Keys = append(out.Keys, v.Status())
		case *lease.Leases:
			s := v.Status()
			out.Store = &s
		}
	}
	slices.SortFunc(out.Rego, func(a, b RegoStatus) int { return strings.Compare(a.Policy, b.Policy) })
	slices.SortFunc(out.Keys, func(a, b jwks.Status) int { return strings.Compare(a.Issuer+a.URL, b.Issuer+b.URL) })
	out.Limits = p.registry.Status()
	return out
}

// policyMetrics exports the same.
type policyMetrics struct {
	parts                                          *parts
	decisions, failures, ready, lowered, different *prometheus.Desc
	keys, store, limited                           *prometheus.Desc
}

func newPolicyMetrics(p *parts) policyMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return policyMetrics{
		parts:     p,
		decisions: desc("signet_rego_decisions_total", "Requests judged by a RegoPolicy; engine is native or topdown.", "policy", "engine"),
		failures:  desc("signet_rego_failures_total", "Denials for want of a decision; reason is undefined, timeout or error.", "policy", "reason"),
		ready:     desc("signet_rego_ready", "1 if the policy has modules to judge by, 0 while it denies everything for want of its bundle.", "policy"),
		lowered:   desc("signet_rego_lowered", "1 if the policy runs as native code.", "policy"),
		different: desc("signet_rego_canary_differences_total", "Decisions of native code that topdown did not share; after the first topdown judges alone.", "policy"),
		keys:      desc("signet_jwks_keys", "Keys known of an issuer; 0 refuses all its tokens.", "issuer"),
		store:     desc("signet_ratelimit_store_up", "1 if the store of global limits answers."),
		limited:   desc("signet_ratelimit_requests_total", "Requests that a limit counted; outcome is allowed, refused or shadowed.", "policy", "outcome"),
	}
}

// Describe implements prometheus.Collector.
func (m policyMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.decisions, m.failures, m.ready, m.lowered, m.different, m.keys, m.store, m.limited} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m policyMetrics) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		put(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, ok bool, labels ...string) {
		v := 0.0
		if ok {
			v = 1
		}
		put(d, prometheus.GaugeValue, v, labels...)
	}
	s := m.parts.status()
	for i := range s.Rego {
		r := &s.Rego[i]
		count(m.decisions, r.Natively, r.Policy, "native")
		count(m.decisions, r.Evaluations-r.Natively, r.Policy, "topdown")
		count(m.failures, r.Undefined, r.Policy, "undefined")
		count(m.failures, r.Timeouts, r.Policy, "timeout")
		count(m.failures, r.Errors-r.Timeouts, r.Policy, "error")
		count(m.different, r.CanaryDifferences, r.Policy)
		gauge(m.ready, r.Ready, r.Policy)
		gauge(m.lowered, r.Lowered, r.Policy)
	}
	seen := map[string]bool{}
	for i := range s.Keys {
		if k := &s.Keys[i]; !seen[k.Issuer] {
			seen[k.Issuer] = true
			put(m.keys, prometheus.GaugeValue, float64(len(k.KeyIDs)), k.Issuer)
		}
	}
	if s.Store != nil {
		gauge(m.store, s.Store.State == "up")
	}
	m.limits(s.Limits, count)
}

// limits adds up the rules of one name: a policy that changed may still be counted by a request in flight.
func (m policyMetrics) limits(all []limit.Status, count func(*prometheus.Desc, uint64, ...string)) {
	sums := map[string][3]uint64{}
	for i := range all {
		l := &all[i]
		n := sums[l.Rule.Ref.By]
		sums[l.Rule.Ref.By] = [3]uint64{n[0] + l.Allowed, n[1] + l.Refused, n[2] + l.Shadowed}
	}
	for by, n := range sums {
		count(m.limited, n[0], by, "allowed")
		count(m.limited, n[1], by, "refused")
		count(m.limited, n[2], by, "shadowed")
	}
}
