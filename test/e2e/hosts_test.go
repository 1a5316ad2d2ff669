package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const hostsMesh = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: 10.88.0.1, labels: {app: cart}, serviceAccount: cart}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: thief, namespace: shop}
spec: {address: 10.88.0.3, labels: {app: thief}, serviceAccount: thief}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: pay, namespace: shop}
spec: {address: 10.88.0.2, labels: {app: pay}, serviceAccount: pay, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: late, namespace: shop}
spec: {address: 10.88.0.4, labels: {app: late}, serviceAccount: late}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: pay}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: pay, namespace: shop}
spec:
  workloadSelector: {labels: {app: pay}}
  ingress:
  - port: {number: 8080, name: http, protocol: HTTP}
    defaultEndpoint: 127.0.0.1:9999
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`

const hostsControl = "10.88.0.1:15012"

// daemon is one executable under test, run by hand on a host.
type daemon struct {
	cmd *exec.Cmd
	end chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes standard error.
func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

func (d *daemon) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// daemon starts an executable on a host; it is ended with the test.
func (h *host) daemon(name string, args ...string) *daemon {
	h.t.Helper()
	d := &daemon{end: make(chan struct{})}
	d.cmd = h.command(filepath.Join(bin, name), args...)
	d.cmd.Stderr = d
	if err := d.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = d.cmd.Wait(); close(d.end) }()
	h.t.Cleanup(d.kill)
	return d
}

// kill is kill -9.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.end
}

// terminate is what a service manager does.
func (d *daemon) terminate(t *testing.T) {
	t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.end:
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%v ended with %d after SIGTERM:\n%s", d.cmd.Args, code, d.said())
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%v did not end within 10 s of SIGTERM:\n%s", d.cmd.Args, d.said())
	}
}

// says waits until a daemon has logged something.
func (d *daemon) says(t *testing.T, what string) {
	t.Helper()
	eventually(t, 20*time.Second, func() string {
		if log := d.said(); !strings.Contains(log, what) {
			return fmt.Sprintf("%q was not said:\n%s", what, log)
		}
		return ""
	})
}

// byHand is a mesh on two hosts without signet up.
type byHand struct {
	t          *testing.T
	one, two   *host
	dir, state string
}

func (b *byHand) control() *daemon {
	b.t.Helper()
	d := b.one.daemon("signetd", "--state", b.state, "--control-address", hostsControl, b.dir)
	d.says(b.t, "control plane serves")
	return d
}

// token mints a join token into a file.
func (b *byHand) token(workload string, flags ...string) string {
	b.t.Helper()
	text := must(b.t, "signet", append([]string{"ca", "token", "--state", b.state, workload}, flags...)...)
	file := filepath.Join(b.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return file
}

func (b *byHand) proxy(on *host, control, token, state string) *daemon {
	b.t.Helper()
	run := state
	if run == "" {
		run = shortDir(b.t)
	}
	return on.daemon("signet-proxy", "--control", control, "--token", token, "--state="+state, "--run-dir", run)
}

// want checks what callers on the first host get of pay on the second.
func (b *byHand) want(cart, thief string) {
	b.t.Helper()
	for proxy, want := range map[string]string{"10.88.0.1": cart, "10.88.0.3": thief} {
		eventually(b.t, 10*time.Second, func() string {
			if got := b.one.code("-x", "http://"+proxy+":15001", "-H", "x-marker: plaintext-marker", "http://pay.shop/plaintext-marker"); got != want {
				return fmt.Sprintf("through %s: %s, want %s", proxy, got, want)
			}
			return ""
		})
	}
}

func TestTwoHosts(t *testing.T) {
	t.Parallel()
	b := &byHand{t: t, dir: t.TempDir(), state: shortDir(t)}
	b.one, b.two = twoHosts(t)
	for name, text := range map[string]string{"mesh.yaml": hostsMesh, "policy.yaml": allowCart} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.two.serve("127.0.0.1:9999", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "plaintext-marker %s", r.Header.Get("X-Forwarded-Client-Cert"))
	}))
	control := b.control()
	token, state := b.token("shop/pay", "--ttl", "4s"), shortDir(t)
	expires := time.Now().Add(4 * time.Second)
	pay := b.proxy(b.two, hostsControl, token, state)
	cart := b.proxy(b.one, hostsControl, b.token("shop/cart"), shortDir(t))
	cart.says(t, "sidecar is ready")
	b.proxy(b.one, hostsControl, b.token("shop/thief"), shortDir(t)).says(t, "sidecar is ready")
	pay.says(t, "sidecar is ready")

	wire := b.one.capture()
	b.want("200", "403")
	wire.check(t)
	checkKept(t, state)
	b.strangers(pay)

	// The proxy ends and comes back: its token has expired meanwhile, its identity is kept.
	pay.kill()
	time.Sleep(time.Until(expires.Add(time.Second)))
	pay = b.proxy(b.two, hostsControl, token, state)
	pay.says(t, "sidecar is ready")
	b.want("200", "403")

	// The control plane is away, and the proxy ends and comes back: certificate and policies are the last good ones.
	control.kill()
	pay.kill()
	pay = b.proxy(b.two, hostsControl, token, state)
	pay.says(t, "sidecar is ready")
	b.want("200", "403")

	// The control plane is back with a change, which reaches everybody.
	policy := strings.Replace(allowCart, "sa/cart", "sa/thief", 1)
	if err := os.WriteFile(filepath.Join(b.dir, "policy.yaml"), []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	control = b.control()
	b.want("403", "200")

	// Without a state an expired token is of no use.
	pay.kill()
	stranger := b.proxy(b.two, hostsControl, token, "")
	stranger.says(t, "request authenticate failure")
	if strings.Contains(stranger.said(), "sidecar is ready") {
		t.Error("a sidecar without a state got a certificate for an expired token")
	}
	stranger.kill()
	t.Run("crash before delivery", b.crash)
	cart.terminate(t)
	control.terminate(t)
}

// strangers: a proxy lends its workload's identity, and its host's loopback, to programs of its own host alone.
func (b *byHand) strangers(pay *daemon) {
	b.t.Helper()
	for _, url := range []string{"http://pay.shop/", "http://127.0.0.1:9999/"} {
		if got := b.one.code("-x", "http://10.88.0.2:15001", url); got == "200" || got == "403" || got == "503" {
			b.t.Errorf("the other host's proxy answers %s with %s", url, got)
		}
		if got := b.one.code("-p", "-x", "http://10.88.0.2:15001", url); got == "200" {
			b.t.Errorf("the other host's proxy tunnels to %s", url)
		}
	}
	pay.says(b.t, "not_local")
	if got := b.two.code("-x", "http://10.88.0.2:15001", "http://127.0.0.1:9999/"); got != "200" {
		b.t.Errorf("a program of the proxy's own host gets %s", got)
	}
}

// checkKept: what a sidecar keeps is its owner's alone, and is all there.
func checkKept(t *testing.T, state string) {
	t.Helper()
	for _, name := range []string{"identity.json", "config.pb"} {
		if info, err := os.Stat(filepath.Join(state, name)); err != nil || info.Mode().Perm() != 0o600 || info.Size() < 500 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// crash kills a sidecar between the redemption of its token and the delivery of its certificate, and starts it again.
func (b *byHand) crash(t *testing.T) {
	token, state := b.token("shop/late"), shortDir(t)
	before := b.redeemed()
	slow := b.two.slowly("127.0.0.1:0", hostsControl, 400*time.Millisecond)
	late := b.proxy(b.two, slow, token, state)
	eventually(t, 10*time.Second, func() string {
		if b.redeemed() == before {
			return "the token was not redeemed:\n" + late.said()
		}
		return ""
	})
	late.kill()
	var kept struct{ JoinKey, Key string }
	text, err := os.ReadFile(filepath.Join(state, "identity.json"))
	if err != nil || json.Unmarshal(text, &kept) != nil || kept.JoinKey == "" || kept.Key != "" {
		t.Fatalf("kept at the crash: join key %t, certificate %t, %v", kept.JoinKey != "", kept.Key != "", err)
	}
	b.proxy(b.two, hostsControl, token, state).says(t, "sidecar is ready")
	thief := b.proxy(b.two, hostsControl, token, "")
	thief.says(t, "request authenticate failure") // another key with the same token
}

// redeemed counts the tokens that are bound to a key.
func (b *byHand) redeemed() int {
	keys, _ := filepath.Glob(filepath.Join(b.state, "tokens", "*.key"))
	return len(keys)
}

// serve is a program on a host.
func (h *host) serve(address string, handler http.Handler) {
	h.t.Helper()
	srv := &http.Server{Handler: handler}
	go srv.Serve(h.listen(address))
	h.t.Cleanup(func() { srv.Close() })
}

// slowly relays connections to another address; what comes back is late.
func (h *host) slowly(address, to string, delay time.Duration) string {
	h.t.Helper()
	ln := h.listen(address)
	h.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := h.dial(to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() {
				defer in.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := out.Read(buf)
					time.Sleep(delay)
					if _, werr := in.Write(buf[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

var hostNumber atomic.Int32

// sweepHosts removes what a run that was killed has left.
func sweepHosts() {
	left, _ := filepath.Glob("/run/netns/sg*-*")
	for _, path := range left {
		var pid int
		name := filepath.Base(path)
		if _, err := fmt.Sscanf(name, "sg%d-", &pid); err == nil && !fileExists(fmt.Sprintf("/proc/%d", pid)) {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

// twoHosts makes two network namespaces that a cable joins: 10.88.0.1 and .3 on one, 10.88.0.2 and .4 on the other.
func twoHosts(t *testing.T) (one, two *host) {
	t.Helper()
	sweepHosts()
	n := hostNumber.Add(1)
	one = newHost(t, fmt.Sprintf("sg%d-%da", os.Getpid(), n))
	two = newHost(t, fmt.Sprintf("sg%d-%db", os.Getpid(), n))
	must(t, "ip", "-n", one.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", two.name)
	for h, addresses := range map[*host][]string{one: {"10.88.0.1/24", "10.88.0.3/24"}, two: {"10.88.0.2/24", "10.88.0.4/24"}} {
		for _, a := range addresses {
			must(t, "ip", "-n", h.name, "addr", "add", a, "dev", "cable")
		}
		must(t, "ip", "-n", h.name, "link", "set", "cable", "up")
		must(t, "ip", "-n", h.name, "link", "set", "lo", "up")
	}
	return one, two
}
