package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const td = "cluster.local"

// name is the SPIFFE ID of a service account of namespace shop.
func name(t testing.TB, account string) identity.ID {
	t.Helper()
	id, err := identity.New(td, "shop", account)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// mesh is a CA, and a client of it.
type mesh struct {
	ca  *certtest.CA
	src *certtest.Source
}

func newMesh(t testing.TB) *mesh {
	ca := certtest.NewCA(t, td)
	return &mesh{ca: ca, src: certtest.NewSource(ca.SVID(t, name(t, "web").String()), ca.Bundle())}
}

// server answers each line with the same line, over TLS if it has a configuration.
type server struct {
	net.Listener
	accepted atomic.Int64
	mu       sync.Mutex
	conns    []net.Conn
	wg       sync.WaitGroup
}

// serve listens on address until the test ends. hello is written to each connection first.
func serve(t testing.TB, network, address string, cfg *tls.Config) *server {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l}
	if cfg != nil {
		s.Listener = tls.NewListener(l, cfg)
	}
	s.wg.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() { echo(c) })
		}
	})
	t.Cleanup(s.stop)
	return s
}

func echo(c net.Conn) {
	defer c.Close()
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		if _, err := c.Write(line); err != nil {
			return
		}
	}
}

// hangUp closes every connection that is open.
func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

// shout writes to every connection what nobody asked for.
func (s *server) shout(t *testing.T, words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if _, err := io.WriteString(c, words); err != nil {
			t.Error(err)
		}
	}
}

func (s *server) stop() {
	s.Close()
	s.hangUp()
	s.wg.Wait()
}

// as is the configuration of a server that proves itself with that chain.
func (m *mesh) as(t testing.TB, account string, opts ...certtest.Option) *tls.Config {
	t.Helper()
	chain, key := m.ca.Chain(t, name(t, account).String(), opts...)
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13,
		NextProtos: []string{"istio-http/1.1", "istio"}}
}

// newSet is a set that is emptied when the test ends.
func newSet(t testing.TB, src certs.Source, opts Options) *Set {
	t.Helper()
	s := NewSet(src, opts)
	t.Cleanup(func() { s.Update(nil) })
	return s
}

// target is an mTLS target that must prove to be cart.
func target(t testing.TB, s *server) Target {
	return Target{Address: s.Addr().String(), MTLS: true, Expect: []identity.ID{name(t, "cart")}}
}

func spec(targets ...Target) Spec {
	return Spec{Name: "outbound|80||cart.shop", Targets: targets, ALPN: "istio-http/1.1", SNI: "outbound_.80_._.cart.shop",
		Local: netip.MustParseAddr("127.0.10.1"), ConnectTimeout: 2 * time.Second}
}

// only is the first endpoint of a set of one cluster.
func only(s *Set, sp Spec) *Endpoint { return s.Update([]Spec{sp})[sp.Name].Endpoints()[0] }

// say makes one exchange on a connection.
func say(t testing.TB, c *Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(c, c.Buf[:6]); err != nil || string(c.Buf[:n]) != "hello\n" {
		t.Fatalf("%q, %v", c.Buf[:n], err)
	}
}

// acquire borrows a connection and makes one exchange.
func acquire(t testing.TB, e *Endpoint) *Conn {
	t.Helper()
	c, f := e.Acquire(context.Background(), time.Time{})
	if f != nil {
		t.Fatal(f)
	}
	say(t, c)
	return c
}

// eventually waits until ok, at most two seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
