// Package telemetry says what happened on the data path: Prometheus metrics under Istio's names and labels, and the access
// log in Istio's formats. A Recorder never blocks the corridor that feeds it.
package telemetry

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
)

// lastWords is how long Run waits, once its context ended, for a writer that may be blocked.
const lastWords = 2 * time.Second

// AccessLog is the form in which finished exchanges are logged.
type AccessLog uint32

// The forms. The zero value logs nothing.
const (
	LogOff  AccessLog = iota
	LogText           // Istio's default text format (accessLogEncoding TEXT), each line after the workload's NAMESPACE.NAME
	LogJSON           // Istio's default JSON keys (accessLogEncoding JSON), with the member "workload"
)

// Config is what a Recorder is made of.
type Config struct {
	// Workload is NAMESPACE.NAME of the workload that the sidecar serves; it begins every access log line.
	Workload string
	// Writer takes the access log; nil discards. It may block without harm to the data path.
	Writer io.Writer
	// Log takes refused connections and dropped log lines; nil discards.
	Log *slog.Logger
	// Source gives the certificate whose expiry is exported; nil exports none.
	Source certs.Source
	// Registry takes the metrics; nil makes one.
	Registry *prometheus.Registry
	// Version is the label of signet_build_info.
	Version string
	// AccessLog is the form to start with.
	AccessLog AccessLog
}

// Recorder implements proxy.Recorder. Safe for concurrent use.
type Recorder struct {
	log      *slog.Logger
	registry *prometheus.Registry
	book     *book
	lines    *lines
	refusals *refusals
	denials  *denials
	form     atomic.Uint32 // AccessLog
}

var _ proxy.Recorder = (*Recorder)(nil)

// New builds a recorder. It is pure: nothing is written before Run. It panics if Registry already holds such metrics.
func New(c Config) *Recorder {
	if c.Writer == nil {
		c.Writer = io.Discard
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	r := &Recorder{log: c.Log, registry: c.Registry, book: newBook(maxSeries), refusals: newRefusals(c.Log), denials: newDenials()}
	r.lines = newLines(c.Workload, c.Writer, c.Log)
	r.form.Store(uint32(c.AccessLog))
	register(c.Registry, r, c)
	return r
}

// Run writes the access log and what Refused reported until ctx ends, then what is left. It returns nil, after 2 s at the
// latest even if the writer is blocked.
func (r *Recorder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { r.lines.run(ctx) })
	wg.Go(func() { r.refusals.run(ctx) })
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(lastWords):
	}
	return nil
}

// Handler serves the metrics: /stats/prometheus.
func (r *Recorder) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelWarn)})
}

// SetAccessLog switches the access log's form, at once.
func (r *Recorder) SetAccessLog(a AccessLog) { r.form.Store(uint32(a)) }

// Retain drops the series of parties and services that are in neither list: to be called after a change of configuration,
// with all that the new one may record. The unknown party and the services PassthroughCluster, BlackHoleCluster and
// unknown are always kept. Parties and services are compared by value, so that a series outlives the pointers.
func (r *Recorder) Retain(parties []*proxy.Party, services []*proxy.Destination) {
	r.book.retain(parties, services)
}

// Record implements proxy.Recorder. It neither allocates nor takes a lock once it knows the pair of parties and the
// outcome, save the access log's buffer.
func (r *Recorder) Record(rec *proxy.Record) {
	s := r.book.find(rec, rec.Status, rec.Flag)
	r.denials.add(rec)
	if rec.TCP {
		s.closed(rec)
	} else {
		s.request(rec)
	}
	if form := AccessLog(r.form.Load()); form != LogOff {
		r.lines.add(form, rec)
	}
}

// Denials are who was refused by which policy, the last first; at most 1,024.
func (r *Recorder) Denials() []Denial { return r.denials.list() }

// Registry is where the metrics stand, for what else of this sidecar is to be exported.
func (r *Recorder) Registry() *prometheus.Registry { return r.registry }

// Opened implements proxy.Recorder.
func (r *Recorder) Opened(rec *proxy.Record) {
	r.book.find(rec, 0, "-").opened.Add(1)
}
