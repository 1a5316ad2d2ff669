package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
)

func TestMutualTLS(t *testing.T) {
	m := newMesh(t)
	cfg := m.as(t, "cart")
	s := serve(t, "tcp", "127.0.10.2:0", cfg)
	c := acquire(t, only(newSet(t, m.src, Options{}), spec(target(t, s))))
	defer c.Discard()
	if c.Peer().ID != name(t, "cart") || c.Peer().LeafHash != sha256.Sum256(cfg.Certificates[0].Certificate[0]) {
		t.Errorf("peer %v", c.Peer())
	}
	if c.Local().Addr().String() != "127.0.10.1" || c.Remote().String() != s.Addr().String() {
		t.Errorf("from %v to %v", c.Local(), c.Remote())
	}
	s.mu.Lock()
	seen := s.conns[0].(interface{ RemoteAddr() net.Addr }).RemoteAddr().String()
	s.mu.Unlock()
	if !strings.HasPrefix(seen, "127.0.10.1:") {
		t.Errorf("the server sees %s", seen)
	}
}

// Whom the mesh does not expect gets no request: the handshake fails, with the reason in the failure and in the log.
func TestServersThatAreRefused(t *testing.T) {
	m := newMesh(t)
	stranger := &mesh{ca: certtest.NewCA(t, td)}
	foreign := certtest.NewCA(t, "other.org")
	key := func(t *testing.T) Target { return Target{MTLS: true, Expect: []identity.ID{name(t, "cart")}} }
	for what, c := range map[string]struct {
		with   *mesh
		opts   []certtest.Option
		as     string
		expect []identity.ID
		code   proxy.Code
		says   []string
	}{
		"another account": {m, nil, "admin", key(t).Expect, proxy.UpstreamIdentity, []string{"/sa/cart", "/sa/admin"}},
		"nobody expected": {m, nil, "cart", nil, proxy.UpstreamIdentity, []string{"/sa/cart"}},
		"another CA":      {stranger, nil, "cart", key(t).Expect, proxy.UpstreamConnect, []string{"untrusted_ca"}},
		"expired":         {m, []certtest.Option{certtest.Expired()}, "cart", key(t).Expect, proxy.UpstreamConnect, []string{"expired"}},
		"two IDs":         {m, []certtest.Option{certtest.AlsoURI("spiffe://cluster.local/x")}, "cart", key(t).Expect, proxy.UpstreamConnect, []string{"two_spiffe_ids"}},
		"other domain":    {&mesh{ca: foreign}, []certtest.Option{certtest.Template(func(*x509.Certificate) {})}, "cart", key(t).Expect, proxy.UpstreamConnect, []string{"untrusted_ca"}},
	} {
		t.Run(what, func(t *testing.T) {
			s := serve(t, "tcp", "127.0.10.2:0", c.with.as(t, c.as, c.opts...))
			log := &strings.Builder{}
			set := newSet(t, m.src, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
			e := only(set, spec(Target{Address: s.Addr().String(), MTLS: true, Expect: c.expect}))
			for range 3 {
				got, f := e.Acquire(context.Background(), time.Time{})
				if got != nil || f == nil || f.Code != c.code {
					t.Fatalf("%v, %v", got, f)
				}
				for _, word := range c.says {
					if !strings.Contains(f.Cause.Error(), word) {
						t.Errorf("no %q in %q", word, f.Cause)
					}
					if !strings.Contains(log.String(), word) {
						t.Errorf("no %q in the log %q", word, log)
					}
				}
			}
			if got := strings.Count(log.String(), "\n"); got != 1 {
				t.Errorf("%d lines for three failures in a second", got)
			}
			if e.Stats() != (Stats{ConnectFailures: 3}) {
				t.Errorf("%+v", e.Stats())
			}
		})
	}
}

func TestNoCertificateOfOurOwnYet(t *testing.T) {
	m := newMesh(t)
	s := serve(t, "tcp", "127.0.10.2:0", m.as(t, "cart"))
	src := certtest.NewSource(nil, m.ca.Bundle())
	e := only(newSet(t, src, Options{}), spec(target(t, s)))
	if _, f := e.Acquire(context.Background(), time.Time{}); f == nil || f.Code != proxy.UpstreamConnect {
		t.Fatalf("%v", f)
	}
	src.Replace(m.ca.SVID(t, name(t, "web").String()), m.ca.Bundle())
	acquire(t, e).Release()
}

func TestRefusedAndBrokenTargets(t *testing.T) {
	closed := serve(t, "tcp", "127.0.0.1:0", nil)
	closed.stop()
	for what, c := range map[string]struct {
		address string
		local   netip.Addr
		says    string
	}{
		"refused":       {closed.Addr().String(), netip.Addr{}, "connection refused"},
		"no socket":     {"unix:///nonexistent/socket", netip.Addr{}, "no such file"},
		"a name":        {"localhost:80", netip.Addr{}, `"localhost:80": want IP:port or unix:///path`},
		"foreign local": {"127.0.0.1:80", netip.MustParseAddr("192.0.2.1"), `local address "192.0.2.1" is not usable on this host`},
	} {
		t.Run(what, func(t *testing.T) {
			e := only(newSet(t, newMesh(t).src, Options{}), Spec{Name: "x", Targets: []Target{{Address: c.address}}, Local: c.local})
			_, f := e.Dial(context.Background(), time.Time{})
			if f == nil || f.Code != proxy.UpstreamConnect || !strings.Contains(f.Cause.Error(), c.says) {
				t.Errorf("%v, want %q", f, c.says)
			}
		})
	}
}

// The sidecar's own sockets are no endpoints, whatever name leads to them.
func TestPrivateSockets(t *testing.T) {
	own, other := t.TempDir(), t.TempDir()
	serve(t, "unix", filepath.Join(own, "sds.sock"), nil)
	serve(t, "unix", filepath.Join(other, "app.sock"), nil)
	for _, err := range []error{
		os.Symlink(filepath.Join(own, "sds.sock"), filepath.Join(other, "link")), os.Symlink(own, filepath.Join(other, "dir")),
		os.Link(filepath.Join(own, "sds.sock"), filepath.Join(other, "hard")), os.Symlink(filepath.Join(other, "app.sock"), filepath.Join(own, "app")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, closed := range map[string]bool{
		filepath.Join(own, "sds.sock"): true, filepath.Join(other, "link"): true, filepath.Join(other, "dir", "sds.sock"): true, filepath.Join(other, "hard"): true,
		own + "//x/../sds.sock": true, filepath.Join(other, "app.sock"): false, filepath.Join(own, "app"): false,
	} {
		if strings.Contains(path, "/x/") {
			if err := os.Mkdir(filepath.Join(own, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		e := only(newSet(t, newMesh(t).src, Options{Private: own + "/"}), Spec{Name: "x", Targets: []Target{{Address: "unix://" + path}}})
		c, f := e.Dial(context.Background(), time.Time{})
		if refused := f != nil && strings.Contains(f.Cause.Error(), "of the sidecar itself"); refused != closed {
			t.Errorf("%s: %v", path, f)
		}
		if c != nil {
			c.Release()
		}
	}
}

// A server that accepts and says nothing keeps a handshake waiting.
func TestTimeouts(t *testing.T) {
	m := newMesh(t)
	l, err := net.Listen("tcp", "127.0.10.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sp := spec(Target{Address: l.Addr().String(), MTLS: true, Expect: []identity.ID{name(t, "cart")}})
	sp.ConnectTimeout = 60 * time.Millisecond
	e := only(newSet(t, m.src, Options{}), sp)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for what, c := range map[string]struct {
		ctx      context.Context
		deadline time.Time
		code     proxy.Code
	}{
		"connect timeout":     {context.Background(), time.Time{}, proxy.UpstreamConnect},
		"exchange's deadline": {context.Background(), time.Now().Add(20 * time.Millisecond), proxy.UpstreamTimeout},
		"deadline is past":    {context.Background(), time.Now().Add(-time.Second), proxy.UpstreamTimeout},
		"shutting down":       {cancelled, time.Time{}, proxy.ShuttingDown},
	} {
		began := time.Now()
		if _, f := e.Acquire(c.ctx, c.deadline); f == nil || f.Code != c.code {
			t.Errorf("%s: %v", what, f)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	if e.Stats().Active != 0 {
		t.Errorf("%+v", e.Stats())
	}
}

// With the port left to connect, one local address serves as many connections as there are pairs of address and port.
func TestPortIsLeftToConnect(t *testing.T) {
	s := serve(t, "tcp", "127.0.0.1:0", nil)
	set := newSet(t, newMesh(t).src, Options{})
	e := only(set, Spec{Name: "x", Targets: []Target{{Address: s.Addr().String()}}, Local: netip.MustParseAddr("127.0.10.1")})
	c := acquire(t, e)
	defer c.Discard()
	if c.Local().Port() == 0 {
		t.Errorf("%v", c.Local())
	}
	if e.pool.line.dialer.Control == nil {
		t.Error("sockets are bound to a port of their own")
	}
	six := newLine("[::1]:80", netip.MustParseAddr("127.0.10.1"))
	if six.local.IsValid() || six.dialer.LocalAddr != nil {
		t.Error("an address of the other family was bound")
	}
}

// TestLeavingEndpoint: whoever dials an address that answers nothing is let go when the endpoint has left, long before the connect
// timeout.
func TestLeavingEndpoint(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.10.2:0") // nobody accepts: a handshake gets no answer
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	set := newSet(t, newMesh(t).src, Options{})
	sp := spec(Target{Address: mute.Addr().String(), MTLS: true, Expect: []identity.ID{name(t, "cart")}})
	sp.ConnectTimeout = 20 * time.Second
	e := only(set, sp)
	type end struct {
		f  *proxy.Failure
		in time.Duration
	}
	done := make(chan end, 1)
	dial := func() {
		start := time.Now()
		c, f := e.Acquire(context.Background(), time.Time{})
		if c != nil {
			c.Discard()
		}
		done <- end{f, time.Since(start)}
	}
	go dial()
	select {
	case r := <-done:
		t.Fatalf("it did not wait: %+v", r)
	case <-time.After(300 * time.Millisecond):
	}
	set.Update(nil)
	for range 2 { // the second asks when the endpoint has left already
		r := <-done
		if r.f == nil || r.f.Code != proxy.UpstreamConnect || !strings.Contains(r.f.Cause.Error(), "has left the cluster") || r.in > 10*time.Second {
			t.Errorf("%+v after %v", r.f, r.in)
		}
		go dial()
	}
	<-done
}
