package e2e

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
)

// TestTLS judges who gets in at inbound ports, as what, and how the others are refused.
func TestTLS(t *testing.T) {
	d := newDataPlane(t)
	for _, tt := range []struct {
		name string
		f    func(*testing.T, *dataPlane)
	}{
		{"refused", testRefused}, {"openssl", testOpenSSL}, {"alpn", testALPN}, {"caller", testForwardedCert}, {"permissive", testPermissive},
		{"silence", testSilence}, {"disable", testDisable}, {"mode", testModeChanges},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.answer(nil)
			d.speak(nil)
			tt.f(t, d)
		})
	}
}

const oneRequest = "GET / HTTP/1.1\r\nHost: api.shop\r\nConnection: close\r\n\r\n"

// Every way not to be let in has its own reason, in the log and in the metrics, and reaches nothing.
func testRefused(t *testing.T, d *dataPlane) {
	ca, other := d.authority(t), certtest.NewCA(t, "cluster.local")
	foreign := certtest.NewCA(t, "other.example")
	web := "spiffe://cluster.local/ns/shop/sa/web"
	handshake := func(cfg *tls.Config) func(*testing.T, net.Conn) {
		return func(t *testing.T, c net.Conn) {
			s := tls.Client(c, cfg)
			err := s.Handshake()
			if err == nil {
				_, err = io.WriteString(s, oneRequest)
			}
			if err == nil {
				var b []byte
				b, err = io.ReadAll(s)
				if len(b) > 0 {
					t.Errorf("got %q", b)
				}
			}
			if err == nil {
				t.Error("no error")
			}
		}
	}
	with := func(ca *certtest.CA, id string, opts ...certtest.Option) func(*testing.T, net.Conn) {
		chain, key := ca.Chain(t, id, opts...)
		return handshake(as(chain, key, "istio-http/1.1"))
	}
	bytes := func(s string) func(*testing.T, net.Conn) {
		return func(t *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, s)
			_ = c.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(c)
			if s[0] != 0x16 && len(b) > 0 {
				t.Errorf("%d bytes came back: %q", len(b), b)
			}
		}
	}
	chain, key := ca.Chain(t, web)
	old := as(chain, key, "istio-http/1.1")
	old.MaxVersion = tls.VersionTLS12
	for _, tt := range []struct {
		reason, name string
		call         func(*testing.T, net.Conn)
	}{
		{"plaintext_under_strict", "HTTP", bytes(oneRequest)},
		{"plaintext_under_strict", "random bytes", bytes("\x00\x01\x02\x03")},
		{"not_tls", "garbage that begins like TLS", bytes("\x16garbage that goes on for a while, and then some")},
		{"closed_in_handshake", "half a record", bytes("\x16\x03\x01\x02\x00\x01")},
		{"no_certificate", "no certificate", handshake(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio-http/1.1"}})},
		{"untrusted_ca", "another CA of the same name", with(other, web)},
		{"expired", "expired", with(ca, web, certtest.Expired())},
		{"not_yet_valid", "not yet valid", with(ca, web, certtest.NotYetValid())},
		{"trust_domain", "another trust domain, its own CA", with(foreign, "spiffe://other.example/ns/shop/sa/web")},
		{"trust_domain", "another trust domain, our CA", with(ca, "spiffe://other.example/ns/shop/sa/web")},
		{"no_spiffe_id", "no SPIFFE ID", with(ca, "", certtest.AlsoDNS("web.shop"))},
		{"no_spiffe_id", "a URI that is none", with(ca, "https://cluster.local/ns/shop/sa/web")},
		{"two_spiffe_ids", "two SPIFFE IDs", with(ca, web, certtest.AlsoURI("spiffe://cluster.local/ns/shop/sa/api"))},
		{"not_a_leaf", "a CA", with(ca, web, certtest.AsCA(), certtest.KeyUsage(x509.KeyUsageCertSign))},
		{"alpn", "h2 only", handshake(as(chain, key, "h2"))},
		{"tls_version", "TLS 1.2", handshake(old)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			series := fmt.Sprintf("signet_connections_refused_total{reason=%q}", tt.reason)
			before, served, logged := d.metric(t, "shop/api", series), d.served.Load(), len(d.Log())
			c := dialRaw(t, d.inbound(portHTTP))
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			tt.call(t, c.Conn)
			eventually(t, 5*time.Second, func() string {
				if d.metric(t, "shop/api", series) <= before {
					return "no metric " + series + " in\n" + grep(get(t, "http://"+d.workload("shop/api").Metrics+"/stats/prometheus"), "refused")
				}
				if !strings.Contains(d.Log()[logged:], "reason="+tt.reason) {
					return "no log line with reason=" + tt.reason
				}
				return ""
			})
			if d.served.Load() != served {
				t.Error("a request reached the program")
			}
		})
	}
	// After all that, who may comes in.
	c := d.dialAs(t, "web", d.inbound(portHTTP), "istio-http/1.1")
	c.send(oneRequest)
	if resp, _ := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func grep(s, word string) string {
	var out strings.Builder
	for line := range strings.Lines(s) {
		if strings.Contains(line, word) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// save writes a chain and its key as files for openssl.
func save(t *testing.T, chain []*x509.Certificate, key crypto.Signer) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	var certs []byte
	for _, c := range chain {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string][]byte{certFile: certs, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// The real openssl verifies our chain against the mesh's root, and is let in.
func testOpenSSL(t *testing.T, d *dataPlane) {
	chain, key := d.authority(t).Chain(t, "spiffe://cluster.local/ns/shop/sa/web")
	certFile, keyFile := save(t, chain, key)
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-connect", d.inbound(portHTTP), "-alpn", "istio-http/1.1", "-cert", certFile,
		"-key", keyFile, "-cert_chain", certFile, "-CAfile", filepath.Join(d.State, "root-cert.pem"), "-verify_return_error", "-ign_eof")
	cmd.Stdin = strings.NewReader(oneRequest)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"Verify return code: 0 (ok)", "TLSv1.3", "ALPN protocol: istio-http/1.1", "HTTP/1.1 200 OK", "URI=spiffe://cluster.local/ns/shop/sa/web"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("openssl (%v) lacks %q:\n%s", err, want, out)
		}
	}
}

func testALPN(t *testing.T, d *dataPlane) {
	for _, alpn := range [][]string{{"istio-http/1.1"}, {"istio"}, {"http/1.1"}, nil, {"h2", "http/1.1"}, {"istio-http/1.1", "istio"}} {
		c := d.dialAs(t, "web", d.inbound(portHTTP), alpn...)
		state := c.Conn.(*tls.Conn).ConnectionState()
		if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 || alpn == nil && state.NegotiatedProtocol != "" {
			t.Errorf("%v: version %x, key exchange %v, protocol %q", alpn, state.Version, state.CurveID, state.NegotiatedProtocol)
		}
		c.send(oneRequest)
		if resp, _ := c.response("GET"); resp.StatusCode != 200 {
			t.Errorf("%v: %d", alpn, resp.StatusCode)
		}
	}
}

// The program learns who calls, in Envoy's words, and never from the caller.
func testForwardedCert(t *testing.T, d *dataPlane) {
	var seen http.Header
	d.answer(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() })
	chain, key := d.authority(t).Chain(t, "spiffe://cluster.local/ns/shop/sa/web")
	sum := sha256.Sum256(chain[0].Raw)
	want := "By=spiffe://cluster.local/ns/shop/sa/api;Hash=" + hex.EncodeToString(sum[:]) + `;Subject="";URI=spiffe://cluster.local/ns/shop/sa/web`
	forged := "By=spiffe://x;Hash=00;URI=spiffe://cluster.local/ns/shop/sa/admin"
	for name, fields := range map[string]string{
		"none": "", "one": "X-Forwarded-Client-Cert: " + forged + "\r\n", "case": "x-FORWARDED-client-CERT: " + forged + "\r\n",
		"three": strings.Repeat("x-forwarded-client-cert: "+forged+"\r\n", 3), "empty": "X-Forwarded-Client-Cert:\r\n",
	} {
		send := "GET / HTTP/1.1\r\nHost: api.shop\r\n" + fields + "\r\n"
		conn, err := tls.Dial("tcp", d.inbound(portHTTP), as(chain, key, "istio-http/1.1"))
		c := newClient(t, conn, err)
		c.send(send)
		c.response("GET")
		if got := seen.Values("X-Forwarded-Client-Cert"); len(got) != 1 || got[0] != want {
			t.Errorf("%s over mTLS: the program saw %q, want %q", name, got, want)
		}
		for _, port := range []string{portPermissive, portDisable} {
			c = dialRaw(t, d.inbound(port))
			c.send(send)
			c.response("GET")
			if got := seen.Values("X-Forwarded-Client-Cert"); len(got) != 0 {
				t.Errorf("%s in plaintext on %s: the program saw %q", name, port, got)
			}
		}
	}
	seen = nil
	for _, spelling := range []string{"x_forwarded_client_cert", "X-Forwarded_Client-Cert", "x-forwarded-client-cert ", "x-forwarded-client-cert\t"} {
		conn, err := tls.Dial("tcp", d.inbound(portHTTP), as(chain, key, "istio-http/1.1"))
		c := newClient(t, conn, err)
		c.send("GET / HTTP/1.1\r\nHost: api.shop\r\n" + spelling + ": " + forged + "\r\n\r\n")
		if resp, _ := c.response("GET"); resp.StatusCode != 400 || seen != nil {
			t.Errorf("%q: %d, and the program saw %v", spelling, resp.StatusCode, seen)
		}
	}
}

func testPermissive(t *testing.T, d *dataPlane) {
	if out, _ := curl(t, "http://"+d.inbound(portPermissive)+"/"); !strings.HasPrefix(out, "HTTP/1.1 200") || strings.Contains(out, "URI=") {
		t.Errorf("plaintext: %q", out)
	}
	for _, alpn := range []string{"istio-http/1.1", "istio"} {
		c := d.dialAs(t, "web", d.inbound(portPermissive), alpn)
		c.send(oneRequest)
		if _, body := c.response("GET"); !strings.Contains(body, "URI=spiffe://cluster.local/ns/shop/sa/web") {
			t.Errorf("%s: %q", alpn, body)
		}
	}
	for _, more := range [][]string{nil, {"--no-alpn"}, {"--tlsv1.2", "--tls-max", "1.2"}} {
		if out, _ := curl(t, append(more, "-k", "https://"+d.inbound(portTLSProgram)+"/")...); !strings.HasSuffix(out, "program's own TLS") {
			t.Errorf("the program's TLS %v: %q", more, out)
		}
	}
	c := dialRaw(t, d.inbound(portTLSProgram)) // a ClientHello in small pieces
	slow := tls.Client(&pieces{c.Conn}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := slow.Handshake(); err != nil {
		t.Errorf("a ClientHello in pieces: %v", err)
	}
	c = d.dialAs(t, "web", d.inbound(portTCPPerm), "istio")
	if got := c.line(); got != "banner" {
		t.Errorf("TCP over mTLS: %q", got)
	}
}

// pieces writes a few bytes at a time.
type pieces struct{ net.Conn }

func (p *pieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = p.Conn.Write(b[:min(len(b), 100)])
		n, b = n+m, b[m:]
		time.Sleep(time.Millisecond)
	}
	return n, err
}

// First bytes are awaited for protocolDetectionTimeout: then a TCP port is plain TCP, and an HTTP one closes.
func testSilence(t *testing.T, d *dataPlane) {
	begin := time.Now()
	c := dialRaw(t, d.inbound(portTCPPerm))
	h := dialRaw(t, d.inbound(portPermissive))
	if got := c.line(); got != "banner" || time.Since(begin) < 600*time.Millisecond || time.Since(begin) > 3*time.Second {
		t.Errorf("TCP: %q after %v", got, time.Since(begin))
	}
	c.send("and now\n")
	if got := c.line(); got != "and now" {
		t.Errorf("TCP: %q", got)
	}
	if all, err := h.rest(); all != "" || err != nil || time.Since(begin) > 3*time.Second {
		t.Errorf("HTTP: %q, %v after %v", all, err, time.Since(begin))
	}
	c = dialRaw(t, d.inbound(portTCPPerm)) // nothing will come, and that is known at once
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if all, err := c.rest(); all != "banner\nbye\n" || err != nil {
		t.Errorf("half-closed TCP: %q, %v", all, err)
	}
	begin = time.Now()
	strict := dialRaw(t, d.inbound(portHTTP)) // a handshake that never comes is given up, but not that soon
	_ = strict.SetReadDeadline(begin.Add(time.Second))
	if _, err := strict.in.Peek(1); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("STRICT: %v", err)
	}
}

func testDisable(t *testing.T, d *dataPlane) {
	if out, _ := curl(t, "http://"+d.inbound(portDisable)+"/"); !strings.HasPrefix(out, "HTTP/1.1 200") {
		t.Errorf("plaintext: %q", out)
	}
	if out, _ := curl(t, "-k", "https://"+d.inbound(portTCPDisable)+"/"); !strings.HasSuffix(out, "program's own TLS") {
		t.Errorf("TLS to a TCP port: %q", out)
	}
	// Even a workload's own TLS is not for us there.
	chain, key := d.authority(t).Chain(t, "spiffe://cluster.local/ns/shop/sa/web")
	conn, err := tls.Dial("tcp", d.inbound(portTCPDisable), as(chain, key))
	c := newClient(t, conn, err)
	if dns := conn.ConnectionState().PeerCertificates[0].DNSNames; len(dns) != 1 || dns[0] != "program.example" {
		t.Errorf("TLS was ended by %v", conn.ConnectionState().PeerCertificates[0])
	}
	c.send(oneRequest)
	if _, body := c.response("GET"); body != "program's own TLS" {
		t.Errorf("%q", body)
	}
}

// When a port becomes STRICT, what came in as plaintext ends.
func testModeChanges(t *testing.T, d *dataPlane) {
	plain, busy := dialRaw(t, d.inbound(portPermissive)), dialRaw(t, d.inbound(portPermissive))
	tcp := dialRaw(t, d.inbound(portTCPPerm))
	tcp.send("x\n")
	tcp.line()
	known := d.dialAs(t, "web", d.inbound(portPermissive), "istio-http/1.1")
	keep := "GET / HTTP/1.1\r\nHost: api.shop\r\n\r\n"
	for _, c := range []*client{plain, known} {
		c.send(keep)
		c.response("GET")
	}
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "begun")
		w.(http.Flusher).Flush()
		if r.URL.Path == "/busy" {
			<-r.Context().Done()
		}
	})
	busy.send("GET /busy HTTP/1.1\r\nHost: api.shop\r\n\r\n")
	for busy.line() != "begun" {
	}
	yaml := fmt.Sprintf(dataPlaneYAML, d.ip)
	d.write("mesh.yaml", strings.NewReplacer("8081: {mode: PERMISSIVE}", "8081: {mode: STRICT}", "9001: {mode: PERMISSIVE}", "9001: {mode: STRICT}").Replace(yaml))
	defer d.write("mesh.yaml", yaml)
	for name, c := range map[string]*client{"tcp": tcp, "busy": busy} {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.rest(); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s goes on", name)
		}
	}
	_, _ = io.WriteString(plain, keep)
	if all, _ := plain.rest(); all != "" {
		t.Errorf("plaintext under STRICT got %q", all)
	}
	known.send(keep)
	if resp, err := http.ReadResponse(bufio.NewReader(known.in), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the mTLS connection: %v, %v", resp, err)
	}
}
