package telemetry

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/proxy"
)

// scrape reads the metrics as Prometheus would.
func scrape(t *testing.T, r *Recorder) (map[string]*dto.MetricFamily, string) {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/stats/prometheus", nil))
	if w.Code != 200 {
		t.Fatalf("scraping: %d %s", w.Code, w.Body)
	}
	text := w.Body.String()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families, text
}

func TestMetricsGolden(t *testing.T) {
	r := New(Config{Workload: "shop.cart", Version: "test"})
	for range 2 {
		for _, rec := range records() {
			if rec.TCP {
				r.Opened(rec)
			}
			r.Record(rec)
		}
	}
	source := exchange()
	source.Side, source.Service = proxy.SourceSide, &proxy.Destination{Service: "PassthroughCluster"}
	r.Record(source)
	odd := exchange()
	odd.Status = 1200
	r.Record(odd)
	_, text := scrape(t, r)
	var ours bytes.Buffer
	for line := range strings.Lines(text) {
		// The buckets of one series stand for all.
		if strings.Contains(line, "istio_") && (!strings.Contains(line, "_bucket{") ||
			strings.HasPrefix(line, "istio_request_duration") && strings.Contains(line, `flags="UF"`)) {
			ours.WriteString(line)
		}
	}
	golden(t, "metrics.prom", ours.Bytes())
}

// The labels are Istio's, all of them, on every metric of the standard set.
func TestLabelSet(t *testing.T) {
	r := New(Config{})
	r.Record(exchange())
	r.Record(records()["stream"])
	families, _ := scrape(t, r)
	for name, want := range map[string]int{"istio_requests_total": 25, "istio_request_duration_milliseconds": 25, "istio_request_bytes": 25,
		"istio_response_bytes": 25, "istio_tcp_sent_bytes_total": 23, "istio_tcp_received_bytes_total": 23,
		"istio_tcp_connections_opened_total": 23, "istio_tcp_connections_closed_total": 23} {
		f := families[name]
		if f == nil || len(f.Metric) != 1 {
			t.Fatalf("%s: %v", name, f)
		}
		if got := len(f.Metric[0].Label); got != want {
			t.Errorf("%s has %d labels, want %d", name, got, want)
		}
	}
	if d := families["istio_request_duration_milliseconds"].Metric[0].Histogram; d.GetSampleCount() != 1 || d.GetSampleSum() != 12.345 {
		t.Errorf("duration: %v", d)
	}
}

func TestSecurityAndPrincipals(t *testing.T) {
	for _, c := range []struct {
		side            proxy.Side
		security        proxy.Security
		label, reporter string
		proven          bool
	}{
		{proxy.DestinationSide, proxy.SecurityMTLS, "mutual_tls", "destination", true},
		{proxy.DestinationSide, proxy.SecurityNone, "none", "destination", false},
		{proxy.DestinationSide, proxy.SecurityUnknown, "unknown", "destination", false},
		{proxy.SourceSide, proxy.SecurityMTLS, "unknown", "source", true},
		{proxy.SourceSide, proxy.SecurityNone, "unknown", "source", false},
	} {
		r := New(Config{})
		rec := exchange()
		rec.Side, rec.Security = c.side, c.security
		r.Record(rec)
		families, _ := scrape(t, r)
		got := labels(families["istio_requests_total"].Metric[0])
		principal := "unknown"
		if c.proven {
			principal = web.Principal
		}
		if got["connection_security_policy"] != c.label || got["reporter"] != c.reporter || got["source_principal"] != principal {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func labels(m *dto.Metric) map[string]string {
	out := map[string]string{}
	for _, l := range m.Label {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// Equal parties behind different pointers are one series.
func TestSeriesAreByValue(t *testing.T) {
	r := New(Config{})
	for range 3 {
		rec := exchange()
		copied := *rec.Source
		rec.Source = &copied
		r.Record(rec)
	}
	families, _ := scrape(t, r)
	m := families["istio_requests_total"].Metric
	if len(m) != 1 || m[0].Counter.GetValue() != 3 {
		t.Errorf("%v", m)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	r := New(Config{})
	r.book.limit = 100
	const n = 600
	for i := range n {
		rec := exchange()
		rec.Source = &proxy.Party{Workload: fmt.Sprint("w", i)}
		rec.Method, rec.Authority, rec.Path = fmt.Sprint("M", i), fmt.Sprint("host", i), fmt.Sprint("/", i)
		r.Record(rec)
	}
	if got := len(r.book.all()); got > 104 {
		t.Errorf("%d series", got)
	}
	if got := len(*r.book.pairs.Load()); got > 200 {
		t.Errorf("%d pairs are remembered", got)
	}
	var total uint64
	for _, s := range r.book.all() {
		total += s.requests.Load()
	}
	if total != n {
		t.Errorf("%d of %d requests were counted", total, n)
	}
	if got := r.book.overflow.Load(); got != 500 {
		t.Errorf("overflow %d, want 500", got)
	}
}

func TestOutcomesOfOnePair(t *testing.T) {
	r := New(Config{})
	for status := range 1000 {
		rec := exchange()
		rec.Status = status
		r.Record(rec)
		r.Record(rec)
	}
	if got := len(r.book.all()); got != 501 {
		t.Errorf("%d series, want 500 statuses and 0", got)
	}
}

func TestRetain(t *testing.T) {
	r := New(Config{})
	r.Record(exchange())
	plain := exchange()
	plain.Security = proxy.SecurityNone
	r.Record(plain)
	passthrough := exchange()
	passthrough.Service = &proxy.Destination{Service: "PassthroughCluster"}
	r.Record(passthrough)
	gone := exchange()
	gone.Source = &proxy.Party{Workload: "gone"}
	r.Record(gone)
	gone = exchange()
	gone.Service = &proxy.Destination{Service: "gone.shop"}
	r.Record(gone)

	web2, cart2, service2 := *web, *cart, *cartService // the next configuration's pointers
	r.Retain([]*proxy.Party{&web2, &cart2}, []*proxy.Destination{&service2})
	if got := len(r.book.all()); got != 3 {
		t.Fatalf("%d series are left, want 3", got)
	}
	rec := exchange()
	rec.Source, rec.Destination, rec.Service = &web2, &cart2, &service2
	r.Record(rec)
	for _, s := range r.book.all() {
		if s.key.service == service2 && s.key.security == proxy.SecurityMTLS && s.requests.Load() != 2 {
			t.Errorf("the counter began anew: %d", s.requests.Load())
		}
	}
	if _, text := scrape(t, r); strings.Contains(text, "gone") {
		t.Error("a series of what is gone is left")
	}
}

func TestCertificateExpiryAndBuild(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	src := certtest.NewSource(nil, ca.Bundle())
	r := New(Config{Source: src, Version: "v0.1.2"})
	families, text := scrape(t, r)
	if families["istio_agent_cert_expiry_seconds"] != nil {
		t.Error("an expiry is exported before there is a certificate")
	}
	if !strings.Contains(text, `version="v0.1.2"`) {
		t.Error("no signet_build_info")
	}
	src.Replace(ca.SVID(t, "spiffe://cluster.local/ns/shop/sa/cart", certtest.TTL(time.Hour)), ca.Bundle())
	families, _ = scrape(t, r)
	m := families["istio_agent_cert_expiry_seconds"].Metric[0]
	if left := m.Gauge.GetValue(); left < 3500 || left > 3600 || labels(m)["resource_name"] != "default" {
		t.Errorf("expiry: %v", m)
	}
}

func TestRefusedIsCountedByReason(t *testing.T) {
	r := New(Config{})
	a := netip.MustParseAddrPort("127.0.0.1:1")
	for i := range 200 {
		r.Refused(a, a, "expired", errBroken)
		r.Refused(a, a, fmt.Sprint("reason", i), nil)
	}
	families, _ := scrape(t, r)
	refused := families["signet_connections_refused_total"].Metric
	if len(refused) > maxReasons+1 {
		t.Errorf("%d reasons", len(refused))
	}
	var total float64
	for _, m := range refused {
		total += m.Counter.GetValue()
		if labels(m)["reason"] == "expired" && m.Counter.GetValue() != 200 {
			t.Errorf("expired: %v", m)
		}
	}
	if total != 400 {
		t.Errorf("%v refusals were counted, want 400", total)
	}
}
