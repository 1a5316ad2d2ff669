package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

const (
	vip   = "10.96.0.7" // of pay, whose port 80 is HTTP, 81 declares nothing and 9000 is TCP
	podIP = "10.1.0.9"
)

// captor is the captured listener of a pod that calls target, and what it asked its control plane.
type captor struct {
	*listener
	to     atomic.Pointer[netip.AddrPort]
	conf   Config
	mu     sync.Mutex
	asked  []string
	answer func(name string) error
}

func (c *captor) Demand(_ context.Context, name string) error {
	c.mu.Lock()
	c.asked = append(c.asked, name)
	c.mu.Unlock()
	return c.answer(name)
}

// names are those asked for.
func (c *captor) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func direct(cluster string) []*route.Route {
	return []*route.Route{{Name: "default", Destinations: []route.Weighted{{Cluster: cluster}}, Retry: route.DefaultRetry()}}
}

func openCaptor(t *testing.T, target string, change func(*Config)) *captor {
	t.Helper()
	c := &captor{answer: func(string) error { return nil }}
	out := open(t, target, func(conf *Config) {
		pay, ext := &proxy.Destination{Service: "pay"}, &proxy.Destination{Service: "ext"}
		conf.Clusters = upstreamSet(t).Update([]upstream.Spec{
			{Name: "pay", Destination: pay, Targets: []upstream.Target{{Address: target}}},
			{Name: "ext", Destination: ext, Targets: []upstream.Target{{Address: target}}},
			{Name: "none", Destination: ext, Original: true},
			{Name: passthrough, Original: true, Destination: &proxy.Destination{Service: passthrough}},
		})
		host := func(name string, port uint16, cluster string) *route.VirtualHost {
			return &route.VirtualHost{Host: name, Port: port, HTTP: port != 9000 && port != 443, Detect: port == 81, Routes: direct(cluster),
				Tunnel: []route.Weighted{{Cluster: cluster}}, Service: map[string]*proxy.Destination{"pay": pay, "ext": ext}[cluster]}
		}
		at := route.NewAddresses()
		for _, port := range []uint16{80, 81, 9000} {
			at.Add(netip.MustParsePrefix(vip+"/32"), port, host("pay", port, "pay"))
		}
		away := host("pay", 82, "none") // a route that leads to where calls go on as they were made, of another service
		away.Service = pay
		at.Add(netip.MustParsePrefix(vip+"/32"), 82, away)
		at.Complete = true
		hosts, err := route.NewTable([]*route.VirtualHost{host("api.example.com", 80, "ext"), host("db.example.com", 443, "ext")})
		if err != nil {
			t.Fatal(err)
		}
		conf.Kind = Captured
		conf.Capture = &Capture{Addresses: at, Hosts: hosts, Own: func(a netip.Addr) bool { return a == netip.MustParseAddr(podIP) }, Namespace: "shop", ClusterDomain: "cluster.local",
			Detection: 100 * time.Millisecond, Original: func(*net.TCPConn) (netip.AddrPort, error) { return *c.to.Load(), nil }}
		if change != nil {
			change(conf)
		}
		c.conf = *conf
	})
	c.listener = out
	return c
}

func upstreamSet(t *testing.T) *upstream.Set {
	set := upstream.NewSet(nil, upstream.Options{})
	t.Cleanup(func() { set.Update(nil) })
	return set
}

func (c *captor) at(to string) *captor {
	a := netip.MustParseAddrPort(to)
	c.to.Store(&a)
	return c
}

func TestOriginalDestination(t *testing.T) {
	target := program(t)
	c := openCaptor(t, target, nil)
	for _, tt := range []struct {
		to, host string
		code     int
		body     string
		service  string
	}{
		{vip + ":80", "api.example.com", 200, "GET api.example.com /x", "pay"}, // the Host field changes nothing
		{vip + ":81", "pay", 200, "GET pay /x", "pay"},
		{"93.184.216.34:80", "api.example.com", 200, "GET api.example.com /x", "ext"},
		{"93.184.216.34:80", "api.example.com:80", 200, "GET", "ext"},
		{target, "whoever.example.com", 200, "GET whoever.example.com /x//y", passthrough}, // as it came
		{target, "api.example.com", 200, "GET api.example.com", passthrough},               // another port
		{vip + ":82", "pay", 503, "no healthy upstream", "ext"},                            // not to the address that was called
	} {
		code, body := c.at(tt.to).ask("GET /x//y HTTP/1.1\r\nHost: " + tt.host + "\r\n\r\n")
		if r := c.last(); code != tt.code || !strings.Contains(body, tt.body) || r.Service.Service != tt.service {
			t.Errorf("%s for %s: %d %q by %s", tt.to, tt.host, code, body, r.Service.Service)
		}
	}
}

func TestCapturedTCP(t *testing.T) {
	echo := echoer(t)
	c := openCaptor(t, echo, nil)
	for _, tt := range []struct{ to, send, service string }{
		{vip + ":9000", "GET / HTTP/1.1\r\n\r\n", "pay"},
		{vip + ":81", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "pay"},
		{echo, "CONNECT a:443 HTTP/1.1\r\n\r\n", passthrough},
		{echo, "GET http://a/ HTTP/1.1\r\n\r\n", passthrough}, // for an HTTP proxy
		{echo, "\x00\x01", passthrough},
	} {
		conn := c.at(tt.to).dial()
		_, _ = io.WriteString(conn, tt.send)
		got := make([]byte, len(tt.send))
		if _, err := io.ReadFull(conn, got); string(got) != tt.send {
			t.Errorf("%s: %q %v", tt.to, got, err)
		}
		conn.Close()
		if r := c.last(); r.Service.Service != tt.service || !r.TCP {
			t.Errorf("%s: recorded %+v", tt.to, r)
		}
	}
	// The server name decides where the address means nothing.
	conn := c.at("93.184.216.34:443").dial()
	_ = tls.Client(conn, &tls.Config{ServerName: "db.example.com"}).Handshake() // it fails: the server echoes
	conn.Close()
	if r := c.last(); r.Service.Service != "ext" || r.BytesSent == 0 {
		t.Errorf("by server name: %+v", r)
	}
}

func TestRegistryOnly(t *testing.T) {
	target := program(t)
	c := openCaptor(t, target, func(conf *Config) { conf.AllowAny = false })
	if code, body := c.at(target).ask("GET / HTTP/1.1\r\nHost: x.example.com\r\n\r\n"); code != 502 || !strings.Contains(body, "REGISTRY_ONLY") || !strings.Contains(body, target) {
		t.Errorf("%d %q", code, body)
	}
	if r := c.last(); r.Service.Service != blackHole || r.UpstreamCluster != blackHole {
		t.Errorf("recorded %+v", r)
	}
	conn := c.at(target).dial()
	_, _ = io.WriteString(conn, "\x00\x01")
	if b, _ := io.ReadAll(conn); len(b) > 0 {
		t.Errorf("%q", b)
	}
	if r := c.last(); r.Flag != "UH" || r.UpstreamCluster != blackHole || !r.TCP {
		t.Errorf("recorded %+v", r)
	}
}

func TestDemand(t *testing.T) {
	target := program(t)
	c := openCaptor(t, target, nil)
	known := c.conf.Capture.Addresses
	conf, capture := c.conf, *c.conf.Capture
	conf.Capture, capture.Demand = &capture, c
	at, none := *route.NewAddresses(), (*route.Table)(nil)
	capture.Addresses, capture.Hosts, capture.Asked = &at, none, map[string]mesh.Answer{}
	c.l.Swap(&conf)
	away := errors.New("nobody answers")
	c.answer = func(string) error { return away }
	for _, to := range []string{vip + ":80", target} { // whoever has that address: nothing leaves in plaintext
		if code, body := c.at(to).ask("GET / HTTP/1.1\r\nHost: pay\r\n\r\n"); code != 503 || !strings.Contains(body, "nobody answers") {
			t.Errorf("%s: %d %q", to, code, body)
		}
		c.last()
		conn := c.dial()
		_, _ = io.WriteString(conn, "\x00")
		if b, _ := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("%s: %q", to, b)
		}
		c.last()
	}
	// With an answer the call goes on, by the configuration that came with it.
	c.answer = func(name string) error {
		next, all := conf, capture
		next.Capture, all.Addresses, all.Asked = &all, known, map[string]mesh.Answer{name: {}}
		c.l.Swap(&next)
		return nil
	}
	c.mu.Lock()
	c.asked = nil
	c.mu.Unlock()
	if code, body := c.at(vip + ":80").ask("GET / HTTP/1.1\r\nHost: whatever\r\n\r\n"); code != 200 {
		t.Errorf("%d %q", code, body)
	}
	if got := strings.Join(c.names(), " "); got != vip {
		t.Errorf("asked %s", got)
	}
	if c.ask("GET / HTTP/1.1\r\nHost: whatever\r\n\r\n"); len(c.names()) != 1 {
		t.Errorf("asked %v for what is known", c.names())
	}
}

func TestHostForms(t *testing.T) {
	c := &Capture{Namespace: "shop", ClusterDomain: "cluster.local", Asked: map[string]mesh.Answer{"db.example.com": {}, "pay.shop.svc.cluster.local": {}}}
	for host, want := range map[string]string{
		"db.example.com":         "",
		"DB.Example.com.:5432":   "",
		"www.example.com:80":     "www.example.com",
		"pay":                    "", // in full it was asked for
		"cart":                   "cart.shop.svc.cluster.local",
		"cart.eu":                "cart.eu cart.eu.svc.cluster.local",
		"cart.eu.svc":            "cart.eu.svc.cluster.local",
		"10.0.0.1":               "",
		"[::1]:80":               "",
		"a b":                    "",
		"":                       "",
		"x_y.example.com":        "x_y.example.com",
		strings.Repeat("a", 300): "",
	} {
		if got := strings.Join(c.unasked(host), " "); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

func TestNotCaptured(t *testing.T) {
	c := openCaptor(t, program(t), nil)
	for _, to := range []string{c.addr, podIP + ":15020", "127.0.0.1:15000", podIP + ":15006"} {
		conn := c.at(to).dial()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if b, _ := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("%s answers %q", to, b)
		}
	}
	s := &session{remote: netip.MustParseAddrPort("10.1.0.10:4000")}
	if err := c.conf.Capture.admit(s, nil); err == nil || !strings.Contains(err.Error(), "no address of this pod") {
		t.Errorf("a caller from elsewhere: %v", err)
	}
}

// Finding where a request goes takes no memory once the answer is there.
func TestCalledDoesNotAllocate(t *testing.T) {
	c := openCaptor(t, program(t), nil)
	capture := *c.conf.Capture
	capture.Demand, capture.Asked = c, map[string]mesh.Answer{"www.example.com": {}}
	capture.Uses, capture.UsesAt = map[string]*mesh.LastUse{}, map[netip.Addr]*mesh.LastUse{}
	conf := c.conf
	conf.Capture = &capture
	c.l.Swap(&conf)
	for _, to := range []string{vip + ":80", "93.184.216.34:80"} {
		at := netip.MustParseAddrPort(to)
		s := &session{l: c.l, life: t.Context(), to: at}
		var clock atomic.Uint64
		by, called := mesh.NewLastUse(&clock), mesh.NewLastUse(&clock)
		capture.Uses["www.example.com"], capture.UsesAt[at.Addr()] = by, called
		if v, _ := capture.Addresses.Lookup(at); v != nil {
			capture.Uses[v.Host] = called
		}
		defer func() { // what is found by address is not looked for by name
			if now := clock.Load(); called.Last() != now || (by.Last() == now) != (to != vip+":80") {
				t.Errorf("%s: used at %d of %d, by name at %d", to, called.Last(), now, by.Last())
			}
		}()
		if n := testing.AllocsPerRun(100, func() {
			clock.Add(1)
			if _, _, fail := s.calledHost("www.example.com:80"); fail != nil {
				panic(fail)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", to, n)
		}
	}
	if len(c.names()) > 0 {
		t.Errorf("asked %v", c.names())
	}
}

// echoer sends back what it gets.
func echoer(t *testing.T) string {
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
			wg.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}
