package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// rotatingFor is how long the mesh is under load; certificates of 20 s are renewed about every ten.
const rotatingFor = 62 * time.Second

// TestRotation puts a mesh whose certificates live 20 seconds under load, kills its control plane, and then takes the control
// plane away for longer than a certificate lives.
func TestRotation(t *testing.T) {
	t.Parallel()
	program, tcp := echo(t, streamingProgram), echoTCP(t)
	m := up(t, map[string]string{"mesh.yaml": withTCP(shop(addr(), program), tcp), "policy.yaml": allowCart},
		"--workload-cert-ttl", "20s")
	root := filepath.Join(m.State, "root-cert.pem")
	pay, cart := m.workload("shop/pay"), m.workload("shop/cart")

	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the mesh said (without access logs):\n%s", m.events())
		}
	})
	ctx, stop := context.WithTimeout(t.Context(), rotatingFor)
	defer stop()
	load := startLoad(t, ctx, cart.Outbound)
	serials := map[string]bool{}
	killed := false
	for ctx.Err() == nil {
		leaf := served(t, pay.Inbound[0], root)
		serials[leaf.SerialNumber.String()] = true
		if left := time.Until(leaf.NotAfter); left <= 0 || left > 20*time.Second {
			t.Errorf("the certificate served is good for %s", left)
		}
		if !killed && len(serials) >= 3 {
			m.signal("role-control", syscall.SIGKILL)
			killed = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	load.end(t)
	if len(serials) < 5 || !killed {
		t.Errorf("%d certificates in %s", len(serials), rotatingFor)
	}
	t.Logf("%d requests over kept connections, %d over new ones, %d certificates", load.kept.Load(), load.fresh.Load(), len(serials))
	controlPlaneAway(t, m, root)
}

// controlPlaneAway stops the control plane's process until certificates have expired, and lets it go on.
func controlPlaneAway(t *testing.T, m *running, root string) {
	pay, cart := m.workload("shop/pay"), m.workload("shop/cart")
	m.signal("role-control", syscall.SIGSTOP)
	defer m.signal("role-control", syscall.SIGCONT)
	first, last := ends(t, m)
	for time.Until(first) > 2*time.Second { // a renewal may have been under way
		if got := code(t, "-x", "http://"+cart.Outbound, "http://pay.shop/x"); got != "200" {
			t.Fatalf("%s while the certificates were good", got)
		}
		time.Sleep(200 * time.Millisecond)
		first, last = ends(t, m)
	}
	served(t, pay.Inbound[0], root) // still verifies
	time.Sleep(time.Until(last) + 1500*time.Millisecond)
	if _, now := ends(t, m); !now.Equal(last) {
		t.Fatalf("a certificate was renewed without a control plane: ends %s, the one before %s", now, last)
	}
	m.signal("role-control", syscall.SIGCONT)
	back := time.Now()
	eventually(t, 45*time.Second, func() string {
		if first, _ := ends(t, m); first.Before(time.Now()) {
			return "not every certificate has been renewed"
		}
		if got := code(t, "-x", "http://"+cart.Outbound, "http://pay.shop/x"); got != "200" {
			return "after the control plane is back: " + got
		}
		return ""
	})
	t.Logf("whole again %s after the control plane was back", time.Since(back).Round(100*time.Millisecond))
}

// events is the log without access logs.
func (m *running) events() string {
	var out strings.Builder
	for line := range strings.Lines(m.Log()) {
		if !strings.Contains(line, "HTTP/1.1") && !strings.Contains(line, "pay.shop") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// ends is when the first and the last of the certificates of cart and pay end.
func ends(t *testing.T, m *running) (first, last time.Time) {
	t.Helper()
	first, last = newest(t, m.workload("shop/cart").SDS).NotAfter, newest(t, m.workload("shop/pay").SDS).NotAfter
	if first.After(last) {
		first, last = last, first
	}
	return first, last
}

// newest is the certificate that a sidecar serves over SDS at this moment.
func newest(t *testing.T, socket string) *x509.Certificate {
	t.Helper()
	r, err := sdsClient(t, socket).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	return svidOf(t, secretOf(t, r.GetResources()[0])).Certificates[0]
}

// withTCP gives pay a plain TCP port as well.
func withTCP(text string, port int) string {
	text = strings.Replace(text, "ports: {http: 8080}", "ports: {http: 8080, tcp: 9000}", 1)
	text = strings.Replace(text, "  - port: {number: 8080, name: http, protocol: HTTP}",
		fmt.Sprintf("  - port: {number: 9000, name: tcp, protocol: TCP}\n    defaultEndpoint: 127.0.0.1:%d\n  - port: {number: 8080, name: http, protocol: HTTP}", port), 1)
	return text + `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay-tcp, namespace: shop}
spec:
  hosts: [tcp.shop]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: pay}}
`
}

// streamingProgram answers /stream with a line every 100 ms until the caller leaves, echoes after an upgrade on /ws, and
// answers anything else at once.
func streamingProgram(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/stream":
		for i := 0; r.Context().Err() == nil; i++ {
			fmt.Fprintf(w, "%d\n", i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	case "/ws":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	default:
		fmt.Fprintln(w, r.Method, r.URL.Path)
	}
}

// echoTCP is a program that sends back what it gets.
func echoTCP(t *testing.T) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// load is everything that must not notice a rotation.
type load struct {
	wg          sync.WaitGroup
	kept, fresh atomic.Int64
	mu          sync.Mutex
	failures    []string
}

func startLoad(t *testing.T, ctx context.Context, proxy string) *load {
	t.Helper()
	l := &load{}
	through := &url.URL{Scheme: "http", Host: proxy}
	for range 4 {
		l.wg.Go(func() { l.requests(ctx, &http.Transport{Proxy: http.ProxyURL(through)}, &l.kept) })
		l.wg.Go(func() {
			l.requests(ctx, &http.Transport{Proxy: http.ProxyURL(through), DisableKeepAlives: true}, &l.fresh)
		})
	}
	l.wg.Go(func() { l.stream(ctx, &http.Transport{Proxy: http.ProxyURL(through)}) })
	l.wg.Go(func() {
		l.pingPong(ctx, proxy, "CONNECT tcp.shop:9000 HTTP/1.1\r\nHost: tcp.shop:9000\r\n\r\n", "HTTP/1.1 200")
	})
	l.wg.Go(func() {
		l.pingPong(ctx, proxy, "GET http://pay.shop/ws HTTP/1.1\r\nHost: pay.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 101")
	})
	return l
}

func (l *load) failed(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf(format, args...))
}

// end waits for the load, after its context ended, and judges it.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, f := range l.failures {
		if i < 10 {
			t.Error(f)
		}
	}
	if len(l.failures) > 0 || l.kept.Load() < 1000 || l.fresh.Load() < 1000 {
		t.Errorf("%d failures, %d requests over kept connections, %d over new ones", len(l.failures), l.kept.Load(), l.fresh.Load())
	}
}

func (l *load) requests(ctx context.Context, tr *http.Transport, count *atomic.Int64) {
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, "http://pay.shop/hello", nil)
		if err != nil {
			l.failed("%v", err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			l.failed("request %d: %v", count.Load(), err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || string(body) != "GET /hello\n" {
			l.failed("request %d: %d %q %v", count.Load(), resp.StatusCode, body, err)
		}
		count.Add(1)
		time.Sleep(10 * time.Millisecond)
	}
}

// stream reads one response for as long as the context lives.
func (l *load) stream(ctx context.Context, tr *http.Transport) {
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pay.shop/stream", nil)
	if err != nil {
		l.failed("%v", err)
		return
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		l.failed("stream: %v", err)
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	n := 0
	for ; lines.Scan(); n++ {
		if lines.Text() != fmt.Sprint(n) {
			l.failed("stream: line %d is %q", n, lines.Text())
		}
	}
	if ctx.Err() == nil || n < 100 {
		l.failed("stream ended after %d lines: %v", n, lines.Err())
	}
}

// pingPong keeps one connection for as long as the context lives and looks at every byte that comes back.
func (l *load) pingPong(ctx context.Context, proxy, hello, want string) {
	name, _, _ := strings.Cut(hello, " HTTP/")
	conn, err := net.DialTimeout("tcp", proxy, 5*time.Second)
	if err != nil {
		l.failed("%s: %v", name, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, hello)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || !strings.HasPrefix("HTTP/1.1 "+resp.Status, want) {
		l.failed("%s: %v %v", name, resp, err)
		return
	}
	for i := 0; ctx.Err() == nil; i++ {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "%d\n", i)
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("%d\n", i) {
			l.failed("%s: message %d came back as %q: %v", name, i, line, err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
