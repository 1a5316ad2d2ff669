package outbound

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listener is an outbound listener and what it recorded.
type listener struct {
	t    *testing.T
	addr string
	l    *Listener

	mu      sync.Mutex
	records []proxy.Record
}

func (l *listener) Opened(*proxy.Record)                           {}
func (l *listener) Refused(_, _ netip.AddrPort, _ string, _ error) {}

func (l *listener) Record(r *proxy.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, *r)
}

func (l *listener) last() proxy.Record {
	l.t.Helper()
	for range 1000 {
		l.mu.Lock()
		n := len(l.records)
		if n > 0 {
			r := l.records[n-1]
			l.records = nil
			l.mu.Unlock()
			return r
		}
		l.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatal("nothing was recorded")
	return proxy.Record{}
}

const cluster = "outbound|80||api.shop"

// open runs a listener whose registry knows api.shop: port 80 is HTTP, port 9000 is TCP, and both are served at target;
// port 81 has an endpoint that nobody serves and then target.
func open(t *testing.T, target string, change func(*Config)) *listener {
	t.Helper()
	set := upstream.NewSet(nil, upstream.Options{})
	second := "outbound|81||api.shop"
	clusters := set.Update([]upstream.Spec{
		{Name: cluster, Targets: []upstream.Target{{Address: target}}},
		{Name: second, Policy: upstream.RoundRobin, Targets: []upstream.Target{{Address: "127.0.0.1:1"}, {Address: target}}},
	})
	to := []route.Weighted{{Cluster: cluster}}
	table, err := route.NewTable([]*route.VirtualHost{
		{Host: "api.shop", Port: 80, HTTP: true, Tunnel: to, Routes: []*route.Route{{Name: "default", Destinations: to, Retry: route.DefaultRetry()}}},
		{Host: "api.shop", Port: 81, Tunnel: []route.Weighted{{Cluster: second}}},
		{Host: "api.shop", Port: 9000, Tunnel: to},
		{Host: "none.shop", Port: 80, HTTP: true, Routes: []*route.Route{{Name: "default", Destinations: []route.Weighted{{Cluster: "gone"}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	conf := &Config{Table: table, DefaultPort: 80, Clusters: clusters, AllowAny: true, Dialer: set, Self: &proxy.Party{},
		Address: netip.MustParseAddr("127.0.0.1"), ConnectTimeout: 2 * time.Second,
		Forbids: func(a netip.AddrPort) bool { return a.Addr().IsLinkLocalUnicast() || a.Port() == 15020 }}
	if change != nil {
		change(conf)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{t: t, addr: ln.Addr().String()}
	l.l = New(ln, l, conf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = l.l.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done; set.Update(nil) })
	return l
}

// ask sends bytes on a new connection and reads one answer.
func (l *listener) ask(send string) (int, string) {
	l.t.Helper()
	c := l.dial()
	_, _ = io.WriteString(c, send)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		l.t.Fatalf("%q: %v", send, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (l *listener) dial() net.Conn {
	l.t.Helper()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func program(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.RequestURI)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestTargets(t *testing.T) {
	target := program(t)
	l := open(t, target, nil)
	for _, tt := range []struct {
		send string
		code int
		body string
	}{
		{"GET http://api.shop/a HTTP/1.1\r\nHost: api.shop\r\n\r\n", 200, "GET api.shop /a"},
		{"GET http://api.shop:80/a HTTP/1.1\r\nHost: other\r\n\r\n", 200, "GET api.shop:80 /a"},
		{"GET /a?b HTTP/1.1\r\nHost: api.shop\r\n\r\n", 200, "GET api.shop /a?b"},
		{"GET http://api.shop:9000/ HTTP/1.1\r\nHost: x\r\n\r\n", 404, "port 9000 of api.shop is not declared HTTP"},
		{"GET http://none.shop/ HTTP/1.1\r\nHost: x\r\n\r\n", 503, "no healthy upstream"},
		{"GET http://" + target + "/u HTTP/1.1\r\nHost: x\r\n\r\n", 200, "GET " + target + " /u"},
		{"GET http://127.0.0.1:15020/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "127.0.0.1:15020"},
		{"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "169.254.169.254:80"},
		{"GET http://[fe80::1]/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "[fe80::1]:80"},
		{"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n", 403, "169.254.169.254:80"},
		{"GET http://localhost:15020/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, "localhost:15020"},
		{"GET http://nowhere.invalid/ HTTP/1.1\r\nHost: x\r\n\r\n", 503, "could not be resolved"},
		{"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n", 503, "connection failure"},
		{"GET / HTTP/1.0\r\n\r\n", 400, "bad request"},
		{"GET /%zz HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400, "bad path"},
	} {
		if code, body := l.ask(tt.send); code != tt.code || !strings.Contains(body, tt.body) {
			t.Errorf("%q: %d %q, want %d %q", tt.send, code, body, tt.code, tt.body)
		}
	}
}

// What the registry does not know is counted, never by name.
func TestUnknownHosts(t *testing.T) {
	target := program(t)
	l := open(t, target, nil)
	l.ask("GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if r := l.last(); r.Service.Service != passthrough || r.UpstreamCluster != passthrough || r.UpstreamHost.String() != target {
		t.Errorf("recorded %+v", r)
	}
	l = open(t, target, func(c *Config) { c.AllowAny = false })
	for _, send := range []string{"GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"} {
		if code, body := l.ask(send); code != 502 || !strings.Contains(body, strconv.Quote(target)) {
			t.Errorf("%q: %d %q", send, code, body)
		}
		if r := l.last(); r.Service.Service != blackHole || r.UpstreamCluster != blackHole {
			t.Errorf("recorded %+v", r)
		}
	}
	l = open(t, target, func(c *Config) { c.Forbids = nil }) // nobody said where not to go: nowhere, then
	if code, _ := l.ask("GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n"); code != 403 {
		t.Errorf("without Forbids: %d", code)
	}
}

// greeter greets, echoes, and says goodbye when the client has finished.
func greeter(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, "banner ")
				_, _ = io.Copy(c, c)
				_, _ = io.WriteString(c, " bye")
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestTCP(t *testing.T) {
	target := greeter(t)
	l := open(t, target, func(c *Config) {
		c.Kind, c.Destinations, c.Service = TCP, []route.Weighted{{Cluster: cluster}}, &proxy.Destination{Service: "api.shop"}
	})
	c := l.dial()
	_, _ = io.WriteString(c, "words")
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "banner words bye" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if r := l.last(); !r.TCP || r.BytesReceived != 5 || r.BytesSent != 16 || r.Service.Service != "api.shop" || r.UpstreamCluster != cluster {
		t.Errorf("recorded %+v", r)
	}
	l = open(t, target, func(c *Config) { c.Kind = TCP }) // no service: closed, with a flag
	if b, _ := io.ReadAll(l.dial()); len(b) > 0 {
		t.Errorf("got %q", b)
	}
	if r := l.last(); r.Flag != "UH" {
		t.Errorf("recorded %+v", r)
	}
}

func TestConnect(t *testing.T) {
	target := greeter(t)
	l := open(t, target, nil)
	// Port 81 has an endpoint that refuses: the other one is tried.
	for _, authority := range []string{"api.shop:80", "api.shop:9000", "api.shop:81", "api.shop:81", target} {
		c := l.dial()
		_, _ = io.WriteString(c, "CONNECT "+authority+" HTTP/1.1\r\nHost: x\r\n\r\nearly")
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); string(b) != "HTTP/1.1 200 OK\r\n\r\nbanner early bye" || err != nil {
			t.Errorf("%s: %q, %v", authority, b, err)
		}
	}
	l = open(t, target, func(c *Config) { c.Kind = HTTP })
	if code, _ := l.ask("CONNECT api.shop:80 HTTP/1.1\r\nHost: x\r\n\r\n"); code != 404 {
		t.Errorf("CONNECT to an HTTP listener: %d", code)
	}
}

func TestAnswersByItself(t *testing.T) {
	l := open(t, "127.0.0.1:1", func(c *Config) {
		table, err := route.NewTable([]*route.VirtualHost{{Host: "api.shop", Port: 80, HTTP: true, Routes: []*route.Route{
			{Name: "direct", Action: route.Direct, Direct: &route.Response{Status: 418, Body: []byte("tea")}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		c.Table = table
	})
	if code, body := l.ask("GET / HTTP/1.1\r\nHost: api.shop\r\n\r\n"); code != 418 || body != "tea" {
		t.Errorf("%d %q", code, body)
	}
	if r := l.last(); r.RouteName != "direct" || r.Detail != "direct_response" {
		t.Errorf("recorded %+v", r)
	}
	l.l.Swap(&Config{Self: &proxy.Party{}}) // the next request is judged by what is in force then
	if code, _ := l.ask("GET / HTTP/1.1\r\nHost: api.shop\r\n\r\n"); code != 502 {
		t.Errorf("after the swap: %d", code)
	}
}

func TestOnThisHost(t *testing.T) {
	for _, tc := range []struct {
		local, remote string
		ok            bool
	}{
		{"10.9.9.9", "10.9.9.9", true}, {"127.0.20.1", "127.0.0.1", true}, {"10.9.9.9", "127.0.0.1", true}, {"::1", "::1", true},
		{"10.9.9.9", "10.9.9.8", false}, {"10.9.9.9", "192.0.2.1", false}, {"fe80::2", "2001:db8::1", false},
	} {
		if err := onThisHost(netip.MustParseAddr(tc.local), netip.MustParseAddr(tc.remote)); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc, err)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if err := onThisHost(netip.MustParseAddr("10.9.9.9"), ip.Unmap()); err != nil {
			t.Errorf("an address of this host: %v", err)
		}
	}
}
