package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// silent is a corridor that forwards and keeps no records, so that only the exchange itself is counted.
type silent struct {
	cluster  *upstream.Cluster
	plan     Plan
	party    proxy.Party
	service  proxy.Destination
	recorder tally
}

func (s *silent) Handle(x *Exchange) *proxy.Failure {
	x.Judged = authz.Request{Method: x.Req.Method, Headers: &x.Req}
	x.InFlight()
	s.plan = Plan{Cluster: s.cluster}
	return x.Forward(authz.Egress(), &s.plan)
}

func (s *silent) Begin(x *Exchange) {
	x.Rec.Source, x.Rec.Destination, x.Rec.Service = &s.party, &s.party, &s.service
}

func (s *silent) Recorder() proxy.Recorder { return &s.recorder }

// tally counts records.
type tally struct {
	proxy.Recorder
	records int
}

func (t *tally) Record(*proxy.Record) { t.records++ }

// echoServer answers every request head on its one connection with the same bytes and allocates nothing for it.
func echoServer(t *testing.T, accept func(net.Conn) net.Conn, answer string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		c, buf, w := accept(raw), make([]byte, 4096), 0
		out := []byte(answer)
		for {
			n, err := c.Read(buf[w:])
			if err != nil {
				return
			}
			if w += n; bytes.HasSuffix(buf[:w], []byte("\r\n\r\n")) {
				w = 0
				if _, err := c.Write(out); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// TestExchangeAllocations takes whole exchanges through the corridor, client and program included. What is left with
// mTLS is crypto/tls's own, 24 bytes each time it reads: by the program for the request, by us for the answer, and for the
// check that nothing follows it.
func TestExchangeAllocations(t *testing.T) {
	const id = "spiffe://cluster.local/ns/shop/sa/cart"
	ca := certtest.NewCA(t, "cluster.local")
	src := certtest.NewSource(ca.SVID(t, id), ca.Bundle())
	who, err := identity.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	plain := func(c net.Conn) net.Conn { return c }
	secured := func(c net.Conn) net.Conn {
		return tls.Server(c, certs.ServerTLS(src, certs.ServerOptions{Accept: certs.SameTrustDomain(src)}))
	}
	for _, c := range []struct {
		name   string
		accept func(net.Conn) net.Conn
		mtls   bool
		most   float64
	}{{"plain", plain, false, 0}, {"mTLS upstream", secured, true, 3}} {
		t.Run(c.name, func(t *testing.T) {
			answer := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
			target := upstream.Target{Address: echoServer(t, c.accept, answer), MTLS: c.mtls, Expect: []identity.ID{who}}
			set := upstream.NewSet(src, upstream.Options{})
			clusters := set.Update([]upstream.Spec{{Name: "c", Targets: []upstream.Target{target}}})
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			corridor := &silent{cluster: clusters["c"]}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = NewListener(ln, func(c net.Conn, live *Live) { New(c, live, nil, corridor).Serve(ctx) }).Run(ctx)
			}()
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			request, buf := []byte("GET /items?page=1 HTTP/1.1\r\nHost: shop\r\nAccept: */*\r\nX-Request-Id: 1\r\n\r\n"), make([]byte, len(answer))
			got := testing.AllocsPerRun(300, func() {
				if _, err := client.Write(request); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					t.Fatal(err)
				}
			})
			if !bytes.HasSuffix(buf, []byte("hello")) {
				t.Errorf("answer %q", buf)
			}
			client.Close()
			cancel()
			<-done
			set.Update(nil)
			if corridor.recorder.records != 301 {
				t.Errorf("%d exchanges were recorded, want 301", corridor.recorder.records)
			}
			if got > c.most+raceAllocations {
				t.Errorf("%v allocations an exchange, want at most %v", got, c.most)
			}
		})
	}
}
