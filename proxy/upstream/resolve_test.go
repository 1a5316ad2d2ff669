package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/signet-mesh/signet/proxy"
)

// book answers for names, as a test turns its pages.
type book struct {
	mu    sync.Mutex
	addrs map[string][]netip.Addr
	asked atomic.Int64
}

var errNoName = errors.New("no such name")

func (b *book) lookup(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
	b.asked.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.addrs[host]; a != nil {
		return a, time.Second, nil
	}
	return nil, 0, errNoName
}

func (b *book) set(host string, addrs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs[host] = nil
	for _, a := range addrs {
		b.addrs[host] = append(b.addrs[host], netip.MustParseAddr(a))
	}
}

func addressesOf(c *Cluster) []string {
	var out []string
	for _, e := range c.Endpoints() {
		out = append(out, e.Address())
	}
	return out
}

func TestResolve(t *testing.T) {
	b := &book{addrs: map[string][]netip.Addr{}}
	b.set("db.example.com", "127.0.9.2", "127.0.9.1", "0.0.0.0", "127.0.9.1", "127.0.9.5")
	set := NewSet(nil, Options{Lookup: b.lookup, Forbids: func(a netip.AddrPort) bool { return a.String() == "127.0.9.5:5432" }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = set.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	spec := Spec{Name: "outbound|5432||db.example.com", Resolve: true, Targets: []Target{{Address: "DB.example.com:5432"}, {Address: "127.0.9.9:1"}}}
	c := set.Update([]Spec{spec})[spec.Name]
	if !c.Await(ctx) {
		t.Fatal("the first answer is not waited for")
	}
	first := []string{"127.0.9.1:5432", "127.0.9.2:5432", "127.0.9.9:1"}
	if got := addressesOf(c); !slices.Equal(got, first) {
		t.Fatalf("%v", got)
	}
	due := func() { // as if the records had expired
		set.mu.Lock()
		set.names.known["db.example.com"].due = time.Time{}
		set.mu.Unlock()
		asked := b.asked.Load()
		for end := time.Now().Add(5 * time.Second); b.asked.Load() == asked && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.set("db.example.com", "127.0.9.2", "127.0.9.3")
	due()
	kept := c.Endpoints()[0].pool
	if got := addressesOf(c); !slices.Equal(got, []string{"127.0.9.2:5432", "127.0.9.3:5432", "127.0.9.9:1"}) {
		t.Errorf("after a change: %v", got)
	}
	b.mu.Lock()
	delete(b.addrs, "db.example.com")
	b.mu.Unlock()
	due()
	if got := addressesOf(c); len(got) != 3 {
		t.Errorf("without an answer: %v", got)
	}
	c = set.Update([]Spec{spec})[spec.Name] // another configuration of the same name starts from what is known
	if e := c.Endpoints(); len(e) != 3 || e[0].pool != kept {
		t.Errorf("over a configuration: %v", addressesOf(c))
	}
	set.Update(nil)
	if len(set.names.known) != 0 || len(set.pools) != 0 {
		t.Errorf("a name that nobody has is kept: %v", set.names.known)
	}
}

func TestResolveNothing(t *testing.T) {
	b := &book{}
	set := NewSet(nil, Options{Lookup: b.lookup})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = set.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	c := set.Update([]Spec{{Name: "x", Resolve: true, Targets: []Target{{Address: "gone.example.com:80"}}}})["x"]
	if c.Await(ctx) || c.Pick(nil) != nil {
		t.Error("an endpoint of a name without addresses")
	}
}

// TestLookup asks a real server, which answers A records with a CNAME before them and truncates over UDP.
func TestLookup(t *testing.T) {
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if w.RemoteAddr().Network() == "udp" {
			m.Truncated = true
		} else if q.Question[0].Qtype == dns.TypeA {
			cname, _ := dns.NewRR(q.Question[0].Name + " 300 IN CNAME real.example.com.")
			a, _ := dns.NewRR("real.example.com. 40 IN A 127.0.9.7")
			m.Answer = []dns.RR{cname, a}
		}
		_ = w.WriteMsg(m)
	})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: answer}, {Listener: ln, Handler: answer}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-up
		defer func() { _ = s.Shutdown(); <-done }()
	}
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	conf := &dns.ClientConfig{Servers: []string{"127.0.0.1"}, Port: port}
	addrs, ttl, err := query(t.Context(), conf, "db.example.com.", dns.TypeA)
	if err != nil || ttl != 40*time.Second || !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("127.0.9.7")}) {
		t.Errorf("%v %v %v", addrs, ttl, err)
	}
}

func TestOriginal(t *testing.T) {
	set := NewSet(nil, Options{})
	specs := []Spec{
		{Name: "any", Original: true, Template: Target{Party: &proxy.Party{Workload: "w"}}},
		{Name: "headless", Original: true, Targets: []Target{{Address: "127.0.9.1:80"}, {Address: "127.0.9.2:80"}}},
	}
	clusters := set.Update(specs)
	to := netip.MustParseAddrPort("127.0.9.4:99")
	e := clusters["any"].PickFor(to, nil)
	if e == nil || e.AddrPort() != to || e.Party().Workload != "w" {
		t.Fatalf("%v", e)
	}
	if again := clusters["any"].PickFor(to, []*Endpoint{e}); again != e {
		t.Error("a call goes to another address when it is tried again")
	}
	if e := clusters["any"].PickFor(netip.AddrPort{}, nil); e != nil {
		t.Errorf("a call to no address goes to %v", e.Address())
	}
	if e := clusters["headless"].PickFor(netip.MustParseAddrPort("127.0.9.2:80"), nil); e.Address() != "127.0.9.2:80" {
		t.Errorf("a call to a pod goes to %v", e.Address())
	}
	if e := clusters["headless"].PickFor(to, nil); e == nil || e.AddrPort() == to {
		t.Errorf("a call that was made elsewhere goes to %v", e)
	}
	if next := set.Update(specs)["any"].PickFor(to, nil); next.pool != e.pool {
		t.Error("connections are not kept over a configuration")
	}
	any := clusters["any"]
	if n := testing.AllocsPerRun(100, func() { any.PickFor(to, nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	for port := range uint16(3 * maxOriginals) {
		clusters["any"].PickFor(netip.AddrPortFrom(to.Addr(), port+1), nil)
	}
	if n := len(clusters["any"].original.all()); n > maxOriginals {
		t.Errorf("%d addresses are kept", n)
	}
	set.Update(nil)
	if len(set.originals) != 0 || !clusters["any"].original.ended {
		t.Error("an Original cluster outlives its configuration")
	}
}
