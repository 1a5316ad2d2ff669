package inbound

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	own    = "spiffe://cluster.local/ns/shop/sa/api"
	caller = "spiffe://cluster.local/ns/shop/sa/web"
	get    = "GET /a HTTP/1.1\r\nHost: api.shop\r\n\r\n"
)

// door is an inbound listener with a program behind it.
type door struct {
	t       *testing.T
	ca      *certtest.CA
	l       *Listener
	addr    string
	program string // address of the program
	conf    Config

	mu      sync.Mutex
	records []proxy.Record
	refused []string
}

func (d *door) Opened(*proxy.Record) {}

func (d *door) Record(r *proxy.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := *r
	out.Detail, out.Path = strings.Clone(r.Detail), strings.Clone(r.Path)
	d.records = append(d.records, out)
}

func (d *door) Refused(_, _ netip.AddrPort, reason string, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = append(d.refused, reason)
}

// reasons waits for one refusal and returns all.
func (d *door) reasons() string {
	d.t.Helper()
	var out string
	eventually(d.t, "a refusal", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		out = strings.Join(d.refused, " ")
		return out != ""
	})
	return out
}

// last waits for n records and returns the last.
func (d *door) last(n int) proxy.Record {
	d.t.Helper()
	var out proxy.Record
	eventually(d.t, "a record", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.records) < n {
			return false
		}
		out = d.records[len(d.records)-1]
		return true
	})
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// allowing decides by the path: what begins with /denied is denied; TCP is allowed.
type allowing struct{ denyTCP bool }

func (allowing) Handovers() []authz.Handover                                    { return nil }
func (allowing) Handover(int, *authz.Connection, *authz.Request) *authz.RuleRef { return nil }
func (allowing) DryRuns() bool                                                  { return false }
func (allowing) Explain(*authz.Connection, *authz.Request) []authz.PolicyTrace  { return nil }
func (allowing) DryRun(dst []authz.Shadow, _ *authz.Connection, _ *authz.Request) []authz.Shadow {
	return dst
}

func (a allowing) Judge(_ *authz.Connection, r *authz.Request) authz.Decision {
	denied := a.denyTCP
	if r != nil {
		denied = strings.HasPrefix(r.Path, "/denied")
	}
	return authz.Decision{Allowed: !denied}
}

// open runs a listener in a mode, for HTTP or TCP, in front of handler or, without one, of an echo that greets.
func open(t *testing.T, mode Mode, protocol mesh.Protocol, handler http.HandlerFunc) *door {
	t.Helper()
	d := &door{t: t, ca: certtest.NewCA(t, "cluster.local")}
	if handler != nil {
		srv := httptest.NewServer(handler)
		t.Cleanup(srv.Close)
		d.program = srv.Listener.Addr().String()
	} else {
		d.program = greeter(t)
	}
	set := upstream.NewSet(nil, upstream.Options{})
	id, err := identity.Parse(own)
	if err != nil {
		t.Fatal(err)
	}
	clusters := set.Update([]upstream.Spec{{Name: "inbound|80||", Targets: []upstream.Target{{Address: d.program}}}})
	d.conf = Config{Protocol: protocol, Mode: mode, Cluster: clusters["inbound|80||"], Judge: judge.Judge{Program: authz.NewProgram(allowing{})}, ID: id,
		Self: &proxy.Party{}, Service: &proxy.Destination{}, Detection: 150 * time.Millisecond,
		Source: func(identity.Peer, netip.Addr) *proxy.Party { return &proxy.Party{} }}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = ln.Addr().String()
	conf := d.conf
	d.l = New(ln, certtest.NewSource(d.ca.SVID(t, own), d.ca.Bundle()), d, &conf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = d.l.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done; set.Update(nil) })
	return d
}

// swap changes the configuration.
func (d *door) swap(change func(*Config)) {
	conf := d.conf
	change(&conf)
	d.l.Swap(&conf)
}

func greeter(t *testing.T) string {
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
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, "banner\n")
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func (d *door) plain() net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// as is a mutual TLS connection of that identity.
func (d *door) as(id string, alpn ...string) *tls.Conn {
	d.t.Helper()
	chain, key := d.ca.Chain(d.t, id)
	c := tls.Client(d.plain(), &tls.Config{InsecureSkipVerify: true, NextProtos: alpn,
		Certificates: []tls.Certificate{{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key}}})
	if err := c.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// ask sends one request and reads the answer.
func ask(t *testing.T, c net.Conn, send string) (int, string) {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func showXFCC(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, strings.Join(r.Header.Values("X-Forwarded-Client-Cert"), "|"))
}

func TestStrict(t *testing.T) {
	d := open(t, Strict, mesh.HTTP, showXFCC)
	c := d.as(caller, ALPNHTTP1)
	forged := "GET /a HTTP/1.1\r\nHost: api.shop\r\nX-FORWARDED-Client-Cert: forged\r\nx-forwarded-client-cert: again\r\n\r\n"
	if code, body := ask(t, c, forged); code != 200 || !strings.HasPrefix(body, "By="+own+";Hash=") || !strings.HasSuffix(body, `;Subject="";URI=`+caller) || strings.Contains(body, "|") {
		t.Errorf("%d %q", code, body)
	}
	if code, body := ask(t, c, strings.Replace(get, "/a", "/denied", 1)); code != 403 || body != "RBAC: access denied" {
		t.Errorf("denied: %d %q", code, body)
	}
	if code, _ := ask(t, c, "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n"); code != 404 {
		t.Errorf("CONNECT: %d", code)
	}
	if r := d.last(3); r.Side != proxy.DestinationSide || r.Security != proxy.SecurityMTLS || r.Peer.ID.String() != caller || r.Detail != "connect_not_here" {
		t.Errorf("recorded %+v", r)
	}
	p := d.plain()
	_, _ = io.WriteString(p, get)
	if b, err := io.ReadAll(p); len(b) > 0 || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("plaintext got %q, %v", b, err)
	}
	if got := d.reasons(); got != reasonPlaintext {
		t.Errorf("reasons %q", got)
	}
}

// The words for which crypto/tls has no type are still those that are looked for.
func TestReasons(t *testing.T) {
	chain, key := certtest.NewCA(t, "cluster.local").Chain(t, caller)
	mine := tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key}
	for want, cfg := range map[string]*tls.Config{
		string(certs.NoCertificate): {},
		string(certs.UntrustedCA):   {Certificates: []tls.Certificate{mine}},
		reasonALPN:                  {Certificates: []tls.Certificate{mine}, NextProtos: []string{"h2"}},
		reasonVersion:               {Certificates: []tls.Certificate{mine}, MaxVersion: tls.VersionTLS12},
		reasonByPeer: {Certificates: []tls.Certificate{mine}, VerifyConnection: func(tls.ConnectionState) error {
			return io.ErrNoProgress
		}},
	} {
		d := open(t, Strict, mesh.HTTP, showXFCC)
		cfg.InsecureSkipVerify = true
		c := tls.Client(d.plain(), cfg)
		if err := c.Handshake(); err == nil {
			_, _ = c.Read(make([]byte, 1))
		}
		if got := d.reasons(); got != want {
			t.Errorf("reasons %q, want %q", got, want)
		}
	}
	for send, want := range map[string]string{"\x16nothing that TLS would say": reasonNotTLS, "\x16\x03\x01": reasonGone, "": reasonGone} {
		d := open(t, Strict, mesh.HTTP, showXFCC)
		c := d.plain()
		_, _ = io.WriteString(c, send)
		_ = c.(*net.TCPConn).CloseWrite()
		if got := d.reasons(); got != want {
			t.Errorf("%q: reasons %q, want %q", send, got, want)
		}
	}
}

func TestPermissive(t *testing.T) {
	d := open(t, Permissive, mesh.HTTP, showXFCC)
	if code, body := ask(t, d.plain(), "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Client-Cert: forged\r\n\r\n"); code != 200 || body != "" {
		t.Errorf("plaintext: %d, the program saw %q", code, body)
	}
	if r := d.last(1); r.Security != proxy.SecurityNone || r.Peer.Proven() {
		t.Errorf("recorded %+v", r)
	}
	for _, alpn := range []string{ALPNHTTP1, ALPNTCP} {
		if _, body := ask(t, d.as(caller, alpn), get); !strings.HasSuffix(body, "URI="+caller) {
			t.Errorf("%s: %q", alpn, body)
		}
	}
	silent := d.plain()
	if b, err := io.ReadAll(silent); len(b) > 0 || err != nil {
		t.Errorf("silence on an HTTP port: %q, %v", b, err)
	}
	if got := d.reasons(); got != reasonNoBytes {
		t.Errorf("reasons %q", got)
	}
}

func TestPermissiveTCP(t *testing.T) {
	d := open(t, Permissive, mesh.TCP, nil)
	ours := d.as(caller, ALPNTCP)
	silent, half, other := d.plain(), d.plain(), d.plain()
	_ = half.(*net.TCPConn).CloseWrite()
	hello := "\x16\x03\x01\x00\x05other"
	_, _ = io.WriteString(other, hello) // begins like TLS, and is not ours to judge
	for name, c := range map[string]net.Conn{"ours": ours, "silent": silent, "half-closed": half, "other TLS": other} {
		b := make([]byte, 7)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "banner\n" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	b := make([]byte, len(hello))
	if _, err := io.ReadFull(other, b); err != nil || string(b) != hello {
		t.Errorf("the program was sent %q, %v", b, err)
	}
	// A program of policies that denies ends what lives, and a port that becomes STRICT what has no identity.
	d.swap(func(c *Config) { c.Mode = Strict })
	for _, c := range []net.Conn{silent, other} {
		if _, err := c.Read(b); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("plaintext under STRICT: %v", err)
		}
	}
	if _, err := io.WriteString(ours, "x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(ours, b[:1]); err != nil || b[0] != 'x' {
		t.Errorf("mTLS: %q, %v", b[:1], err)
	}
	d.swap(func(c *Config) { c.Judge.Program = authz.NewProgram(allowing{denyTCP: true}) })
	if _, err := ours.Read(b); err == nil {
		t.Error("denied TCP goes on")
	}
	if all, _ := io.ReadAll(d.as(caller, ALPNTCP)); len(all) > 0 {
		t.Errorf("denied TCP got %q", all)
	}
}

func TestDisable(t *testing.T) {
	d := open(t, Disable, mesh.HTTP, showXFCC)
	if code, body := ask(t, d.plain(), strings.Replace(get, "Host", "X-Forwarded-Client-Cert: forged\r\nHost", 1)); code != 200 || body != "" {
		t.Errorf("plaintext: %d %q", code, body)
	}
	d = open(t, Disable, mesh.HTTP, nil)
	c := d.plain()
	_, _ = io.WriteString(c, "\x16\x03TLS")
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "banner\n\x16\x03TLS" {
		t.Errorf("TLS for the program: %q, %v", b, err)
	}
}

// A keep-alive connection that came in as plaintext is not served once the port is STRICT.
func TestStrictLater(t *testing.T) {
	d := open(t, Permissive, mesh.HTTP, showXFCC)
	c := d.plain()
	ask(t, c, get)
	d.swap(func(c *Config) { c.Mode = Strict })
	_, _ = io.WriteString(c, get)
	if b, _ := io.ReadAll(c); len(b) > 0 {
		t.Errorf("got %q", b)
	}
	if got := d.reasons(); got != reasonPlaintext {
		t.Errorf("reasons %q", got)
	}
}
