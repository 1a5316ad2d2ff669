package inbound

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// pod is the captured listener of a pod with two programs: one speaks HTTP, one greets.
type pod struct {
	*door
	to            atomic.Pointer[netip.AddrPort] // where connections were made to
	http, greeter netip.AddrPort
	captured      Captured
}

func openPod(t *testing.T, mode Mode) *pod {
	t.Helper()
	p := &pod{door: &door{t: t, ca: certtest.NewCA(t, "cluster.local")}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set(forward.Untouched, "forged")
		fmt.Fprintf(w, "%s from %s", r.URL.Path, from)
	}))
	t.Cleanup(srv.Close)
	p.http, p.greeter = netip.MustParseAddrPort(srv.Listener.Addr().String()), netip.MustParseAddrPort(greeter(t))
	set := upstream.NewSet(nil, upstream.Options{})
	clusters := set.Update([]upstream.Spec{{Name: "any", Original: true, Local: netip.MustParseAddr("127.0.0.6")}})
	id, err := identity.Parse(own)
	if err != nil {
		t.Fatal(err)
	}
	p.conf = Config{Protocol: mesh.Detect, Mode: mode, Cluster: clusters["any"], Judge: judge.Judge{Program: authz.NewProgram(allowing{})},
		ID: id, Self: &proxy.Party{}, Service: &proxy.Destination{}, Detection: 150 * time.Millisecond,
		Source: func(identity.Peer, netip.Addr) *proxy.Party { return &proxy.Party{} }}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	rest := p.conf
	p.captured = Captured{Rest: &rest, Own: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") },
		Original: func(*net.TCPConn) (netip.AddrPort, error) { return *p.to.Load(), nil }}
	p.l = NewCaptured(ln, certtest.NewSource(p.ca.SVID(t, own), p.ca.Bundle()), p, &p.captured)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = p.l.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done; set.Update(nil) })
	return p
}

func (p *pod) at(to netip.AddrPort) *pod { p.to.Store(&to); return p }

func TestCapturedDetects(t *testing.T) {
	p := openPod(t, Permissive)
	if code, body := ask(t, p.at(p.http).plain(), get); code != 200 || body != "/a from 127.0.0.6" {
		t.Errorf("plaintext: %d %q", code, body)
	}
	for _, alpn := range []string{ALPNHTTP1, "http/1.1", ""} {
		var offered []string
		if alpn != "" {
			offered = []string{alpn}
		}
		if alpn != ALPNHTTP1 { // such a caller is the mesh's under STRICT only
			c := p.conf
			c.Mode = Strict
			strict := p.captured
			strict.Rest = &c
			p.l.SwapCaptured(&strict)
		}
		if code, body := ask(t, p.as(caller, offered...), strings.Replace(get, "/a", "/denied", 1)); code != 403 {
			t.Errorf("mTLS %q: %d %q", alpn, code, body)
		}
	}
	p.l.SwapCaptured(&p.captured)
	// By ALPN it is TCP: nobody waits for its first bytes, and nobody reads them.
	c := p.at(p.greeter).as(caller, ALPNTCP)
	start := time.Now()
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "banner\n" || time.Since(start) > 100*time.Millisecond {
		t.Errorf("TCP by ALPN: %q %v after %v", line, err, time.Since(start))
	}
	// Plaintext and silent: the server speaks first after a while.
	if line, err := bufio.NewReader(p.plain()).ReadString('\n'); line != "banner\n" {
		t.Errorf("silent: %q %v", line, err)
	}
	// HTTP/2 and TLS of the program's own are carried.
	for _, send := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00binary\x00"} {
		c := p.plain()
		_, _ = io.WriteString(c, send)
		got := make([]byte, len("banner\n")+len(send))
		if _, err := io.ReadFull(c, got); string(got) != "banner\n"+send {
			t.Errorf("carried: %q %v", got, err)
		}
	}
}

func TestCapturedRefuses(t *testing.T) {
	p := openPod(t, Permissive)
	self := netip.MustParseAddrPort(p.addr)
	for _, tt := range []struct{ to, reason string }{
		{self.String(), reasonNotCaptured},
		{"127.0.0.9:" + fmt.Sprint(self.Port()), reasonNotCaptured},
		{"127.0.0.9:80", reasonNotOurs},
		{"10.0.0.1:80", reasonNotOurs},
	} {
		p.mu.Lock()
		p.refused = nil
		p.mu.Unlock()
		c := p.at(netip.MustParseAddrPort(tt.to)).plain()
		_, _ = io.WriteString(c, get)
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s answers %q", tt.to, b)
		}
		if got := p.reasons(); got != tt.reason {
			t.Errorf("%s: %s", tt.to, got)
		}
	}
}

// A mode that becomes STRICT on one port ends what goes on there in plaintext, and nothing elsewhere.
func TestCapturedPortMode(t *testing.T) {
	p := openPod(t, Permissive)
	talk := func(c net.Conn) error {
		_, err := io.WriteString(c, "x")
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err
	}
	other := netip.MustParseAddrPort(greeter(t))
	a := p.at(p.greeter).plain()
	_, _ = io.ReadFull(a, make([]byte, len("banner\n")))
	b := p.at(other).plain()
	_, _ = io.ReadFull(b, make([]byte, len("banner\n")))
	p.at(p.greeter)
	if err := talk(a); err != nil {
		t.Fatal(err)
	}
	strict := p.conf
	strict.Mode = Strict
	next := p.captured
	next.Ports = map[uint16]*Config{p.greeter.Port(): &strict}
	p.l.SwapCaptured(&next)
	eventually(t, "the end of plaintext", func() bool { return talk(a) != nil })
	if err := talk(b); err != nil {
		t.Errorf("on another port: %v", err)
	}
	c := p.plain()
	_, _ = io.WriteString(c, get)
	if got, _ := io.ReadAll(c); len(got) > 0 {
		t.Errorf("new plaintext gets %q", got)
	}
}

func TestUntouched(t *testing.T) {
	p := openPod(t, Strict)
	c := p.at(p.http).as(caller, ALPNHTTP1)
	_, _ = io.WriteString(c, get)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get(forward.Untouched) != "" {
		t.Errorf("a program says it: %v %v", resp, err)
	}
	none := netip.AddrPortFrom(p.http.Addr(), 1)
	c = p.at(none).as(caller, ALPNHTTP1)
	_, _ = io.WriteString(c, get)
	if resp, err = http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 503 || resp.Header.Get(forward.Untouched) == "" {
		t.Errorf("a program that is not there: %v %v", resp, err)
	}
	p = openPod(t, Permissive)
	plain := p.at(none).plain()
	_, _ = io.WriteString(plain, get)
	if resp, err = http.ReadResponse(bufio.NewReader(plain), nil); err != nil || resp.StatusCode != 503 || resp.Header.Get(forward.Untouched) != "" {
		t.Errorf("a caller from outside the mesh: %v %v", resp, err)
	}
}

func TestLeave(t *testing.T) {
	p := openPod(t, Strict)
	c := p.at(p.http).as(caller, ALPNHTTP1)
	r := bufio.NewReader(c)
	for _, closing := range []bool{false, true} {
		if closing {
			p.l.Leave()
		}
		_, _ = io.WriteString(c, get)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 || resp.Close != closing {
			t.Fatalf("closing %t: %+v %v", closing, resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	// Others are still served.
	if code, _ := ask(t, p.as(caller, ALPNHTTP1), get); code != 200 {
		t.Error(code)
	}
}

// What is HTTP on a port that declares nothing is judged and cleaned as such, whatever its caller says that it is and however
// long it waits; what is not passes.
func TestHTTPInTCP(t *testing.T) {
	var reached atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		fmt.Fprint(w, r.Header.Values("X-Forwarded-Client-Cert"))
	}))
	t.Cleanup(srv.Close)
	to := netip.MustParseAddrPort(srv.Listener.Addr().String())
	request := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: api.shop\r\nX-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin\r\n\r\n"
	}
	for _, mode := range []Mode{Strict, Permissive} {
		p := openPod(t, mode)
		open := func() net.Conn {
			if mode == Permissive { // nothing in time: it is taken for TCP, whose server may speak first
				c := p.at(to).plain()
				time.Sleep(2 * p.conf.Detection)
				return c
			}
			return p.at(to).as(caller, ALPNTCP)
		}
		for _, before := range []string{"", "\r\n"} {
			if code, body := ask(t, open(), before+request("/denied")); code != 403 {
				t.Errorf("mode %d: %q and a denied request: %d %q", mode, before, code, body)
			}
			code, body := ask(t, open(), before+request("/a"))
			if own := strings.Contains(body, "URI="+caller); code != 200 || strings.Contains(body, "admin") || own != (mode == Strict) {
				t.Errorf("mode %d: %q and a forged statement: %d %q", mode, before, code, body)
			}
		}
		was := reached.Load()
		c := open() // the empty line passes as TCP in the end
		_, _ = io.WriteString(c, "\r\n")
		time.Sleep(3 * p.conf.Detection)
		_, _ = io.WriteString(c, request("/a"))
		if b, _ := io.ReadAll(c); len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 400") || reached.Load() != was { // 400 is the program's word for that line
			t.Errorf("mode %d: a request behind a pause gets %q", mode, b)
		}
		for _, tt := range []struct{ first, send, want string }{
			{"banner\n", request("/a"), request("/a")}, // the server spoke first
			{"", "\x00" + request("/a"), "banner\n\x00" + request("/a")},
		} {
			c := p.at(p.greeter).as(caller, ALPNTCP)
			got := make([]byte, len(tt.first))
			_, _ = io.ReadFull(c, got)
			_, _ = io.WriteString(c, tt.send)
			rest := make([]byte, len(tt.want))
			if _, err := io.ReadFull(c, rest); err != nil || string(got) != tt.first || string(rest) != tt.want {
				t.Errorf("mode %d: %q %q %v", mode, got, rest, err)
			}
		}
	}
}
