package e2e

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
)

// dataPlane is a mesh for tests of the data path: web and locked (REGISTRY_ONLY) call api, which serves one program on many
// ports.
type dataPlane struct {
	*running
	t         *testing.T
	ip        string // prefix: web is 1, api 2, locked 3
	web       string // web's HTTP proxy
	program   atomic.Pointer[http.HandlerFunc]
	rawPort   int
	talk      atomic.Pointer[func(net.Conn, *bufio.Reader)]
	tlsPort   int
	served    atomic.Int64 // requests that reached the HTTP program
	rawServed atomic.Int64 // connections that reached the raw program
}

// Ports of api. Each is STRICT unless its name says otherwise.
const (
	portHTTP       = "8080"
	portPermissive = "8081"
	portDisable    = "8082"
	portRaw        = "8083"
	portTLSProgram = "8084" // PERMISSIVE, HTTP, with a program that speaks TLS itself
	portTCP        = "9000"
	portTCPPerm    = "9001"
	portTCPDisable = "9002"
)

const dataPlaneYAML = `
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    protocolDetectionTimeout: 0.7s
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web, namespace: shop}
spec: {address: %[1]s1, labels: {app: web}, serviceAccount: web}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: locked, namespace: shop}
spec: {address: %[1]s3, labels: {app: locked}, serviceAccount: locked}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: api, namespace: shop}
spec: {address: %[1]s2, labels: {app: api}, serviceAccount: api}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.shop]
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
  - {number: 81, name: http-raw, protocol: HTTP, targetPort: 8083}
  - {number: 9000, name: tcp, protocol: TCP}
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: api}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {labels: {app: web}}
  egress:
  - port: {number: 9000, name: tcp, protocol: TCP}
    bind: %[1]s1
    hosts: ["shop/api.shop"]
  - hosts: ["*/*"]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: locked, namespace: shop}
spec:
  workloadSelector: {labels: {app: locked}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  mtls: {mode: STRICT}
  portLevelMtls:
    8081: {mode: PERMISSIVE}
    8082: {mode: DISABLE}
    8084: {mode: PERMISSIVE}
    9001: {mode: PERMISSIVE}
    9002: {mode: DISABLE}
`

const dataPlaneIngress = `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: api, namespace: shop}
spec:
  workloadSelector: {labels: {app: api}}
  ingress:
`

// newDataPlane starts the mesh and its programs.
func newDataPlane(t *testing.T) *dataPlane {
	t.Helper()
	d := &dataPlane{t: t, ip: addr()}
	d.answer(nil)
	d.speak(nil)
	http1 := echo(t, func(w http.ResponseWriter, r *http.Request) {
		d.served.Add(1)
		(*d.program.Load())(w, r)
	})
	d.rawPort = listenRaw(t, func(c net.Conn) {
		d.rawServed.Add(1)
		(*d.talk.Load())(c, bufio.NewReader(c))
	})
	d.tlsPort = tlsProgram(t)
	ingress := dataPlaneIngress
	for _, p := range []struct {
		port, protocol string
		target         int
	}{
		{portHTTP, "HTTP", http1}, {portPermissive, "HTTP", http1}, {portDisable, "HTTP", http1}, {portRaw, "HTTP", d.rawPort},
		{portTLSProgram, "HTTP", d.tlsPort}, {portTCP, "TCP", d.rawPort}, {portTCPPerm, "TCP", d.rawPort}, {portTCPDisable, "TCP", d.tlsPort},
	} {
		ingress += fmt.Sprintf("  - {port: {number: %s, name: p%s, protocol: %s}, defaultEndpoint: \"127.0.0.1:%d\"}\n", p.port, p.port, p.protocol, p.target)
	}
	d.running = up(t, map[string]string{"mesh.yaml": fmt.Sprintf(dataPlaneYAML, d.ip), "api.yaml": ingress})
	d.web = d.workload("shop/web").Outbound
	return d
}

// answer sets what the HTTP program does; nil echoes method, target, header and body.
func (d *dataPlane) answer(h http.HandlerFunc) {
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s\nhost: %s\n", r.Method, r.RequestURI, r.Host)
			_ = r.Header.Write(w)
			fmt.Fprint(w, "\n")
			_, _ = io.Copy(w, r.Body)
		}
	}
	d.program.Store(&h)
}

// speak sets what the raw program does with a connection; nil echoes it after a banner.
func (d *dataPlane) speak(f func(net.Conn, *bufio.Reader)) {
	if f == nil {
		f = func(c net.Conn, in *bufio.Reader) {
			_, _ = io.WriteString(c, "banner\n")
			_, _ = io.Copy(c, in)
			_, _ = io.WriteString(c, "bye\n")
		}
	}
	d.talk.Store(&f)
}

// inbound is the address of one of api's ports.
func (d *dataPlane) inbound(port string) string { return d.ip + "2:" + port }

// listenRaw serves each connection with f until the test ends.
func listenRaw(t *testing.T, f func(net.Conn)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// tlsProgram is a program that speaks HTTPS itself, with a certificate of nobody's.
func tlsProgram(t *testing.T) (port int) {
	t.Helper()
	ca := certtest.NewCA(t, "program.example")
	chain, key := ca.Chain(t, "", certtest.AlsoDNS("program.example"))
	cert := tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "program's own TLS") })}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}

// authority is the mesh's CA, from its state directory.
func (m *running) authority(t *testing.T) *certtest.CA {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(m.State, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		return block.Bytes
	}
	parse := func(name string) *x509.Certificate {
		c, err := x509.ParseCertificate(read(name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(m.State, "ca-cert.pem"), filepath.Join(m.State, "ca-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca := parse("ca-cert.pem")
	return &certtest.CA{TrustDomain: m.Ready.TrustDomain, Cert: ca, Key: pair.PrivateKey.(crypto.Signer), Parents: []*x509.Certificate{ca}, Root: parse("root-cert.pem")}
}

// client is a raw connection under test.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func newClient(t *testing.T, c net.Conn, err error) *client {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, c, bufio.NewReader(c)}
}

// dialRaw opens a TCP connection.
func dialRaw(t *testing.T, address string) *client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	return newClient(t, c, err)
}

// as is a client's TLS with that chain.
func as(chain []*x509.Certificate, key any, alpn ...string) *tls.Config {
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, NextProtos: alpn}
}

// dialAs opens a mutual TLS connection as a service account of the mesh.
func (d *dataPlane) dialAs(t *testing.T, account, address string, alpn ...string) *client {
	t.Helper()
	chain, key := d.authority(t).Chain(t, "spiffe://cluster.local/ns/shop/sa/"+account)
	c, err := tls.Dial("tcp", address, as(chain, key, alpn...))
	return newClient(t, c, err)
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// response reads one response with its body.
func (c *client) response(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("reading body of %d after %q: %v", resp.StatusCode, body, err)
	}
	return resp, string(body)
}

func (c *client) line() string {
	c.t.Helper()
	s, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading line: %v (%q)", err, s)
	}
	return strings.TrimRight(s, "\r\n")
}

// rest reads to the end of the connection.
func (c *client) rest() (string, error) {
	b, err := io.ReadAll(c.in)
	return string(b), err
}

// get reads a small page over HTTP.
func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// metric is the value of the first series of a workload whose line begins with prefix, 0 if there is none.
func (m *running) metric(t *testing.T, workload, prefix string) float64 {
	t.Helper()
	for line := range strings.Lines(get(t, "http://"+m.workload(workload).Metrics+"/stats/prometheus")) {
		if strings.HasPrefix(line, prefix) {
			f, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// sidecar is the process of a workload's sidecar.
func (m *running) sidecar(t *testing.T, workload string) (pid int) {
	t.Helper()
	dir := filepath.Dir(m.workload(workload).Admin)
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "role-sidecar") && strings.Contains(string(b), dir) {
			pid, _ = strconv.Atoi(strings.Split(f, "/")[2])
			return pid
		}
	}
	t.Fatalf("no sidecar of %s", workload)
	return 0
}

// memory is VmRSS or VmHWM of a process in MiB.
func memory(t *testing.T, pid int, what string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), what+":")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// descriptors counts the open files of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// goroutines counts those of a sidecar.
func (m *running) goroutines(t *testing.T, workload string) int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.workload(workload).Admin)
	}}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://admin/debug/pprof/goroutine?debug=1", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, _ := bufio.NewReader(resp.Body).ReadString('\n')
	n, err := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
	if err != nil {
		t.Fatalf("goroutine profile begins %q", line)
	}
	return n
}
