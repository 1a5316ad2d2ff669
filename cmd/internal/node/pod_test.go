package node

import (
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func portOf(t *testing.T, text string) uint16 {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// freePorts are ports that nobody has.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var out []uint16
	for range n {
		ln, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out = append(out, uint16(ln.Addr().(*net.TCPAddr).Port))
	}
	return out
}

func local() *Pod { return &Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}} }

// program is what probes ask, and what it was asked last.
func program(t *testing.T, secure bool) (uint16, *http.Request) {
	t.Helper()
	last := new(http.Request)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, req *http.Request) {
		*last = *req
		code, _ := strconv.Atoi(req.URL.Query().Get("code"))
		rw.WriteHeader(max(code, 200))
	})
	mux.HandleFunc("/here", func(rw http.ResponseWriter, req *http.Request) {
		http.Redirect(rw, req, "/?code=503", http.StatusFound)
	})
	mux.HandleFunc("/there", func(rw http.ResponseWriter, req *http.Request) {
		http.Redirect(rw, req, "http://other.example/", http.StatusFound)
	})
	mux.HandleFunc("/round", func(rw http.ResponseWriter, req *http.Request) { http.Redirect(rw, req, "/round", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return portOf(t, srv.URL), last
}

// probed asks as kubelet does.
func probed(p *Pod, path string) (int, string) {
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.Header.Set("User-Agent", "kube-probe/1.36")
	req.Header.Set("Accept", "*/*")
	rec := httptest.NewRecorder()
	newProber(p).ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func TestHTTPProbes(t *testing.T) {
	plain, last := program(t, false)
	secure, _ := program(t, true)
	closed := freePorts(t, 1)[0]
	for _, c := range []struct {
		get  HTTPProbe
		want int
		why  string
	}{
		{HTTPProbe{Path: "/", Port: plain}, 200, ""}, {HTTPProbe{Path: "/x?code=399", Port: plain, Scheme: "HTTP"}, 399, ""},
		{HTTPProbe{Path: "/?code=503", Port: plain}, 503, ""}, {HTTPProbe{Path: "/", Port: secure, Scheme: "HTTPS"}, 200, ""},
		{HTTPProbe{Path: "/here", Port: plain}, 503, ""}, {HTTPProbe{Path: "/there", Port: plain}, 302, ""},
		{HTTPProbe{Path: "/round", Port: plain}, 500, "10 redirects"}, {HTTPProbe{Path: "/", Port: closed}, 500, "refused"},
		{HTTPProbe{Path: "/slow", Port: plain}, 500, "deadline"}, {HTTPProbe{Path: "/", Port: plain, Host: "127.0.0.1"}, 200, ""},
		{HTTPProbe{Path: "/", Port: plain, Scheme: "gopher"}, 500, "want HTTP or HTTPS"},
	} {
		p := local()
		p.Probes = map[string]Probe{"/app-health/a/livez": {HTTPGet: &c.get, Timeout: 300 * time.Millisecond}}
		if got, why := probed(p, "/app-health/a/livez"); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %d %s, want %d %s", c.get, got, why, c.want, c.why)
		}
	}
	p := local()
	p.Probes = map[string]Probe{"/app-health/a/livez": {Timeout: time.Second, HTTPGet: &HTTPProbe{Path: "/p?q=1", Port: plain,
		Headers: [][2]string{{"Host", "shop.example"}, {"X-Twice", "a"}, {"x-twice", "b"}, {"Accept", "text/html"}}}}}
	if got, _ := probed(p, "/app-health/a/livez"); got != 200 {
		t.Error(got)
	}
	if h := last.Header; last.Host != "shop.example" || fmt.Sprint(h["X-Twice"]) != "[a b]" || h.Get("Accept") != "text/html" ||
		h.Get("User-Agent") != "kube-probe/1.36" || last.URL.RawQuery != "q=1" || !strings.HasPrefix(last.RemoteAddr, "127.0.0.6:") {
		t.Errorf("%s %s %v from %s", last.Host, last.URL, h, last.RemoteAddr)
	}
	if got, _ := probed(p, "/app-health/b/livez"); got != 404 {
		t.Error(got)
	}
}

func TestOtherProbes(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, h)
	h.SetServingStatus("good", grpc_health_v1.HealthCheckResponse_SERVING)
	h.SetServingStatus("bad", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	defer func() { srv.Stop(); <-done }()
	port, closed := uint16(ln.Addr().(*net.TCPAddr).Port), freePorts(t, 1)[0]
	for _, c := range []struct {
		probe Probe
		want  int
		why   string
	}{
		{Probe{TCPSocket: &TCPProbe{Port: port}}, 200, ""}, {Probe{TCPSocket: &TCPProbe{Port: closed}}, 500, "refused"},
		{Probe{GRPC: &GRPCProbe{Port: port}}, 200, ""}, {Probe{GRPC: &GRPCProbe{Port: port, Service: "good"}}, 200, ""},
		{Probe{GRPC: &GRPCProbe{Port: port, Service: "bad"}}, 500, "NOT_SERVING"}, {Probe{GRPC: &GRPCProbe{Port: port, Service: "none"}}, 500, "unknown service"},
		{Probe{GRPC: &GRPCProbe{Port: closed}}, 500, "refused"}, {Probe{}, 500, "neither"},
	} {
		p := local()
		c.probe.Timeout = 2 * time.Second
		p.Probes = map[string]Probe{"/app-health/a/readyz": c.probe}
		if got, why := probed(p, "/app-health/a/readyz"); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %d %s, want %d %s", c.probe, got, why, c.want, c.why)
		}
	}
}

// TestMerge is the program's metrics behind the sidecar's, in both forms, and without them when the program fails.
func TestMerge(t *testing.T) {
	var answer atomic.Pointer[http.HandlerFunc]
	set := func(h http.HandlerFunc) { answer.Store(&h) }
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { (*answer.Load())(rw, req) }))
	defer srv.Close()
	own := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total"})
	own.MustRegister(c)
	p := local()
	m := newMerger(own, &Exporter{Scheme: "http", Path: "/metrics", Port: portOf(t, srv.URL)}, newProber(p), slog.New(slog.DiscardHandler))
	scrape := func(headers ...string) (string, string) {
		t.Helper()
		req := httptest.NewRequest(http.MethodGet, "/stats/prometheus", nil)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		m.ServeHTTP(rec, req)
		var body io.Reader = rec.Body
		if rec.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		b, err := io.ReadAll(body)
		if err != nil || rec.Code != 200 {
			t.Errorf("%d %v", rec.Code, err)
		}
		return rec.Header().Get("Content-Type"), string(b)
	}
	plain := func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "app_total 7") }
	set(plain)
	if kind, b := scrape("Accept-Encoding", "gzip"); !strings.Contains(kind, "text/plain") || !strings.HasSuffix(b, "own_total 0\napp_total 7\n") {
		t.Errorf("%s: %q", kind, b)
	}
	set(func(rw http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.Header.Get("Accept"), openMetrics) {
			t.Error("the program was not asked for OpenMetrics")
		}
		rw.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
		fmt.Fprint(rw, "# TYPE app counter\napp_total 7\n# EOF\n")
	})
	kind, b := scrape("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	if mediaType(kind) != openMetrics || strings.Count(b, "# EOF") != 1 || !strings.HasSuffix(b, "app_total 7\n# EOF\n") || !strings.Contains(b, "# TYPE own counter\nown_total 0.0\n") {
		t.Errorf("%s: %q", kind, b)
	}
	for name, bad := range map[string]http.HandlerFunc{
		"an error": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) },
		"another type": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			fmt.Fprint(rw, "app_total 7\n")
		},
		"silence": func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
		"too much": func(rw http.ResponseWriter, _ *http.Request) {
			line := strings.Repeat("app_total 7\n", 10000)
			for range maxScrape/len(line) + 1 {
				fmt.Fprint(rw, line)
			}
		},
	} {
		set(bad)
		if _, b := scrape(scrapeTimeout, "0.5"); !strings.Contains(b, "own_total 0") || strings.Contains(b, "app_total") {
			t.Errorf("%s: %d bytes, %.300q", name, len(b), b)
		}
	}
}

func TestForeign(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	line := func(state, uid string) string {
		return "   0: 00000000:1F90 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000 " + uid + "        0 1 1 0 100 0 0 10 0\n"
	}
	for text, want := range map[string]bool{
		"": false, head: false, head + line("0A", "1337"): false, head + line("0A", "1337") + line("01", "1000"): true,
		head + line("0A", "0"): true, head + line("06", "0"): false, head + line("08", "33"): true, head + "garbage\n": false,
	} {
		if got, err := foreign(strings.NewReader(text)); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a real table: this process is not the sidecar's user
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if busy, err := programs(tables[:]); err != nil || !busy {
		t.Errorf("%v, %v", busy, err)
	}
}

// standing is a sidecar in a pod whose control plane is away.
func standing(t *testing.T, pod *Pod) (*Pod, context.CancelFunc, chan error) {
	t.Helper()
	dir := t.TempDir()
	srv := httptest.NewTLSServer(nil)
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	srv.Close()
	pod.Namespace, pod.Name, pod.ServiceAccount, pod.TrustDomain = "shop", "cart-1", "cart", "cluster.local"
	pod.TokenPath, pod.RootsPath = filepath.Join(dir, "token"), filepath.Join(dir, "roots.pem")
	for path, text := range map[string]string{pod.TokenPath: "token", pod.RootsPath: string(roots)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := freePorts(t, 5)
	pod.Ports = Ports{Admin: ports[0], Metrics: ports[1], Ready: ports[2], DNS: ports[3]}
	n, err := New(Config{Control: fmt.Sprintf("127.0.0.1:%d", ports[4]), RunDir: filepath.Join(dir, "run"), Pod: pod, Log: slog.New(slog.DiscardHandler), AccessLog: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for _, port := range []uint16{pod.Ports.Ready, pod.Ports.Metrics, pod.Ports.Admin} {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if code, _ := fetch("GET", port, "/healthz/ready"); code != 0 {
				break
			}
		}
	}
	return pod, cancel, done
}

func fetch(method string, port uint16, path string) (int, string) {
	req, _ := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func endsSoon(t *testing.T, done chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
}

// TestPodPorts is what a pod's sidecar answers while it has nothing yet, and that a program may end it.
func TestPodPorts(t *testing.T) {
	app, _ := program(t, false)
	pod := local()
	pod.DNS, pod.Probes = true, map[string]Probe{"/app-health/a/livez": {HTTPGet: &HTTPProbe{Path: "/", Port: app}, Timeout: time.Second},
		"/app-lifecycle/a/prestopz/WORD": {TCPSocket: &TCPProbe{Port: app}, Timeout: time.Second}}
	pod, cancel, done := standing(t, pod)
	defer cancel()
	for _, c := range []struct {
		method string
		port   uint16
		path   string
		code   int
		text   string
	}{
		{"GET", pod.Ports.Ready, "/healthz/ready", 503, "no certificate yet"}, {"GET", pod.Ports.Metrics, "/healthz/ready", 503, ""},
		{"GET", pod.Ports.Metrics, "/app-health/a/livez", 200, ""}, {"GET", pod.Ports.Metrics, "/app-lifecycle/a/prestopz/WORD", 200, ""},
		{"GET", pod.Ports.Metrics, "/app-lifecycle/a/prestopz", 404, ""}, {"GET", pod.Ports.Metrics, "/app-lifecycle/a/prestopz/", 404, ""},
		{"GET", pod.Ports.Metrics, "/app-health/b/livez", 404, ""}, {"GET", pod.Ports.Metrics, "/stats/prometheus", 200, "signet_build_info"},
		{"GET", pod.Ports.Admin, "/status", 200, `"ready": false`}, {"GET", pod.Ports.Admin, "/certs", 200, `"chain":[]`},
		{"GET", pod.Ports.Admin, "/denials", 200, ""}, {"GET", pod.Ports.Admin, "/debug/pprof/goroutine?debug=1", 200, "goroutine"},
		{"GET", pod.Ports.Admin, "/quitquitquit", 405, ""}, {"POST", pod.Ports.Admin, "/quitquitquit", 200, "OK"},
	} {
		if code, text := fetch(c.method, c.port, c.path); code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, text)
		}
	}
	endsSoon(t, done)
}

// TestDrain is that an ordinary sidecar that was told to end goes on for its programs, not ready, and that one that is done may say so.
func TestDrain(t *testing.T) {
	app, err := net.Listen("tcp", "127.0.0.1:0") // a program's
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	pod := local()
	pod.Drain, pod.Grace = 100*time.Millisecond, time.Minute
	pod, cancel, done := standing(t, pod)
	cancel()
	time.Sleep(400 * time.Millisecond)
	if code, text := fetch("GET", pod.Ports.Ready, "/healthz/ready"); code != 503 || !strings.Contains(text, "ends") {
		t.Errorf("%d %s", code, text)
	}
	select {
	case err := <-done:
		t.Fatalf("it ended before its programs: %v", err)
	default:
	}
	if code, _ := fetch("POST", pod.Ports.Metrics, "/quitquitquit"); code != 200 {
		t.Error(code)
	}
	endsSoon(t, done)

	native := local()
	native.Native, native.Drain, native.Grace = true, 300*time.Millisecond, time.Minute
	_, cancel, done = standing(t, native)
	start := time.Now()
	cancel()
	endsSoon(t, done)
	if d := time.Since(start); d < 250*time.Millisecond || d > 5*time.Second {
		t.Errorf("a native sidecar whose pod has programs left drained for %s", d)
	}
}
