package service_test

import (
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/authz/rego/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestURLs(t *testing.T) {
	for _, c := range []struct{ base, path, want string }{
		{"http://a.example", "bundles/x.tar.gz", "http://a.example/bundles/x.tar.gz"},
		{"https://a.example:8443/opa/", "/logs", "https://a.example:8443/opa/logs"},
		{"http://a.example", "", "path: "},
		{"http://a.example", "/", "path: "},
		{"http://a.example", "a%zz", "path: "},
		{"", "x", "url: "},
		{"a.example", "x", "url: "},
		{"ftp://a.example", "x", "url: "},
		{"http:///x", "x", "url: "},
		{"http://u:hunter2@a.example", "x", "url: "},
		{"http://u:hunter2@a.example:port", "x", "url: "},
		{"http://a.example?token=hunter2", "x", "url: "},
		{"http://a.example#f", "x", "url: "},
	} {
		client, err := service.New(c.base, "", false)
		got := ""
		if err == nil {
			got, err = client.URL(c.path)
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || err == nil && got != c.want || strings.Contains(got, "hunter2") {
			t.Errorf("%q with %q: %q, want %q", c.base, c.path, got, c.want)
		}
	}
}

func do(t *testing.T, c *service.Client, url string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(r)
}

func TestRedirects(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "target") }))
	defer target.Close()
	to := ""
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	roots := pemOf(secure)
	for _, c := range []struct {
		name, from, to string
		follow         bool
		want           string
	}{
		{"followed", plain.URL, target.URL, true, "target"},
		{"not followed", plain.URL, target.URL, false, "302 Found"},
		{"out of TLS", secure.URL, target.URL + "?sig=hunter2", true, "from https to http"},
		{"loop", plain.URL, plain.URL, true, "more than 5 redirects"},
		{"nowhere", plain.URL, "http://127.0.0.1:1/x?sig=hunter2", true, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to = c.to
			client, err := service.New(c.from, roots, c.follow)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			got := ""
			resp, err := do(t, client, c.from+"/x?sig=hunter2")
			if err != nil {
				got = err.Error()
			} else {
				body, _ := io.ReadAll(resp.Body)
				service.Discard(resp.Body)
				got = resp.Status + string(body)
			}
			if !strings.Contains(got, c.want) || strings.Contains(got, "hunter2") && err != nil {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// The environment's proxy sees nothing.
func TestNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	client, err := service.New("http://signet.invalid", "", false)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := do(t, client, "http://signet.invalid/x"); err == nil || strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestDelays(t *testing.T) {
	s := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }
	for _, c := range []struct {
		lo, hi   *durationpb.Duration
		min, max time.Duration // in seconds; 0 is an error
	}{
		{nil, nil, 60, 120},
		{s(10), nil, 10, 120},
		{s(500), nil, 500, 500},
		{nil, s(30), 30, 30},
		{nil, s(300), 60, 300},
		{s(5), s(5), 5, 5},
		{s(5), s(4), 0, 0},
		{s(0), s(4), 0, 0},
		{s(-1), nil, 0, 0},
		{nil, s(0), 0, 0},
		{s(1), &durationpb.Duration{Seconds: 1 << 62}, 1, (1<<63 - 1) / time.Second},
	} {
		d, err := service.DelaysOf(c.lo, c.hi, time.Minute, 2*time.Minute)
		if (err != nil) != (c.min == 0) || d.Min/time.Second != c.min || d.Max/time.Second != c.max {
			t.Errorf("%v, %v: %v, %v", c.lo, c.hi, d, err)
		}
		if err != nil {
			continue
		}
		for range 100 {
			if n := d.Next(); n < d.Min || n > d.Max {
				t.Fatalf("%v is not within %v", n, d)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	for failures, most := range map[int]time.Duration{1: 200 * time.Millisecond, 5: 1300 * time.Millisecond, 1000: 72 * time.Second} {
		for range 100 {
			if d := service.Backoff(failures, time.Minute); d < 100*time.Millisecond || d > most {
				t.Fatalf("%d failures: %v", failures, d)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if service.Sleep(ctx, time.Hour) || !service.Sleep(t.Context(), time.Nanosecond) {
		t.Error("Sleep says the contrary")
	}
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}
