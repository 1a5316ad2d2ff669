package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// switching answers an upgrade with 101 and the first bytes at once, and then echoes.
func switching(t *testing.T) string {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if req.Header.Get("upgrade") == "" {
				_, _ = io.WriteString(c, hello)
				continue
			}
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nwelcome")
			_, _ = io.Copy(c, in)
			_, _ = io.WriteString(c, "bye")
			return
		}
	})
	return addr
}

const upgrade = "GET /up HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"

// Bytes that come early on either side of an upgrade are passed on, and a half-close is too.
func TestUpgrade(t *testing.T) {
	c := newRig(t, switching(t), nil).dial()
	c.send(upgrade + "early")
	if got := c.line(); got != "HTTP/1.1 101 Switching Protocols" {
		t.Fatal(got)
	}
	for c.line() != "" {
	}
	c.send("late")
	_ = c.CloseWrite()
	if all, err := c.rest(); all != "welcomeearlylatebye" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

func TestConnect(t *testing.T) {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		_, _ = io.WriteString(c, "banner")
		_, _ = io.Copy(c, in)
		_, _ = io.WriteString(c, "bye")
	})
	r := newRig(t, addr, func(r *rig) {
		r.handle = func(x *Exchange) *proxy.Failure {
			u, f := Dial(x.life, r.cluster, &x.Rec)
			if f != nil {
				return f
			}
			x.Connect(u)
			return nil
		}
	})
	c := r.dial()
	c.send("CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\nearly")
	if got := c.line() + c.line(); got != "HTTP/1.1 200 OK" {
		t.Fatal(got)
	}
	_ = c.CloseWrite()
	if all, err := c.rest(); all != "bannerearlybye" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if rec := r.recorded(1)[0]; rec.BytesReceived != 5 || rec.BytesSent != 14 {
		t.Errorf("counted %d and %d bytes", rec.BytesReceived, rec.BytesSent)
	}
}

// CONNECT is never forwarded as a request: its answer would turn a pooled connection into a tunnel.
func TestConnectIsNotForwarded(t *testing.T) {
	addr, conns := answering(t, "HTTP/1.1 200 OK\r\n\r\n")
	c := newRig(t, addr, nil).dial()
	c.send("CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n")
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 500 || conns.Load() != 0 {
		t.Errorf("%d after %d connections", resp.StatusCode, conns.Load())
	}
}

func TestNoPermitNoForwarding(t *testing.T) {
	addr, conns := answering(t, hello)
	r := newRig(t, addr, func(r *rig) {
		r.handle = func(x *Exchange) *proxy.Failure { return x.Forward(authz.Permit{}, &Plan{Cluster: r.cluster}) }
	})
	c := r.dial()
	c.send(get)
	if resp, _ := c.response("GET"); resp.StatusCode != 500 || conns.Load() != 0 {
		t.Errorf("%d after %d connections", resp.StatusCode, conns.Load())
	}
	live, rec := &Live{life: t.Context()}, &proxy.Record{}
	if f := TCP(t.Context(), authz.Permit{}, Way{Cluster: r.cluster}, nil, nil, live, rec); f == nil || f.Code != proxy.Internal {
		t.Errorf("TCP without a permit: %v", f)
	}
}

// A judgement that changed ends what it denies, and leaves all else alone: waiting, streaming, sending, upgraded.
func TestRejudge(t *testing.T) {
	t.Parallel()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		switch {
		case req.Header.Get("upgrade") != "":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n!\n")
		case strings.HasPrefix(req.URL.Path, "/stream"):
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n!\n\r\n")
		}
		_, _ = io.Copy(io.Discard, in)
	})
	r := newRig(t, addr, nil)
	start := func(send string, streams bool) *client {
		c := r.dial()
		c.send(send)
		for streams && c.line() != "!" {
		}
		return c
	}
	denied := []*client{
		start("GET /wait HTTP/1.1\r\nhost: denied\r\n\r\n", false),
		start("GET /stream HTTP/1.1\r\nhost: denied\r\n\r\n", true),
		start("POST /wait HTTP/1.1\r\nhost: denied\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", false),
		start(strings.Replace(upgrade, "host: x", "host: denied", 1), true),
	}
	going := start("GET /stream HTTP/1.1\r\nhost: allowed\r\n\r\n", true)
	eventually(t, "five in flight", func() bool {
		n := 0
		r.fl.Rejudge(func(*authz.Connection, *authz.Request) *Denial { n++; return nil })
		return n == 5
	})
	begin := time.Now()
	r.fl.Rejudge(func(_ *authz.Connection, q *authz.Request) *Denial {
		if q.Headers.(*proxy.Head).Authority == "denied" {
			return &Denial{By: "somebody", Detail: "because"}
		}
		return nil
	})
	for i, c := range denied {
		if all, _ := c.rest(); strings.Contains(all, "HTTP/1.1") {
			t.Errorf("connection %d got %q after its denial", i, all)
		}
	}
	if d := time.Since(begin); d > upstreamWatch+time.Second {
		t.Errorf("the denied went on for %v", d)
	}
	for _, rec := range r.recorded(4) {
		if rec.Detail != "because" {
			t.Errorf("recorded %q", rec.Detail)
		}
	}
	_ = going.SetLinger(0)
	going.line() // the end of the chunk
	_ = going.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := going.in.Peek(1); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("the allowed connection: %v", err)
	}
}

// TCP connections are judged again too, also while they are idle.
func TestRejudgeTCP(t *testing.T) {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) })
	set := upstream.NewSet(nil, upstream.Options{})
	cluster := set.Update([]upstream.Spec{{Name: "c", Targets: []upstream.Target{{Address: addr}}}})["c"]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var rec proxy.Record
	fl := NewListener(ln, func(c net.Conn, live *Live) {
		live.Begin(&authz.Connection{}, nil, nil)
		defer live.End()
		Note(&rec, TCP(live.Life(), authz.Egress(), Way{Cluster: cluster}, c, []byte("pre"), live, &rec), live)
	})
	done := make(chan struct{})
	go func() { _ = fl.Run(t.Context()); close(done) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "pre" {
		t.Fatalf("%q, %v", b, err)
	}
	fl.Rejudge(func(_ *authz.Connection, q *authz.Request) *Denial {
		if q == nil {
			return &Denial{By: "somebody", Detail: "because"}
		}
		return nil
	})
	if _, err := c.Read(b); err == nil {
		t.Error("the connection goes on")
	}
	ln.Close()
	<-done
	if rec.Detail != "because" || rec.DeniedBy != "somebody" {
		t.Errorf("recorded %q by %q", rec.Detail, rec.DeniedBy)
	}
}

// A listener that ends finishes what is in flight and what is on its way, and then says that it closes.
func TestDrain(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var busy atomic.Int64
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if req.URL.Path == "/slow" {
				busy.Add(1)
				<-release
			}
			_, _ = io.WriteString(c, hello)
		}
	})
	r := newRig(t, addr, nil)
	slow, idle, late := r.dial(), r.dial(), r.dial()
	idle.send(get)
	idle.response("GET")
	late.send(get)
	late.response("GET")
	slow.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
	eventually(t, "busy", func() bool { return busy.Load() == 1 })
	var ended sync.WaitGroup
	ended.Go(r.end)
	eventually(t, "no new connections", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	late.send(get) // after the end was announced, before the client could know
	for _, c := range []*client{late, slow} {
		if c == slow {
			close(release)
		}
		resp, body := c.response("GET")
		if body != "hello" || !resp.Close {
			t.Errorf("%q, close %v", body, resp.Close)
		}
	}
	if all, err := idle.rest(); all != "" || err != nil {
		t.Errorf("the idle connection: %q, %v", all, err)
	}
	ended.Wait()
}

// Whatever does not finish by itself is cut off: a listener's end never takes long.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	r := newRig(t, addr, nil)
	r.dial().send(get)
	r.dial().send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
	eventually(t, "in flight", func() bool {
		n := 0
		r.fl.Rejudge(func(*authz.Connection, *authz.Request) *Denial { n++; return nil })
		return n == 2
	})
	begin := time.Now()
	r.end()
	if d := time.Since(begin); d > drainTime+2*time.Second {
		t.Errorf("the end took %v", d)
	}
}

func TestTooManyConnectionsAreClosed(t *testing.T) {
	r := newRig(t, "127.0.0.1:1", nil)
	r.fl.mu.Lock()
	for range maxConnections {
		r.fl.conns[&Live{conn: stub{}}] = struct{}{}
	}
	r.fl.mu.Unlock()
	if all, _ := r.dial().rest(); all != "" {
		t.Errorf("got %q", all)
	}
	r.fl.mu.Lock()
	clear(r.fl.conns)
	r.fl.mu.Unlock()
}

type stub struct{ net.Conn }
