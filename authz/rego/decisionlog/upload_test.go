package decisionlog

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/types/known/durationpb"
)

func reader(s string) io.Reader { return strings.NewReader(s) }

func TestUpload(t *testing.T) {
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	cfg := config(server.URL + "/opa")
	cfg.Spec.Partition = "lab menu"
	r := reporter(t, cfg)
	stop := start(t, r)
	at := time.Date(2026, 3, 4, 5, 6, 7, 89, time.FixedZone("", 3600))
	r.Log(&Event{Path: "menu/decision", Input: value(t, `{"n": 12345678901234567890}`), Error: "timeout", RequestedBy: "spiffe://lab/ns/a/sa/b", Time: at,
		Bundle: "menu", Revision: "7", Metrics: map[string]any{"timer_rego_query_eval_ns": 5}})
	eventually(t, "one event", func() bool { return len(c.got()) == 1 })
	stop()
	e := c.got()[0]
	if id, _ := e["decision_id"].(string); !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("decision_id is %q", id)
	}
	delete(e, "decision_id")
	want := "map[bundles:map[menu:map[revision:7]] error:map[message:timeout] input:map[n:12345678901234567890] labels:map[id:lab/menu-1 version:1.0] " +
		"metrics:map[timer_rego_query_eval_ns:5] path:menu/decision requested_by:spiffe://lab/ns/a/sa/b timestamp:2026-03-04T04:06:07.000000089Z]"
	if got := fmt.Sprint(e); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if c.paths[0] != "/opa/logs/lab%20menu" {
		t.Errorf("posted to %q", c.paths[0])
	}
	if got := r.Counters(); got != (Counters{Sent: 1, Chunks: 1}) {
		t.Errorf("counters %+v", got)
	}
}

// Full chunks go at once, none larger than the limit, and nothing is lost or doubled.
func TestChunks(t *testing.T) {
	c := &collector{}
	server := httptest.NewServer(c)
	defer server.Close()
	cfg := config(server.URL)
	cfg.Spec.MinDelay, cfg.Spec.MaxDelay = durationpb.New(time.Hour), durationpb.New(time.Hour)
	cfg.Spec.Buffer = 5000
	r := reporter(t, cfg)
	for i := range 500 { // random: hard to compress
		noise := make([]byte, rand.N(2000))
		for j := range noise {
			noise[j] = byte(rand.Uint32())
		}
		r.Log(event(t, fmt.Sprint(i), fmt.Sprintf(`{"noise": %q}`, base64.StdEncoding.EncodeToString(noise))))
	}
	for i := range 3000 { // alike
		r.Log(event(t, fmt.Sprint(500+i), `{"attributes": {"request": {"http": {"method": "GET", "path": "/menu"}}}}`))
	}
	huge := make([]byte, 2*MaxChunk)
	for j := range huge {
		huge[j] = byte(rand.Uint32())
	}
	r.Log(event(t, "too large", fmt.Sprintf(`{"noise": %q}`, base64.StdEncoding.EncodeToString(huge))))
	r.Log(event(t, "large", fmt.Sprintf(`{"spaces": %q}`, strings.Repeat(" ", 10*MaxChunk))))
	stop := start(t, r)
	eventually(t, "full chunks", func() bool { return len(c.got()) > 400 && len(r.queue.events) == 0 })
	stop()
	seen := map[string]int{}
	for _, e := range c.got() {
		seen[e["decision_id"].(string)]++
	}
	if len(seen) != 3501 || len(c.got()) != 3501 || seen["large"] != 1 {
		t.Errorf("%d different events of %d", len(seen), len(c.got()))
	}
	for i, n := range c.sizes {
		if n > MaxChunk || i < len(c.sizes)-3 && n < MaxChunk*3/4 {
			t.Errorf("chunk %d of %d has %d bytes", i, len(c.sizes), n)
		}
	}
	if got := r.Counters(); got.Sent != 3501 || got.Dropped != 1 || got.Failed != 0 || int(got.Chunks) != len(c.sizes) {
		t.Errorf("counters %+v, %d chunks", got, len(c.sizes))
	}
}

// While a server fails, its chunk waits; one that it refuses for good is dropped.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		status  int
		dropped uint64
	}{{500, 0}, {503, 0}, {404, 0}, {401, 0}, {429, 0}, {302, 0}, {400, 1}, {413, 1}, {422, 1}} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			t.Parallel()
			col := &collector{}
			server := httptest.NewServer(col)
			defer server.Close()
			col.fail(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(c.status)
			})
			r := reporter(t, config(server.URL))
			stop := start(t, r)
			r.Log(event(t, "first", `{}`))
			failures := uint64(3)
			if c.dropped > 0 {
				failures = 1
			}
			eventually(t, "failures", func() bool { return r.Counters().Failed >= failures })
			col.fail(nil)
			r.Log(event(t, "second", `{}`))
			eventually(t, "success", func() bool { return r.Counters().Sent == 2-c.dropped })
			stop()
			if got := r.Counters(); got.Dropped != c.dropped || len(col.got()) != int(2-c.dropped) {
				t.Errorf("counters %+v, %d events", got, len(col.got()))
			}
		})
	}
}

// With the server away, the newest events of the buffer survive and the rest is counted. Nobody waits.
func TestBuffer(t *testing.T) {
	col := &collector{}
	server := httptest.NewServer(col)
	defer server.Close()
	cfg := config(server.URL)
	cfg.Spec.Buffer = 10
	r := reporter(t, cfg)
	for i := range 100 {
		r.Log(event(t, fmt.Sprint(i), `{}`))
	}
	stop := start(t, r)
	eventually(t, "events", func() bool { return r.Counters().Sent == 10 })
	stop()
	if got := r.Counters(); got.Dropped != 90 || col.got()[0]["decision_id"] != "90" {
		t.Errorf("counters %+v, first is %v", got, col.got()[0])
	}
}

func TestConcurrent(t *testing.T) {
	col := &collector{}
	server := httptest.NewServer(col)
	defer server.Close()
	cfg := config(server.URL)
	cfg.Spec.Buffer = 20
	r := reporter(t, cfg)
	stop := start(t, r)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 2000 {
				r.Log(event(t, "", `{"a": 1}`))
			}
		})
	}
	group.Wait()
	stop()
	if got := r.Counters(); got.Sent+got.Dropped != 16000 || got.Sent == 0 || len(col.got()) != int(got.Sent) {
		t.Errorf("counters %+v, %d events", got, len(col.got()))
	}
}

func TestDrain(t *testing.T) {
	t.Run("server works", func(t *testing.T) {
		col := &collector{}
		server := httptest.NewServer(col)
		defer server.Close()
		cfg := config(server.URL)
		cfg.Spec.MinDelay, cfg.Spec.MaxDelay = nil, nil
		r := reporter(t, cfg)
		stop := start(t, r)
		for range 100 {
			r.Log(event(t, "", `{}`))
		}
		stop()
		if got := r.Counters(); got.Sent != 100 || got.Dropped != 0 || len(col.got()) != 100 {
			t.Errorf("counters %+v", got)
		}
	})
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
	}{
		{"server hangs", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }},
		{"server fails", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			col := &collector{handle: c.handle}
			server := httptest.NewServer(col)
			defer server.Close()
			r := reporter(t, config(server.URL))
			stop := start(t, r)
			for range 100 {
				r.Log(event(t, "", `{}`))
			}
			stop()
			if got := r.Counters(); got.Sent != 0 || got.Dropped != 100 {
				t.Errorf("counters %+v", got)
			}
		})
	}
}

// What cannot be masked is not sent.
func TestMaskFails(t *testing.T) {
	for _, c := range []struct {
		name string
		mask func(context.Context, ast.Value) (any, error)
	}{
		{"error", func(context.Context, ast.Value) (any, error) { return nil, errors.New("eval_conflict_error") }},
		{"hang", func(ctx context.Context, _ ast.Value) (any, error) { <-ctx.Done(); return nil, ctx.Err() }},
		{"no set", func(context.Context, ast.Value) (any, error) { return true, nil }},
		{"path", func(context.Context, ast.Value) (any, error) { return []any{"/labels/id"}, nil }},
		{"op", func(context.Context, ast.Value) (any, error) {
			return []any{map[string]any{"op": "hide", "path": "/input/a"}}, nil
		}},
		{"no op", func(context.Context, ast.Value) (any, error) { return []any{map[string]any{"path": "/input/a"}}, nil }},
		{"number", func(context.Context, ast.Value) (any, error) { return []any{1}, nil }},
		{"many", func(context.Context, ast.Value) (any, error) { return make([]any, MaxMasks+1), nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			col := &collector{}
			server := httptest.NewServer(col)
			defer server.Close()
			cfg := config(server.URL)
			cfg.Mask = c.mask
			r := reporter(t, cfg)
			stop := start(t, r)
			r.Log(event(t, "", `{"a": "secret"}`))
			eventually(t, "it is dropped", func() bool { return r.Counters().Dropped == 1 })
			stop()
			if len(col.got()) != 0 {
				t.Errorf("sent %v", col.got())
			}
		})
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"good", "", func(*Config) {}},
		{"defaults", "", func(c *Config) { c.Spec.MinDelay, c.Spec.MaxDelay = nil, nil }},
		{"url", "url: ", func(c *Config) { c.Spec.Url = "ftp://x" }},
		{"password", "url: ", func(c *Config) { c.Spec.Url = "http://u:hunter2@x" }},
		{"buffer", "buffer: ", func(c *Config) { c.Spec.Buffer = MaxBuffer + 1 }},
		{"delay", "maxDelay: ", func(c *Config) { c.Spec.MaxDelay = durationpb.New(time.Millisecond) }},
		{"roots", "caCertificates: ", func(c *Config) { c.Spec.CaCertificates = "x" }},
		{"no spec", "making decision log", func(c *Config) { c.Spec = nil }},
	} {
		cfg := config("http://logs.example")
		c.change(&cfg)
		_, err := New(cfg)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestPathOf(t *testing.T) {
	for query, want := range map[string]string{
		"data.menu.decision": "menu/decision", `data["menu"].allow`: "menu/allow", "data": "", "data.menu[x]": "", "input.a": "", "data.a == 1": "", "": "",
	} {
		if got := PathOf(query); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestLogAllocates(t *testing.T) {
	r := reporter(t, config("http://logs.example"))
	e := event(t, "", `{}`)
	if n := testing.AllocsPerRun(5000, func() { r.Log(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
