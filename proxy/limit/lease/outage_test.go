package lease

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// patience is the 5 ms that a request may wait, and what a busy machine adds.
const patience = waitMax + 95*time.Millisecond

// outage asks for many keys while a store is away, until that is known: no request waits for it, and it is said at once.
func outage(t *testing.T, p *proxy, b *limit.Bucket) {
	t.Helper()
	var waited int
	for i, end := 0, time.Now().Add(5*time.Second); state(p.state.Load()) != lost; i++ {
		began := time.Now()
		_, ok := p.Take(t.Context(), b, limit.Key{byte(i), byte(i >> 8), byte(i >> 16), 2})
		d := time.Since(began)
		if ok || d > patience {
			t.Fatalf("request %d: ok is %v after %s", i, ok, d)
		}
		if d > waitMax/2 {
			waited++
		}
		if time.Now().After(end) {
			t.Fatal("nobody noticed that the store is away")
		}
		time.Sleep(100 * time.Microsecond)
	}
	if waited > 30 { // one, and what else a busy machine makes of it
		t.Errorf("%d requests waited before it was known", waited)
	}
	began := time.Now()
	for i := range 10_000 {
		if _, ok := p.Take(t.Context(), b, limit.Key{byte(i), byte(i >> 8), 3}); ok {
			t.Fatal("an answer without a store")
		}
	}
	if d := time.Since(began); d > 10_000*waitMax/10 {
		t.Errorf("10,000 requests took %s while it was known", d)
	}
}

// mended waits until the store is there again and answers.
func mended(t *testing.T, p *proxy, b *limit.Bucket) {
	t.Helper()
	p.is(t, up, 1)
	eventually(t, 2*time.Second, func() string {
		if g, ok := p.Take(t.Context(), b, limit.Key{4}); !ok || !g.Allowed {
			return fmt.Sprintf("after it was mended: %+v, %v", g, ok)
		}
		return ""
	})
	if s := p.Status(); s.Error != "" {
		t.Errorf("there, but with the error %q", s.Error)
	}
}

func asRoot(t *testing.T, s *server, args ...any) {
	c := redis.NewClient(&redis.Options{Addr: s.addr(), Password: "x"})
	defer c.Close()
	if err := c.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	do := func(args ...any) func(*testing.T, *server) {
		return func(t *testing.T, s *server) {
			if err := s.client().Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name, says  string
		break_, fix func(*testing.T, *server)
	}{
		{"hangs", "no answer within 500ms", func(_ *testing.T, s *server) { s.signal(syscall.SIGSTOP) }, func(_ *testing.T, s *server) { s.signal(syscall.SIGCONT) }},
		{"dies", "", func(_ *testing.T, s *server) { s.kill() }, func(_ *testing.T, s *server) { s.start() }},
		{"becomes a replica", "", do("REPLICAOF", "127.0.0.1", "1"), do("REPLICAOF", "NO", "ONE")},
		{"is full", "OOM", do("CONFIG", "SET", "maxmemory", "1"), do("CONFIG", "SET", "maxmemory", "0")},
		{"wants a password", "NOAUTH", func(t *testing.T, s *server) {
			do("CONFIG", "SET", "requirepass", "x")(t, s)
			asRoot(t, s, "CLIENT", "KILL", "TYPE", "NORMAL")
		}, func(t *testing.T, s *server) { asRoot(t, s, "CONFIG", "SET", "requirepass", "") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t)
			p := run(t, "one", r.store())
			p.is(t, up, 1)
			b := rate(1e6, 1e6, time.Second)
			p.take(t, b, 100)
			tc.break_(t, r)
			outage(t, p, b)
			if s := p.Status(); s.State != "away" || s.Error == "" || !strings.Contains(s.Error, tc.says) {
				t.Errorf("status %+v", s)
			}
			tc.fix(t, r)
			mended(t, p, b)
		})
	}
}

// TestCutOff: connections stay open but nothing passes any more, as when a network drops packets.
func TestCutOff(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	w := newWire(t, r.addr())
	p := run(t, "one", &policy.RateLimitStore{Url: "redis://" + w.listener.Addr().String()})
	p.is(t, up, 1)
	b := rate(1e6, 1e6, time.Second)
	p.take(t, b, 100)
	w.cut.Store(true)
	outage(t, p, b)
	w.cut.Store(false) // what was open stays dead
	mended(t, p, b)
}

// wire carries connections to a server. One that was open or opened while it is cut carries nothing more.
type wire struct {
	listener net.Listener
	cut      atomic.Bool
	all      sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: ln}
	w.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				return
			}
			var dead atomic.Bool
			w.all.Go(func() { w.carry(up, c, &dead) })
			w.all.Go(func() { w.carry(c, up, &dead) })
		}
	})
	t.Cleanup(func() { ln.Close(); w.all.Wait() })
	return w
}

func (w *wire) carry(dst, src net.Conn, dead *atomic.Bool) {
	defer dst.Close()
	room := make([]byte, 4096)
	for {
		n, err := src.Read(room)
		if w.cut.Load() {
			dead.Store(true)
		}
		if err != nil {
			return
		}
		if !dead.Load() {
			_, _ = dst.Write(room[:n])
		}
	}
}

// TestNeverThere: no server from the start, in several ways; then Take never waits at all.
func TestNeverThere(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // it accepts in the kernel and never answers
	locked := startRedis(t, "--requirepass", "open sesame")
	for name, store := range map[string]*policy.RateLimitStore{
		"refused":        {Url: fmt.Sprintf("redis://127.0.0.1:%d", freePort(t))},
		"silent":         {Url: "redis://" + silent.Addr().String()},
		"nowhere":        {Url: "redis://192.0.2.1:6379"}, // TEST-NET-1
		"no such name":   {Url: "redis://redis.invalid:6379"},
		"cluster":        {Url: fmt.Sprintf("redis://127.0.0.1:%d?cluster=true", freePort(t))},
		"sentinel":       {Url: fmt.Sprintf("redis://127.0.0.1:%d?master_name=m", freePort(t))},
		"wrong password": {Url: "redis://" + locked.addr(), Password: "hunter22"},
		"no password":    {Url: "redis://" + locked.addr()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := run(t, "one", store)
			outage(t, p, rate(10, 10, time.Second))
			p.is(t, lost, 1)
			p.end()
			if s := p.Status(); s.Error == "" || strings.Contains(s.Error+p.log.String(), "hunter22") {
				t.Errorf("%q; logged: %s", s.Error, p.log)
			}
		})
	}
}

// TestTokensAtHandOutliveTheStore: what Redis gave of a quota may be used while it is away, and no more.
func TestTokensAtHandOutliveTheStore(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	p := run(t, "one", r.store())
	p.is(t, up, 1)
	b := quota(1000, policy.Limit_Day)
	p.take(t, b, 100)
	r.kill()
	p.is(t, lost, 1)
	e := p.table.find(b, limit.Key{1})
	e.mu.Lock()
	if e.left.Load() == 0 { // it went back in time
		e.left.Store(3)
	}
	e.mu.Unlock()
	time.Sleep((dropSweeps + 5) * sweepEvery)
	n := int(e.left.Load())
	for i := range n + 1 {
		g, ok := p.Take(t.Context(), b, limit.Key{1})
		if want := i < n; ok != want || g.Allowed != want {
			t.Fatalf("token %d of %d: %+v, %v", i, n, g, ok)
		}
	}
	if n == 0 {
		t.Fatal("the tokens of a quota were dropped while the store was away")
	}
	r.start()
	mended(t, p, b)
}
