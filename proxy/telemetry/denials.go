package telemetry

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signet-mesh/signet/proxy"
)

// maxDenials bounds the sets of caller, target and policy that are remembered; of more the one that was silent longest is
// forgotten.
const maxDenials = 1024

// Denial is what one policy refused one caller.
type Denial struct {
	// From is the principal of the caller, else its address; To is NAMESPACE/WORKLOAD, By KIND/NAMESPACE/NAME[RULE].
	From string `json:"from"`
	To   string `json:"to"`
	By   string `json:"by"`
	// Method, Path and Status are those of the last one; a TCP connection has none.
	Method string    `json:"method,omitempty"`
	Path   string    `json:"path,omitempty"`
	Status int       `json:"status,omitempty"`
	Count  uint64    `json:"count"`
	Last   time.Time `json:"last"`
}

// denials remembers who was refused by whom, and counts what policies in dry run would have done. Only what is refused or
// in dry run takes its lock.
type denials struct {
	mu      sync.Mutex // guards what follows
	last    map[denialKey]*Denial
	shadows map[proxy.Shadow]uint64
}

type denialKey struct {
	from, by string
	to       *proxy.Party
}

func newDenials() *denials {
	return &denials{last: map[denialKey]*Denial{}, shadows: map[proxy.Shadow]uint64{}}
}

func (d *denials) add(rec *proxy.Record) {
	if rec.DeniedBy == "" && len(rec.Shadows) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range rec.Shadows {
		if _, known := d.shadows[s]; known || len(d.shadows) < maxSeries {
			d.shadows[s]++
		}
	}
	if rec.DeniedBy == "" {
		return
	}
	k := denialKey{caller(rec), rec.DeniedBy, rec.Destination}
	entry := d.last[k]
	if entry == nil {
		if len(d.last) >= maxDenials {
			d.forget()
		}
		k.from = strings.Clone(k.from)
		entry = &Denial{From: k.from, To: target(rec), By: rec.DeniedBy}
		d.last[k] = entry
	}
	entry.Count++
	entry.Last = rec.Start
	entry.Status = rec.Status
	entry.Method = clone(rec.Method, maxValue)
	entry.Path = clone(rec.Path, maxValue)
}

func clone(s string, limit int) string { return strings.Clone(s[:min(len(s), limit)]) }

func (d *denials) forget() {
	var oldest denialKey
	var at time.Time
	for k, e := range d.last {
		if at.IsZero() || e.Last.Before(at) {
			oldest, at = k, e.Last
		}
	}
	delete(d.last, oldest)
}

// caller is the principal that was proven, else the address.
func caller(rec *proxy.Record) string {
	if rec.Peer.Proven() {
		return rec.Peer.ID.String()
	}
	if rec.Side == proxy.SourceSide && rec.Source.Workload != "" {
		return rec.Source.Namespace + "/" + rec.Source.Workload
	}
	return rec.DownstreamRemote.Addr().String()
}

// target is the workload that refused, or on the caller's side the service that was wanted.
func target(rec *proxy.Record) string {
	if rec.Side == proxy.SourceSide || rec.Destination.Workload == "" {
		return rec.Service.Service
	}
	return rec.Destination.Namespace + "/" + rec.Destination.Workload
}

// list is what is remembered, the last first.
func (d *denials) list() []Denial {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Denial, 0, len(d.last))
	for _, e := range d.last {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b Denial) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.From, b.From), strings.Compare(a.By, b.By))
	})
	return out
}

// shadowCollector exports the outcomes of policies in dry run.
type shadowCollector struct {
	*denials
	desc *prometheus.Desc
}

func newShadowCollector(d *denials) shadowCollector {
	return shadowCollector{d, prometheus.NewDesc("signet_dry_run_total",
		"Decisions of policies in dry run and of limits in shadow mode, which had no effect.", []string{"policy", "decision"}, nil)}
}

// Describe implements prometheus.Collector.
func (c shadowCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c shadowCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, n := range c.shadows {
		decision := "allow"
		if s.Denied {
			decision = "deny"
		}
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), s.By, decision)
	}
}
