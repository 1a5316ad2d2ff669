package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

func TestDenials(t *testing.T) {
	r := New(Config{})
	start := time.Unix(1000, 0)
	deny := func(by, path string, after time.Duration) {
		rec := exchange()
		rec.Side, rec.Status, rec.Path, rec.DeniedBy, rec.Start = proxy.DestinationSide, 403, path, by, start.Add(after)
		r.Record(rec)
	}
	r.Record(exchange())
	deny("AuthorizationPolicy/shop/a[0]", "/x", time.Second)
	deny("AuthorizationPolicy/shop/a[0]", "/y", 3*time.Second)
	deny("RegoPolicy/shop/menu", "/z", 2*time.Second)
	got := r.Denials()
	if len(got) != 2 || got[0].By != "AuthorizationPolicy/shop/a[0]" || got[0].Count != 2 || got[0].Path != "/y" || got[0].Status != 403 || got[1].By != "RegoPolicy/shop/menu" {
		t.Errorf("%+v", got)
	}
	families, _ := scrape(t, r)
	counts := map[string]float64{}
	for _, m := range families["istio_requests_total"].Metric {
		by := ""
		for _, l := range m.Label {
			if l.GetName() == "denied_by" {
				by = l.GetValue()
			}
		}
		counts[by] += m.Counter.GetValue()
	}
	if counts[""] != 1 || counts["AuthorizationPolicy/shop/a[0]"] != 2 || counts["RegoPolicy/shop/menu"] != 1 {
		t.Errorf("by denied_by: %v", counts)
	}
}

// Callers without end don't fill the memory: who was silent longest is forgotten.
func TestDenialsAreBounded(t *testing.T) {
	r := New(Config{})
	for i := range maxDenials + 10 {
		rec := exchange()
		rec.DeniedBy, rec.Start = fmt.Sprint("P", i), time.Unix(int64(i), 0)
		r.Record(rec)
	}
	got := r.Denials()
	if len(got) != maxDenials || got[0].By != fmt.Sprint("P", maxDenials+9) || got[len(got)-1].By != "P10" {
		t.Errorf("%d, first %v, last %v", len(got), got[0], got[len(got)-1])
	}
}

func TestShadowsAreCountedAndLogged(t *testing.T) {
	r := New(Config{})
	rec := exchange()
	rec.Shadows = []proxy.Shadow{{By: "AuthorizationPolicy/shop/new[1]", Denied: true}, {By: "AuthorizationPolicy/shop/other[0]"}}
	r.Record(rec)
	r.Record(rec)
	families, _ := scrape(t, r)
	got := map[string]float64{}
	for _, m := range families["signet_dry_run_total"].Metric {
		got[m.Label[1].GetValue()+" "+m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	if got["AuthorizationPolicy/shop/new[1] deny"] != 2 || got["AuthorizationPolicy/shop/other[0] allow"] != 2 {
		t.Errorf("%v", got)
	}
	rec.DeniedBy = "AuthorizationPolicy/none"
	line := string(appendJSON(nil, "shop.cart", rec))
	for _, want := range []string{`"dry_run_denied":["AuthorizationPolicy/shop/new[1]"]`, `"dry_run_allowed":["AuthorizationPolicy/shop/other[0]"]`, `"denied_by":"AuthorizationPolicy/none"`} {
		if !strings.Contains(line, want) {
			t.Errorf("%s lacks %s", line, want)
		}
	}
	if text := string(appendText(nil, "shop.cart", rec)); !strings.HasSuffix(text, " dry_run_denied=AuthorizationPolicy/shop/new[1]\n") {
		t.Error(text)
	}
}
