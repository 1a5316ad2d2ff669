package node

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

const (
	maxScrape     = 32 << 20         // of a program's metrics, in bytes, uncompressed
	scrapeTime    = 10 * time.Second // Prometheus' default scrape_timeout
	openMetrics   = "application/openmetrics-text"
	scrapeTimeout = "X-Prometheus-Scrape-Timeout-Seconds"
)

// merger serves the sidecar's metrics with the program's behind them, as Istio does: both in the form that the program answers
// in. A program that does not answer costs its own part only.
type merger struct {
	own    prometheus.Gatherer
	app    *Exporter
	prober *prober
	log    *slog.Logger
	// failing says that the last scrape of the program failed, so that one failure in a row is logged.
	failing atomic.Bool
	// busy is held by the one scrape of the program whose answer is in memory, until that is written.
	busy chan struct{}
	// turns has one scrape of each address wait for busy, so that nobody who asks much keeps others from it.
	turns turns
}

func newMerger(own prometheus.Gatherer, app *Exporter, p *prober, log *slog.Logger) *merger {
	return &merger{own: own, app: app, prober: p, log: log, busy: make(chan struct{}, 1), turns: turns{queues: map[string]*queue{}}}
}

func (m *merger) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), scrapeLimit(req.Header))
	defer cancel()
	unhurried(rw)
	release, err := m.hold(ctx, req.RemoteAddr)
	var theirs []byte
	var kind string
	if err == nil {
		defer release()
		theirs, kind, err = m.scrape(ctx, req.Header)
	}
	if failed := err != nil; m.failing.Swap(failed) != failed {
		if failed {
			m.log.Warn("the program's metrics are missing from those that are served", "port", m.app.Port, "path", m.app.Path, "error", err)
		} else {
			m.log.Info("the program's metrics are served again")
		}
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	if mediaType(kind) == openMetrics {
		format = expfmt.NewFormat(expfmt.TypeOpenMetrics)
	} else {
		kind = string(format)
	}
	families, err := m.own.Gather()
	if err != nil && len(families) == 0 {
		http.Error(rw, "gathering metrics: "+err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", kind)
	out := bufio.NewWriterSize(&impatient{rw, http.NewResponseController(rw), answerTime}, 64<<10)
	defer out.Flush()
	var w io.Writer = out
	if strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
		rw.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(out)
		defer z.Close()
		w = z
	}
	enc := expfmt.NewEncoder(w, format) // not closed: that would write the end, which stands once
	for _, f := range families {
		if enc.Encode(f) != nil {
			return // the reader is gone
		}
	}
	_, _ = w.Write(theirs)
	if mediaType(kind) == openMetrics {
		_, _ = io.WriteString(w, "# EOF\n")
	}
}

// impatient writes an answer to a reader who may take that long in all, beside what it takes to make it.
type impatient struct {
	rw   http.ResponseWriter
	c    *http.ResponseController
	left time.Duration
}

// Write implements io.Writer.
func (i *impatient) Write(b []byte) (int, error) {
	start := time.Now()
	_ = i.c.SetWriteDeadline(start.Add(i.left)) // fails in tests only, whose writers have no connection
	n, err := i.rw.Write(b)
	i.left -= time.Since(start)
	return n, err
}

// hold waits until no other answer of the program is in memory; release lets the next one in.
func (m *merger) hold(ctx context.Context, from string) (release func(), err error) {
	if m.app == nil {
		return func() {}, nil
	}
	address, _, _ := net.SplitHostPort(from)
	next, err := m.turns.take(ctx, address)
	if err != nil {
		return nil, err
	}
	select {
	case m.busy <- struct{}{}:
		return func() { <-m.busy; next() }, nil
	case <-ctx.Done():
		next()
		return nil, errScrapes
	}
}

var errScrapes = errors.New("another scrape takes too long")

// turns lets one of each name pass at a time.
type turns struct {
	mu     sync.Mutex
	queues map[string]*queue // guarded by mu
}

// queue is those of one name: free is held by the one whose turn it is. n counts them all; guarded by turns.mu.
type queue struct {
	free chan struct{}
	n    int
}

// take waits for the turn; next gives it on.
func (t *turns) take(ctx context.Context, name string) (next func(), err error) {
	t.mu.Lock()
	q := t.queues[name]
	if q == nil {
		q = &queue{free: make(chan struct{}, 1)}
		t.queues[name] = q
	}
	q.n++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.n--; q.n == 0 {
			delete(t.queues, name)
		}
	}
	select {
	case q.free <- struct{}{}:
		return func() { <-q.free; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, errScrapes
	}
}

// scrapeLimit is how long Prometheus says that it waits, less a little for the way back.
func scrapeLimit(h http.Header) time.Duration {
	s, err := strconv.ParseFloat(h.Get(scrapeTimeout), 64)
	if err != nil || s <= 0 || s > 3600 {
		return scrapeTime
	}
	return time.Duration(s * 0.9 * float64(time.Second))
}

func mediaType(contentType string) string {
	t, _, _ := mime.ParseMediaType(contentType)
	return t
}

// scrape asks the program, and gives its metrics ended by a newline and without OpenMetrics' end, and their content type.
func (m *merger) scrape(ctx context.Context, asked http.Header) ([]byte, string, error) {
	if m.app == nil {
		return nil, "", nil
	}
	tr := &http.Transport{
		DisableKeepAlives: true, Proxy: nil, MaxResponseHeaderBytes: maxProbeHeader, // gzip is asked for and unpacked by Transport
		DialContext:     func(ctx context.Context, _, addr string) (net.Conn, error) { return m.prober.dial(ctx, addr) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // inside the pod; as Istio
	}
	defer tr.CloseIdleConnections()
	url := fmt.Sprintf("%s://%s%s", m.app.Scheme, m.prober.target("", m.app.Port), m.app.Path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", fmt.Errorf("building scrape: %w", err)
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
	if strings.Contains(asked.Get("Accept"), openMetrics) {
		req.Header.Set("Accept", openMetrics+";version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
	}
	if v := asked.Get(scrapeTimeout); v != "" {
		req.Header.Set(scrapeTimeout, v)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("the program answered %s", resp.Status)
	}
	kind := resp.Header.Get("Content-Type")
	switch mediaType(kind) {
	case openMetrics, "text/plain", "":
	default:
		return nil, "", fmt.Errorf("the program answered content type %q: want text/plain or %s", kind, openMetrics)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxScrape+1))
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("reading the program's metrics: %w", err)
	case len(b) > maxScrape:
		return nil, "", fmt.Errorf("the program's metrics have more than %d bytes", maxScrape)
	}
	return ended(b), kind, nil
}

// ended is an exposition that another may follow.
func ended(b []byte) []byte {
	b = bytes.TrimRight(b, "\n")
	b = bytes.TrimRight(bytes.TrimSuffix(b, []byte("# EOF")), "\n")
	if len(b) == 0 {
		return nil
	}
	return append(b, '\n')
}
