package upstream

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
)

// transports are a server and an endpoint of each kind.
func transports(t *testing.T) map[string]func(t *testing.T, opts Options) (*server, *Endpoint) {
	m := newMesh(t)
	return map[string]func(t *testing.T, opts Options) (*server, *Endpoint){
		"mtls": func(t *testing.T, opts Options) (*server, *Endpoint) {
			s := serve(t, "tcp", "127.0.10.2:0", m.as(t, "cart"))
			return s, only(newSet(t, m.src, opts), spec(target(t, s)))
		},
		"tcp": func(t *testing.T, opts Options) (*server, *Endpoint) {
			s := serve(t, "tcp", "127.0.0.1:0", nil)
			return s, only(newSet(t, m.src, opts), Spec{Name: "inbound|80||", Targets: []Target{{Address: s.Addr().String()}}})
		},
		"unix": func(t *testing.T, opts Options) (*server, *Endpoint) {
			path := filepath.Join(t.TempDir(), "s")
			s := serve(t, "unix", path, nil)
			return s, only(newSet(t, m.src, opts), Spec{Name: "inbound|80||", Targets: []Target{{Address: "unix://" + path}}})
		},
	}
}

func TestReuse(t *testing.T) {
	for kind, make := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			s, e := make(t, Options{})
			first := acquire(t, e)
			if first.Reused() || e.Stats() != (Stats{Active: 1, Connects: 1}) {
				t.Errorf("reused %v, %+v", first.Reused(), e.Stats())
			}
			second := acquire(t, e)
			first.Release()
			second.Release()
			second.Release() // a second end of a loan does nothing
			if e.Stats() != (Stats{Idle: 2, Connects: 2}) {
				t.Errorf("%+v", e.Stats())
			}
			again := acquire(t, e)
			if again != second || !again.Reused() {
				t.Error("not the connection released last")
			}
			again.Discard()
			dialled, f := e.Dial(context.Background(), time.Time{})
			if f != nil || dialled.Reused() {
				t.Errorf("Dial: %v", f)
			}
			dialled.Release()
			eventually(t, "three connections in all", func() bool { return s.accepted.Load() == 3 })
			if e.Stats() != (Stats{Idle: 2, Connects: 3}) {
				t.Errorf("%+v", e.Stats())
			}
		})
	}
}

// A connection that the server closed while it was idle is never used for a request.
func TestStaleConnections(t *testing.T) {
	for kind, make := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			s, e := make(t, Options{})
			a, b := acquire(t, e), acquire(t, e)
			a.Release()
			b.Release()
			s.hangUp()
			time.Sleep(checkAfter + 20*time.Millisecond)
			c := acquire(t, e)
			if c.Reused() || e.Stats() != (Stats{Active: 1, Connects: 3}) {
				t.Errorf("reused %v, %+v", c.Reused(), e.Stats())
			}
			c.Release()
			time.Sleep(checkAfter + 20*time.Millisecond)
			if c = acquire(t, e); !c.Reused() {
				t.Error("one that is alive was not used")
			}
			c.Release()
		})
	}
}

// Bytes that nobody asked for would be taken for the next response.
func TestUnexpectedBytes(t *testing.T) {
	for kind, make := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			s, e := make(t, Options{})
			acquire(t, e).Release()
			s.shout(t, "HTTP/1.1 200 forged\r\n")
			time.Sleep(checkAfter + 20*time.Millisecond)
			c := acquire(t, e)
			if c.Reused() {
				t.Error("a connection with unexpected bytes was used")
			}
			c.Release()
		})
	}
}

// What TLS has decrypted already is not seen on the socket.
func TestUnexpectedBytesInTLS(t *testing.T) {
	_, e := transports(t)["mtls"](t, Options{})
	c, f := e.Acquire(context.Background(), time.Time{})
	if f != nil {
		t.Fatal(f)
	}
	if _, err := c.Write([]byte("0123456789\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(c.Buf[:4]); err != nil {
		t.Fatal(err)
	}
	c.Release()
	if e.Stats() != (Stats{Connects: 1}) {
		t.Errorf("%+v: it was kept", e.Stats())
	}
}

func TestReleaseClearsDeadlines(t *testing.T) {
	_, e := transports(t)["mtls"](t, Options{})
	c := acquire(t, e)
	if err := c.SetDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	c.Release()
	time.Sleep(40 * time.Millisecond)
	if c = acquire(t, e); !c.Reused() {
		t.Error("not reused")
	}
	c.Release()
}

func TestBuffers(t *testing.T) {
	_, e := transports(t)["tcp"](t, Options{})
	c := acquire(t, e)
	if len(c.Buf) != readBuffer {
		t.Errorf("starts with %d bytes", len(c.Buf))
	}
	c.Buf = make([]byte, 1<<20)
	c.Release()
	if cap(c.Buf) > keptBuffer {
		t.Errorf("an idle connection keeps %d bytes", cap(c.Buf))
	}
}

func TestIdleBoundAndAge(t *testing.T) {
	_, e := transports(t)["tcp"](t, Options{MaxIdlePerEndpoint: 2})
	conns := []*Conn{acquire(t, e), acquire(t, e), acquire(t, e)}
	for _, c := range conns {
		c.Release()
	}
	if e.Stats().Idle != 2 {
		t.Errorf("%+v", e.Stats())
	}
	_, e = transports(t)["tcp"](t, Options{MaxAge: time.Millisecond})
	c := acquire(t, e)
	time.Sleep(3 * time.Millisecond)
	c.Release()
	if e.Stats().Idle != 0 {
		t.Errorf("%+v: kept beyond its age", e.Stats())
	}
}

func TestRunClosesIdleConnections(t *testing.T) {
	m := newMesh(t)
	s := serve(t, "tcp", "127.0.0.1:0", m.as(t, "cart"))
	set := NewSet(m.src, Options{IdleTimeout: 40 * time.Millisecond})
	e := only(set, spec(target(t, s)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()

	busy := acquire(t, e)
	acquire(t, e).Release()
	eventually(t, "the idle connection is closed", func() bool { return e.Stats().Idle == 0 })
	say(t, busy) // busy ones are left alone
	acquire(t, e).Release()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if e.Stats().Idle != 0 {
		t.Errorf("%+v after Run", e.Stats())
	}
	busy.Release()
	if e.Stats() != (Stats{Connects: 3}) {
		t.Errorf("%+v: it came back after Run", e.Stats())
	}
	if late := only(set, spec(target(t, s), target(t, s))); late.pool != e.pool {
		t.Error("a new pool after Run")
	}
}

func TestRunFindsWhatServersClosed(t *testing.T) {
	s, e := transports(t)["tcp"](t, Options{IdleTimeout: 400 * time.Millisecond})
	acquire(t, e).Release()
	s.hangUp()
	e.pool.sweep(time.Now().Add(checkAfter + time.Millisecond))
	if e.Stats().Idle != 0 {
		t.Errorf("%+v", e.Stats())
	}
}

func TestUpdate(t *testing.T) {
	m := newMesh(t)
	s := serve(t, "tcp", "127.0.10.2:0", m.as(t, "cart"))
	other := serve(t, "tcp", "127.0.10.3:0", m.as(t, "cart"))
	set := newSet(t, m.src, Options{})
	before := only(set, spec(target(t, s)))
	acquire(t, before).Release()

	kept := spec(target(t, s), target(t, other))
	kept.Policy, kept.ConnectTimeout, kept.Targets[0].Weight, kept.Targets[0].Party = RoundRobin, time.Second, 3, &proxy.Party{Workload: "cart"}
	after := only(set, kept)
	if c := acquire(t, after); !c.Reused() || after.Party().Workload != "cart" {
		t.Error("policy, weights and names are no reason for a new pool")
	} else {
		c.Release()
	}
	for what, change := range map[string]func(*Spec){
		"expectation": func(sp *Spec) { sp.Targets[0].Expect = []identity.ID{name(t, "cart"), name(t, "cart2")} },
		"address":     func(sp *Spec) { sp.Targets[0].Address = other.Addr().String() },
		"local":       func(sp *Spec) { sp.Local = netip.MustParseAddr("127.0.10.9") },
		"sni":         func(sp *Spec) { sp.SNI = "other" },
		"alpn":        func(sp *Spec) { sp.ALPN = "istio" },
		"no mtls":     func(sp *Spec) { sp.Targets[0].MTLS = false },
		"gone":        func(sp *Spec) { sp.Name = "outbound|80||other.shop"; sp.Targets[0].Weight = 1 },
	} {
		t.Run(what, func(t *testing.T) {
			old := only(set, spec(target(t, s)))
			busy := acquire(t, old)
			acquire(t, old).Release()
			changed := spec(target(t, s))
			change(&changed)
			if e := only(set, changed); e.pool == old.pool {
				t.Error("the pool was kept")
			}
			if got := old.Stats(); got.Idle != 0 || got.Active != 1 {
				t.Errorf("%+v: not drained", got)
			}
			say(t, busy)
			busy.Release()
			acquire(t, old).Release() // a request that began under the old configuration still ends
			if got := old.Stats(); got.Idle != 0 || got.Active != 0 {
				t.Errorf("%+v: a drained pool took a connection back", got)
			}
		})
	}
}

func TestDialPlain(t *testing.T) {
	s := serve(t, "tcp", "127.0.0.1:0", nil)
	set := newSet(t, newMesh(t).src, Options{})
	address := netip.MustParseAddrPort(s.Addr().String())
	c, f := set.DialPlain(context.Background(), time.Time{}, address, netip.MustParseAddr("127.0.10.1"), 0)
	if f != nil {
		t.Fatal(f)
	}
	say(t, c)
	if c.Remote() != address || c.Local().Addr().String() != "127.0.10.1" || c.Peer().Proven() {
		t.Errorf("from %v to %v", c.Local(), c.Remote())
	}
	c.Release()
	if _, err := c.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Release: %v", err)
	}
}

func TestReuseDoesNotAllocate(t *testing.T) {
	allowed := map[string]float64{"mtls": 1} // crypto/tls's own, in a read that finds nothing
	for kind, make := range transports(t) {
		t.Run(kind, func(t *testing.T) {
			_, e := make(t, Options{})
			acquire(t, e).Release()
			c := newCluster(&Spec{}, []*Endpoint{e, e, e})
			ctx := context.Background()
			stale := e.pool.idle[0]
			if n := testing.AllocsPerRun(200, func() {
				stale.since = stale.since.Add(-2 * checkAfter) // so that the socket is looked at
				got, f := c.Pick(nil).Acquire(ctx, time.Time{})
				if f != nil || got != stale {
					panic("not the idle connection")
				}
				got.Release()
			}); n > allowed[kind] {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func BenchmarkReuse(b *testing.B) {
	m := newMesh(b)
	s := serve(b, "tcp", "127.0.10.2:0", m.as(b, "cart"))
	e := only(newSet(b, m.src, Options{}), spec(target(b, s)))
	acquire(b, e).Release()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		c, _ := e.Acquire(ctx, time.Time{})
		c.Release()
	}
}

// Everything at once, for the race detector: no connection is ever lent twice.
func TestConcurrentUse(t *testing.T) {
	m := newMesh(t)
	s := serve(t, "tcp", "127.0.10.2:0", m.as(t, "cart"))
	set := newSet(t, m.src, Options{IdleTimeout: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var running, wg sync.WaitGroup
	running.Go(func() { _ = set.Run(ctx) })
	var cluster sync.Map
	cluster.Store(0, set.Update([]Spec{spec(target(t, s))}))
	for range 8 {
		wg.Go(func() {
			for i := range 60 {
				v, _ := cluster.Load(0)
				c, f := v.(map[string]*Cluster)["outbound|80||cart.shop"].Pick(nil).Acquire(ctx, time.Now().Add(5*time.Second))
				if f != nil {
					t.Error(f)
					return
				}
				say(t, c)
				if i%10 == 9 {
					c.Discard()
				} else {
					c.Release()
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			sp := spec(target(t, s))
			sp.SNI = []string{"a", "b"}[i/5%2]
			cluster.Store(0, set.Update([]Spec{sp}))
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	cancel()
	running.Wait()
}
