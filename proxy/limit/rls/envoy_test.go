package rls_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/limit/lease"
	"github.com/signet-mesh/signet/proxy/limit/rls"
	"google.golang.org/grpc"
)

func listen(t *testing.T) (net.Listener, int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).Port
}

func freePort(t *testing.T) int {
	ln, port := listen(t)
	ln.Close()
	return port
}

func spawn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (test/setup.sh installs it)", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Path, log.String())
		}
	})
}

func eventually(t *testing.T, within time.Duration, check func() string) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		wrong := check()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(wrong)
		}
	}
}

// leases are those of a real Redis.
func leases(t *testing.T) *lease.Leases {
	t.Helper()
	port := freePort(t)
	spawn(t, exec.Command("redis-server", "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()))
	l, err := lease.New(lease.Config{Store: &policy.RateLimitStore{Url: fmt.Sprintf("redis://127.0.0.1:%d", port)}, ID: "rls"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually(t, 10*time.Second, func() string {
		if s := l.Status(); s.State != "up" {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	return l
}

func envoyPath(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("SIGNET_TEST_ENVOY"), "../../../.cache/envoy/bin/envoy", "/opt/venv-envoy/bin/envoy"} {
		if p != "" {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	t.Fatal("there is no Envoy: run test/setup.sh, or set SIGNET_TEST_ENVOY")
	return ""
}

// startEnvoy starts an Envoy whose ratelimit filter asks for a domain, and waits until it serves.
func startEnvoy(t *testing.T, domain string, backend, service int) string {
	t.Helper()
	conf, err := os.ReadFile("testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "rls") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := freePort(t)
	text := strings.NewReplacer("@ADMIN@", filepath.Join(dir, "admin"), "@LISTEN@", fmt.Sprint(port), "@DOMAIN@", domain,
		"@BACKEND@", fmt.Sprint(backend), "@RLS@", fmt.Sprint(service)).Replace(string(conf))
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spawn(t, exec.Command(envoyPath(t), "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"))
	address := fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, 30*time.Second, func() string {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	return "http://" + address
}

func get(t *testing.T, url, tier string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tier != "" {
		req.Header.Set("x-tier", tier)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

// judged asks until the store answered in time, which on a busy machine may not be at once: without it there is no ratelimit
// field, and the policy denies.
func judged(t *testing.T, url string) (r *http.Response) {
	t.Helper()
	eventually(t, 20*time.Second, func() string {
		if r = get(t, url, "free"); r.Header.Get("ratelimit") == "" {
			return fmt.Sprintf("never judged: %d %v", r.StatusCode, r.Header)
		}
		return ""
	})
	return r
}

// TestEnvoy: a real Envoy asks us by its ratelimit filter; what it uses up is gone for the corridor too, and the reverse.
func TestEnvoy(t *testing.T) {
	store := leases(t)
	registry := limit.NewRegistry(nil)
	registry.SetStore(store)
	oven := named(t, "oven", `{"local":{"rules":[{"limit":{"requests":1,"unit":"Hour"}}]},"global":{"rules":[
		{"clientSelectors":[{"path":{"value":"/each"},"methods":[{"value":"GET"}],"headers":[{"name":"x-tier","value":"free"}],"sourceCIDR":{"value":"127.0.0.0/8"}}],
		 "limit":{"requests":7,"unit":"Month"},"onStoreFailure":"Deny"}]}}`)
	s := rls.New(rls.Config{Registry: registry})
	if err := s.Update([]*mesh.Typed[*policy.RateLimitPolicy]{oven}); err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	s.Register(g)
	ln, service := listen(t)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ln) }()
	t.Cleanup(func() { g.Stop(); <-done })
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "baked") }))
	t.Cleanup(backend.Close)
	port := backend.Listener.Addr().(*net.TCPAddr).Port

	url := startEnvoy(t, "lab/oven", port, service)
	for i := range 5 {
		if r := judged(t, url+"/each/one?x=1"); r.StatusCode != 200 || r.Header.Get("ratelimit") == "" || r.Header.Get("x-ratelimit-limit") == "" {
			t.Fatalf("request %d: %d %v", i, r.StatusCode, r.Header)
		}
	}
	corridorTakes(t, store, oven, 2)
	for range 3 {
		if r := judged(t, url+"/each"); r.StatusCode != 429 || r.Header.Get("retry-after") == "" || !strings.Contains(r.Header.Get("ratelimit"), "r=0") {
			t.Fatalf("over the limit: %d %v", r.StatusCode, r.Header)
		}
	}
	for _, other := range []struct{ path, tier string }{{"/each", "paid"}, {"/each", ""}, {"/other", "free"}} {
		if r := get(t, url+other.path, other.tier); r.StatusCode != 200 {
			t.Errorf("%v: %d", other, r.StatusCode)
		}
	}
	unknown := startEnvoy(t, "lab/nobody", port, service)
	if r := get(t, unknown+"/each", "free"); r.StatusCode != 500 { // failure_mode_deny
		t.Errorf("an unknown domain: %d", r.StatusCode)
	}
}

// corridorTakes counts n requests as a sidecar does, which has the local rule and more room in it than this policy's.
func corridorTakes(t *testing.T, store limit.Store, p *mesh.Typed[*policy.RateLimitPolicy], n int) {
	t.Helper()
	for range n {
		set, err := limitedBy(store).Compile([]*mesh.Typed[*policy.RateLimitPolicy]{p})
		if err != nil {
			t.Fatal(err)
		}
		var v limit.Verdict
		eventually(t, 20*time.Second, func() string {
			v = set.Take(t.Context(), &authz.Connection{SourceIP: netip.MustParseAddr("127.0.0.9")}, &authz.Request{Method: "GET", Path: "/each", Headers: free{}})
			if v.StoreAway {
				set, err = limitedBy(store).Compile([]*mesh.Typed[*policy.RateLimitPolicy]{p})
				return "the store never answered"
			}
			return ""
		})
		if err != nil || v.Refused != nil {
			t.Fatalf("the corridor refuses: %v, %+v", v.Refused, v.Grant)
		}
	}
}

// limitedBy is a registry whose local limits are new.
func limitedBy(store limit.Store) *limit.Registry {
	r := limit.NewRegistry(nil)
	r.SetStore(store)
	return r
}

type free struct{}

func (free) HeaderValue(name string, from int) (string, int, bool) {
	return "free", 1, name == "x-tier" && from == 0
}
