package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func testProxyForms(t *testing.T, d *dataPlane) {
	for send, want := range map[string]string{
		"GET http://api.shop/a HTTP/1.1\r\nHost: api.shop\r\n\r\n":      "GET /a\nhost: api.shop\n",
		"GET http://api.shop:80/a?b HTTP/1.1\r\nHost: api.shop\r\n\r\n": "GET /a?b\nhost: api.shop:80\n",
		"GET http://API.shop/a HTTP/1.1\r\nHost: elsewhere\r\n\r\n":     "GET /a\nhost: API.shop\n",
		"GET http://api.shop HTTP/1.1\r\nHost: api.shop\r\n\r\n":        "GET /\nhost: api.shop\n",
		"GET /a HTTP/1.1\r\nHost: api.shop\r\n\r\n":                     "GET /a\nhost: api.shop\n",
		"OPTIONS * HTTP/1.1\r\nHost: api.shop\r\n\r\n":                  "",
	} {
		c := dialRaw(t, d.web)
		c.send(send)
		if resp, body := c.response("GET"); resp.StatusCode != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%q: %d %q", send, resp.StatusCode, body)
		}
	}
}

func testConnect(t *testing.T, d *dataPlane) {
	outside := echo(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "outside ", r.Header.Get("X-Forwarded-Client-Cert"))
	})
	for send, want := range map[string]string{
		"api.shop:80": "URI=spiffe://cluster.local/ns/shop/sa/web", fmt.Sprintf("127.0.0.1:%d", outside): "outside ",
	} {
		c := dialRaw(t, d.web)
		c.send("CONNECT " + send + " HTTP/1.1\r\nHost: " + send + "\r\n\r\nGET /early HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := c.line() + c.line(); got != "HTTP/1.1 200 OK" {
			t.Fatalf("%s: %q", send, got)
		}
		if resp, body := c.response("GET"); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q", send, resp.StatusCode, body)
		}
	}
	c := dialRaw(t, d.web)
	c.send("CONNECT api.shop:9000 HTTP/1.1\r\nHost: api.shop:9000\r\n\r\nearly ")
	if got := c.line() + c.line() + c.line(); got != "HTTP/1.1 200 OKbanner" {
		t.Fatalf("%q", got)
	}
	c.send("late")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if all, err := c.rest(); all != "early latebye\n" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if out, _ := curl(t, "-x", "http://"+d.web, fmt.Sprintf("http://127.0.0.1:%d/", outside)); !strings.HasSuffix(out, "outside ") {
		t.Errorf("a plain request to an unknown host: %q", out)
	}
	// Nobody's CONNECT gets through an inbound port, whose answer would be a tunnel on a shared connection.
	in := d.dialAs(t, "web", d.inbound(portHTTP), "istio-http/1.1")
	in.send("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
	if resp, err := http.ReadResponse(in.in, nil); err != nil || resp.StatusCode != 404 {
		t.Errorf("CONNECT to an inbound port: %v, %v", resp, err)
	}
}

// Where the proxy never leads, in any spelling.
func testForbidden(t *testing.T, d *dataPlane) {
	targets := []string{
		d.web, d.ip + "1:15020", d.ip + "2:15001", d.ip + "2:15006", d.ip + "2:15090", "127.0.0.1:15000", "localhost:15001",
		d.Ready.Control.ADS, "[::ffff:" + strings.TrimSuffix(d.ip, ".") + ".1]:15020",
		"169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "0.0.0.0:8080", "[::]:8080", "224.0.0.1", "255.255.255.255",
	}
	for _, target := range targets {
		if got := code(t, "-x", "http://"+d.web, "http://"+target+"/"); got != "403" {
			t.Errorf("GET %s: %s", target, got)
		}
		c := dialRaw(t, d.web)
		authority := target
		if !strings.Contains(target[strings.LastIndexByte(target, ']')+1:], ":") {
			authority += ":80"
		}
		c.send("CONNECT " + authority + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.response("GET"); resp.StatusCode != 403 {
			t.Errorf("CONNECT %s: %d", authority, resp.StatusCode)
		}
	}
	for _, target := range []string{"2130706433", "0x7f.1:15000", "127.1:15000", "nowhere.invalid"} { // never an address to us
		if got := code(t, "-x", "http://"+d.web, "http://"+target+"/"); got == "200" {
			t.Errorf("GET %s: %s", target, got)
		}
	}
}

func testRegistryOnly(t *testing.T, d *dataPlane) {
	locked := d.workload("shop/locked").Outbound
	outside := echo(t, nil)
	if got := code(t, "-x", "http://"+locked, "http://api.shop/"); got != "200" {
		t.Errorf("a mesh host: %s", got)
	}
	unknown := fmt.Sprintf("127.0.0.1:%d", outside)
	out, _ := curl(t, "-x", "http://"+locked, "http://"+unknown+"/")
	if !strings.HasPrefix(out, "HTTP/1.1 502") || !strings.Contains(out, unknown) || !strings.Contains(out, "REGISTRY_ONLY") {
		t.Errorf("an unknown host: %q", out)
	}
	c := dialRaw(t, locked)
	c.send("CONNECT " + unknown + " HTTP/1.1\r\nHost: " + unknown + "\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 502 || !strings.Contains(body, unknown) {
		t.Errorf("CONNECT to an unknown host: %d %q", resp.StatusCode, body)
	}
}

// A TCP egress listener carries a protocol in which the server speaks first, and half-closes.
func testTCP(t *testing.T, d *dataPlane) {
	c := dialRaw(t, d.ip+"1:9000")
	if got := c.line(); got != "banner" {
		t.Fatal(got)
	}
	want := strings.Repeat("0123456789", 100_000)
	go func() {
		_, _ = io.WriteString(c, want)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}()
	if all, err := c.rest(); all != want+"bye\n" || err != nil {
		t.Errorf("%d bytes, %v", len(all), err)
	}
	d.speak(func(c net.Conn, in *bufio.Reader) { // the server closes first
		_, _ = io.WriteString(c, "gone\n")
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(in)
		d.speak(func(c net.Conn, _ *bufio.Reader) { _, _ = c.Write(b) })
	})
	c = dialRaw(t, d.ip+"1:9000")
	if all, err := c.rest(); all != "gone\n" || err != nil {
		t.Fatalf("%q, %v", all, err)
	}
	c.send("after")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	eventually(t, 5*time.Second, func() string {
		c := dialRaw(t, d.ip+"1:9000")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if all, _ := c.rest(); all != "after" {
			return fmt.Sprintf("the server read %q", all)
		}
		return ""
	})
}

const denyPath = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  action: DENY
  rules:
  - to: [{operation: {ports: ["8080"], paths: ["/denied*"]}}]
  - to: [{operation: {ports: ["9000"]}}]
`

// A policy that changes ends what it denies in the middle, and nothing else.
func testPolicyCloses(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			socketEcho(w, r)
			return
		}
		for r.Context().Err() == nil {
			if _, err := fmt.Fprintln(w, "tick"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	stream := func(path string) *client {
		c := dialRaw(t, d.web)
		c.send("GET " + path + " HTTP/1.1\r\n" + apiHost + "\r\n")
		for c.line() != "tick" {
		}
		return c
	}
	tcp := dialRaw(t, d.ip+"1:9000")
	tcp.line()
	denied := map[string]*client{"socket": openSocket(t, d, "/denied/socket"), "stream": stream("/denied/stream"), "tcp": tcp}
	socket, going := openSocket(t, d, "/socket"), stream("/stream")
	d.write("deny.yaml", denyPath)
	for name, c := range denied {
		begin := time.Now()
		_, _ = c.rest()
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s went on for %v", name, took)
		}
	}
	for range 10 {
		if got := going.line(); got != "tick" && got != "5" && got != "" {
			t.Errorf("the allowed stream: %q", got)
		}
	}
	socket.send(string(frame("still", true)))
	if got, err := readFrame(socket.in); got != "still" || err != nil {
		t.Errorf("the allowed socket: %q, %v", got, err)
	}
	if got := code(t, "-x", "http://"+d.web, "http://api.shop/denied"); got != "403" {
		t.Errorf("denied: %s", got)
	}
	going.Close()
	socket.Close()
	eventually(t, 5*time.Second, func() string {
		for rule := range 2 {
			if want := fmt.Sprintf("rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[%d]]", rule); !strings.Contains(d.Log(), want) {
				return "the log lacks " + want
			}
		}
		return ""
	})
	d.write("deny.yaml", strings.Replace(strings.Replace(denyPath, "/denied", "/nothing", 1), "9000", "9999", 1))
	eventually(t, 5*time.Second, func() string {
		c := dialRaw(t, d.ip+"1:9000")
		b := make([]byte, 1)
		_, err := c.in.Read(b)
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// Listeners come and go without a failed request.
func testRemoval(t *testing.T, d *dataPlane) {
	extra := `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: api2, namespace: shop}
spec: {address: %[1]s4, labels: {app: api2}, serviceAccount: api}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: api2, namespace: shop}
spec:
  workloadSelector: {labels: {app: api2}}
  ingress:
  - {port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%[2]d"}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: two, namespace: shop}
spec:
  hosts: [two.shop]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: %[3]s}}
`
	d.write("extra.yaml", fmt.Sprintf(extra, d.ip, echo(t, nil), "api"))
	eventually(t, 10*time.Second, func() string {
		if got := code(t, "-x", "http://"+d.web, "http://two.shop/"); got != "200" {
			return got
		}
		return ""
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	for range 4 {
		c := dialRaw(t, d.web)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.send("POST / HTTP/1.1\r\nHost: two.shop\r\nContent-Length: 1\r\n\r\n.")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				mu.Lock()
				answers[resp.StatusCode]++
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	port := echo(t, nil)
	for i := range 4 { // to and fro between the two, whose listeners change as well
		d.write("extra.yaml", fmt.Sprintf(extra, d.ip, port, []string{"api2", "api"}[i%2]))
		time.Sleep(700 * time.Millisecond)
	}
	if err := os.Remove(filepath.Join(d.Dir, "extra.yaml")); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	if len(answers) != 1 || answers[200] < 100 {
		t.Errorf("answers: %v", answers)
	}
}
