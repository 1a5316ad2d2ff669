package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// caller opens connections from one address, and keeps them.
type caller struct {
	t    *testing.T
	from string
	to   uint16
}

// ask sends one request on a connection of its own; without an answer within a second it is false.
func (c caller) ask(path string) (net.Conn, bool) {
	c.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from)}}
	conn, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.to))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: pod\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return conn, false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return conn, true
}

// TestKubeletIsServed is that kubelet's probe is answered while others hold whatever connections they can get, at both ports.
func TestKubeletIsServed(t *testing.T) {
	app, _ := program(t, false)
	pod := local()
	pod.Probes = map[string]Probe{"/app-health/a/livez": {HTTPGet: &HTTPProbe{Path: "/", Port: app}, Timeout: time.Second}}
	pod, cancel, done := standing(t, pod)
	defer func() {
		cancel()
		endsSoon(t, done)
	}()
	for _, c := range []struct {
		port uint16
		path string
		want int
	}{{pod.Ports.Metrics, "/app-health/a/livez", 200}, {pod.Ports.Ready, "/healthz/ready", 503}} {
		one := caller{t, "127.0.43.1", c.port}
		kept := 0
		for range maxWatchers + 10 { // each keeps its connection, and says nothing more
			if _, ok := one.ask("/healthz/ready"); ok {
				kept++
			}
		}
		if code, text := fetch("GET", c.port, c.path); code != c.want {
			t.Errorf("beside one that kept %d connections: %d %s", kept, code, text)
		}
		for i := range maxWatchers/maxPerWatcher + 4 {
			for range maxPerWatcher {
				caller{t, fmt.Sprintf("127.0.44.%d", i+1), c.port}.ask("/healthz/ready")
			}
		}
		if code, text := fetch("GET", c.port, c.path); code != c.want {
			t.Errorf("beside many that keep a few connections each: %d %s", code, text)
		}
	}
}

// TestWatchersBounds is who gives way to whom.
func TestWatchersBounds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w := newWatchers(ln, 4, 3)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := w.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	in := func(from string) (client, server net.Conn) {
		t.Helper()
		client = dial(from)
		select {
		case server = <-accepted:
		case <-time.After(5 * time.Second):
			t.Fatalf("one from %s is not let in", from)
		}
		t.Cleanup(func() { server.Close() })
		return client, server
	}
	closed := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s is not closed: %v", c.LocalAddr(), err)
		}
	}
	a1, s1 := in("127.0.43.1")
	w.state(s1, http.StateActive)
	a2, s2 := in("127.0.43.1")
	w.state(s2, http.StateActive)
	_, s3 := in("127.0.43.1")
	w.state(s3, http.StateActive)
	closed(dial("127.0.43.1")) // its share is served
	w.state(s2, http.StateIdle)
	_, s4 := in("127.0.43.1") // its idle one gives way
	closed(a2)
	w.state(s4, http.StateActive)
	_, k := in("127.0.43.2")
	w.state(k, http.StateActive)
	in("127.0.43.3") // all four are served: who has most gives up the oldest
	closed(a1)
	w.state(s1, http.StateClosed) // as the server says of it afterwards
	in("127.0.43.4")
	if len(w.conns) != 4 || w.count[w.conns[k].from] != 1 {
		t.Errorf("%d connections, %v", len(w.conns), w.count)
	}
	ln.Close()
	for range accepted {
	}
}

// TestProbesAreShared is that a program is asked once for all who ask the same at a time, and again for who asks otherwise.
func TestProbesAreShared(t *testing.T) {
	var asked atomic.Int64
	answer := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		select {
		case <-answer:
		case <-req.Context().Done():
		}
		rw.WriteHeader(299)
	}))
	defer srv.Close()
	pod := local()
	pod.Probes = map[string]Probe{"/app-health/a/livez": {HTTPGet: &HTTPProbe{Path: "/", Port: portOf(t, srv.URL)}, Timeout: 20 * time.Second}}
	p := newProber(pod)
	ask := func(ctx context.Context, accept string) int {
		req := httptest.NewRequest("GET", "/app-health/a/livez", nil).WithContext(ctx)
		req.Header.Set("Accept", accept)
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, req)
		return rec.Code
	}
	askers := func() (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, f := range p.flights {
			n += f.askers
		}
		return n
	}
	waiting := func(n int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); askers() != n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d ask, want %d", askers(), n)
			}
		}
	}
	first, gone := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { ask(first, "*/*") })
	waiting(1)
	for range 200 {
		all.Go(func() {
			if code := ask(t.Context(), "*/*"); code != 299 {
				t.Errorf("%d", code)
			}
		})
	}
	all.Go(func() { ask(t.Context(), "text/html") })
	waiting(202)
	gone() // whom it was started for goes, and it goes on for the others
	waiting(201)
	close(answer)
	all.Wait()
	if n := asked.Load(); n != 2 || len(p.flights) > 0 {
		t.Errorf("the program was asked %d times for 2 kinds of request, %d are left", n, len(p.flights))
	}
}

// TestLateProbe is that kubelet's question has its whole time, though a probe that began before it ends late.
func TestLateProbe(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		if asked.Add(1) == 1 {
			<-req.Context().Done() // a program that hangs for a moment
		}
	}))
	defer srv.Close()
	pod := local()
	pod.Probes = map[string]Probe{"/app-health/a/livez": {HTTPGet: &HTTPProbe{Path: "/", Port: portOf(t, srv.URL)}, Timeout: time.Second}}
	p := newProber(pod)
	ask := func() int {
		rec := httptest.NewRecorder()
		p.ServeHTTP(rec, httptest.NewRequest("GET", "/app-health/a/livez", nil))
		return rec.Code
	}
	var other sync.WaitGroup
	other.Go(func() {
		if code := ask(); code != 500 {
			t.Errorf("the one that began first: %d", code)
		}
	})
	time.Sleep(600 * time.Millisecond)
	if code := ask(); code != 200 {
		t.Errorf("the one that asked later: %d", code)
	}
	other.Wait()
}

// TestSlowReader is that a program's metrics are in memory once, however slowly they are read, and that such a reader is cut off.
func TestSlowReader(t *testing.T) {
	line := "app_total 7\n"
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		for range 16 << 10 {
			_, _ = io.WriteString(rw, strings.Repeat(line, 100)) // 19 MiB, more than sockets hold
		}
	}))
	defer srv.Close()
	own := prometheus.NewRegistry()
	own.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total"}))
	m := newMerger(own, &Exporter{Scheme: "http", Path: "/", Port: portOf(t, srv.URL)}, newProber(local()), slog.New(slog.DiscardHandler))
	scrapes := httptest.NewUnstartedServer(m)
	scrapes.Config.WriteTimeout = answerTime
	scrapes.Start()
	defer scrapes.Close()
	slow, err := net.Dial("tcp", scrapes.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_, _ = io.WriteString(slow, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n")
	if _, err := io.ReadFull(slow, make([]byte, 100)); err != nil { // it is being answered
		t.Fatal(err)
	}
	scrape := func(seconds string) (theirs bool) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", scrapes.URL, nil)
		req.Header.Set(scrapeTimeout, seconds)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(b), "own_total 0") {
			t.Errorf("%d bytes: %v", len(b), err)
		}
		return strings.Contains(string(b), line)
	}
	if scrape("0.5") {
		t.Error("the program's metrics are in memory twice")
	}
	if !scrape("30") {
		t.Error("a reader that does not read is never cut off")
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// TestTurns is that each name has one turn, whatever others do.
func TestTurns(t *testing.T) {
	q := turns{queues: map[string]*queue{}}
	next, err := q.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.take(gone, "a"); err == nil {
		t.Error("two turns of one name")
	}
	other, err := q.take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	next()
	if len(q.queues) > 0 {
		t.Errorf("%d are left", len(q.queues))
	}
}
