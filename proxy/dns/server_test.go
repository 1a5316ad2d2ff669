package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// freePort is one that nobody has, over UDP and TCP.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// resolver is a real name server with the handler's answers.
func resolver(t *testing.T, h dns.HandlerFunc) string {
	t.Helper()
	addr := freePort(t)
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &dns.Server{Addr: addr, Net: network, Handler: h, NotifyStartedFunc: func() { close(started) }}
		done := make(chan error, 1)
		go func() { done <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-done:
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return addr
}

// zone answers A queries from a map and the rest with NXDOMAIN.
func zone(hosts map[string]string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.TrimSuffix(q.Question[0].Name, ".")
		if a, ok := hosts[name]; ok && q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.ParseIP(a)})
		} else if !ok {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	}
}

func start(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	cfg.Listen, cfg.Log = append(cfg.Listen, addr, "[::1]:"+port), slog.New(slog.DiscardHandler)
	cfg.ClusterDomain = "cluster.local"
	s := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for range 500 {
		if c, err := net.Dial("tcp", "[::1]:"+port); err == nil {
			c.Close()
			return s, addr
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	t.Fatal("it never served")
	return nil, ""
}

func ask(t *testing.T, addr, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), addr)
	if err != nil {
		t.Fatalf("asking for %s over %s: %v", name, network, err)
	}
	return m
}

// addresses are those of an answer, or its code.
func addresses(m *dns.Msg) string {
	out := []string{}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		}
	}
	if m.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[m.Rcode]
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func single(a ...string) (out []netip.Prefix) {
	for _, s := range a {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestServer(t *testing.T) {
	up := resolver(t, zone(map[string]string{"www.example.org": "198.51.100.7", "both.example.com": "198.51.100.8", "db-0.db.shop.svc.cluster.local": "10.0.0.9"}))
	s, addr := start(t, Config{Resolvers: []string{up}})
	var a Assigner
	s.Set(NewTable(a.Fill(&mesh.View{Services: []*mesh.Service{
		{Host: "api.example.com"}, {Host: "both.example.com", Resolution: mesh.ByDNS},
		{Host: "cart.shop.svc.cluster.local", Kubernetes: true, Addresses: single("10.96.1.1/32", "fd00::1/128")},
		{Host: "db.shop.svc.cluster.local", Kubernetes: true, Resolution: mesh.Original},
		{Host: "*.wild.example.com", Addresses: single("192.0.2.8/32")}, {Host: "net.example.com", Addresses: single("10.7.0.0/16")},
		{Host: "four.example.com", Addresses: single("192.0.2.4/32", "192.0.2.5/32", "10.0.0.0/8")},
	}})))
	api := Assign([]string{"api.example.com", "both.example.com"})
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"api.example.com", dns.TypeA, api["api.example.com"][0].String()},
		{"API.example.COM", dns.TypeAAAA, api["api.example.com"][1].String()},
		{"both.example.com", dns.TypeA, api["both.example.com"][0].String()},
		{"cart.shop.svc.cluster.local", dns.TypeA, "10.96.1.1"}, {"cart.shop.svc.cluster.local", dns.TypeAAAA, "fd00::1"},
		{"a.b.wild.example.com", dns.TypeA, "192.0.2.8"}, {"wild.example.com", dns.TypeA, "NXDOMAIN"},
		{"four.example.com", dns.TypeA, "192.0.2.4 192.0.2.5"}, {"four.example.com", dns.TypeAAAA, ""},
		{"net.example.com", dns.TypeA, "NXDOMAIN"}, {"www.example.org", dns.TypeA, "198.51.100.7"}, {"no.example.org", dns.TypeA, "NXDOMAIN"},
		{"db-0.db.shop.svc.cluster.local", dns.TypeA, "10.0.0.9"}, {"api.example.com", dns.TypeHTTPS, ""}, {"no.example.org", dns.TypeMX, "NXDOMAIN"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := addresses(ask(t, addr, network, c.name, c.kind)); got != c.want {
				t.Errorf("%s %s over %s: %q, want %q", c.name, dns.TypeToString[c.kind], network, got, c.want)
			}
		}
	}
	// Go's own resolver, which asks for both types at once and reads resolv.conf's search list.
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	got, err := r.LookupHost(context.Background(), "cart.shop.svc.cluster.local")
	if slices.Sort(got); err != nil || !slices.Equal(got, []string{"10.96.1.1", "fd00::1"}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestDemand is a name that nobody asked for before, of the mesh and not.
func TestDemand(t *testing.T) {
	up := resolver(t, zone(map[string]string{"www.example.org": "198.51.100.7", "late.example.com": "198.51.100.9"}))
	var s *Server
	var mu sync.Mutex
	var asked []string
	demand := func(_ context.Context, name string) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, name)
		if name == "late.example.com" {
			s.Set(NewTable(new(Assigner).Fill(&mesh.View{Services: []*mesh.Service{{Host: name}}})))
			return nil
		}
		return errors.New("the control plane is away")
	}
	var used []string
	started, addr := start(t, Config{Resolvers: []string{up}, Demand: demand, Used: func(name string) {
		mu.Lock()
		defer mu.Unlock()
		used = append(used, name)
	}})
	mu.Lock()
	s = started
	mu.Unlock()
	if got, want := addresses(ask(t, addr, "udp", "Late.example.com", dns.TypeA)), Assign([]string{"late.example.com"})["late.example.com"][0].String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := addresses(ask(t, addr, "udp", "www.example.org", dns.TypeA)); got != "198.51.100.7" {
		t.Error(got)
	}
	for _, name := range []string{"www.example.org.shop.svc.cluster.local", "www.example.org.cluster.local", "localhost"} {
		ask(t, addr, "udp", name, dns.TypeA)
	}
	ask(t, addr, "udp", "pay.shop.svc.cluster.local", dns.TypeA)
	ask(t, addr, "udp", "LATE.example.com", dns.TypeAAAA)
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"late.example.com"}; !slices.Equal(used, want) {
		t.Errorf("used %q, want %q", used, want)
	}
	if want := []string{"late.example.com", "www.example.org", "pay.shop.svc.cluster.local"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

// TestResolversInTurn is one that is silent, one that fails and one that answers.
func TestResolversInTurn(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	failing := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	good := resolver(t, zone(map[string]string{"www.example.org": "198.51.100.7"}))
	_, addr := start(t, Config{Resolvers: []string{silent.LocalAddr().String(), failing, good}, Timeout: 100 * time.Millisecond})
	if got := addresses(ask(t, addr, "udp", "www.example.org", dns.TypeA)); got != "198.51.100.7" {
		t.Error(got)
	}
	_, none := start(t, Config{})
	if got := addresses(ask(t, none, "udp", "www.example.org", dns.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
}

// TestTruncated is an answer that fits no datagram: the client is told, and asks over TCP.
func TestTruncated(t *testing.T) {
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for i := range 200 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, 0, byte(i))})
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	})
	s, addr := start(t, Config{Resolvers: []string{up}})
	if m := ask(t, addr, "udp", "big.example.org", dns.TypeA); !m.Truncated {
		t.Error("a cut answer is not marked")
	}
	if m := ask(t, addr, "tcp", "big.example.org", dns.TypeA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("%v, %d answers", m.Truncated, len(m.Answer))
	}
	many := &mesh.Service{Host: "many.example.com"}
	for i := range 100 {
		many.Addresses = append(many.Addresses, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 32))
	}
	s.Set(NewTable(&mesh.View{Services: []*mesh.Service{many}}))
	if m := ask(t, addr, "udp", "many.example.com", dns.TypeA); !m.Truncated { // the client reads 512 bytes and no more
		t.Error("a cut answer is not marked")
	}
	if m := ask(t, addr, "tcp", "many.example.com", dns.TypeA); len(m.Answer) != 100 {
		t.Errorf("%d answers", len(m.Answer))
	}
}

// TestLoop is a resolver of the pod's own that sends here what it was asked from here.
func TestLoop(t *testing.T) {
	var back atomic.Pointer[string]
	var hops atomic.Int64
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		hops.Add(1)
		c := dns.Client{Timeout: 3 * time.Second}
		m, _, err := c.Exchange(q, *back.Load())
		if err != nil {
			m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		}
		_ = w.WriteMsg(m)
	})
	_, addr := start(t, Config{Resolvers: []string{up}})
	back.Store(&addr)
	if got := addresses(ask(t, addr, "udp", "round.example.org", dns.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
	if n := hops.Load(); n > MaxSame+1 {
		t.Errorf("%d hops", n)
	}
}

func TestMistakes(t *testing.T) {
	_, addr := start(t, Config{})
	c := dns.Client{Timeout: 2 * time.Second}
	two := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	if m, _, err := c.Exchange(two, addr); err != nil || m.Rcode != dns.RcodeFormatError {
		t.Errorf("two questions: %v, %v", m, err)
	}
	update := new(dns.Msg).SetUpdate("example.")
	if m, _, err := c.Exchange(update, addr); err != nil || m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("an update: %v, %v", m, err)
	}
	edns := new(dns.Msg).SetQuestion("a.example.", dns.TypeA).SetEdns0(4096, false)
	if m, _, err := c.Exchange(edns, addr); err != nil || m.IsEdns0() == nil {
		t.Errorf("EDNS: %v, %v", m, err)
	}
	u, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	fmt.Fprint(u, "not DNS at all")
	if got := addresses(ask(t, addr, "udp", "x.example", dns.TypeA)); got != "SERVFAIL" {
		t.Error(got)
	}
}
