package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// drum sends requests without a pause, over kept connections and new ones, and notes each that does not get 200.
type drum struct {
	sent    atomic.Int64
	mu      sync.Mutex
	faults  []string
	stop    context.CancelFunc
	workers sync.WaitGroup
}

func startDrum(t *testing.T, proxy, target string) *drum {
	ctx, cancel := context.WithCancel(t.Context())
	d := &drum{stop: cancel}
	for i := range 6 {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy}), DisableKeepAlives: i%3 == 0, MaxIdleConnsPerHost: 1}
		method := []string{http.MethodGet, http.MethodPost}[i%2]
		d.workers.Go(func() {
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil {
				if fault := d.beat(ctx, tr, method, target); fault != "" && ctx.Err() == nil {
					d.mu.Lock()
					d.faults = append(d.faults, time.Now().UTC().Format("15:04:05.000 ")+fault)
					d.mu.Unlock()
				}
				d.sent.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { cancel(); d.workers.Wait() })
	return d
}

func (d *drum) beat(ctx context.Context, tr *http.Transport, method, target string) string {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("ledger entry")
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s: %s %.200q %v", method, resp.Status, text, err)
	}
	return ""
}

// quiet checks that nothing failed since the last time.
func (d *drum) quiet(t *testing.T, what string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.faults); n > 0 {
		t.Errorf("%s: %d requests failed, first: %s", what, n, strings.Join(d.faults[:min(n, 4)], "\n"))
	}
	d.faults = nil
}

// within is eventually with the promise that a change takes effect within a second; it logs how long it took. The machine
// that runs the tests is given as much again.
func within(t *testing.T, what string, f func() string) {
	t.Helper()
	began := time.Now()
	eventually(t, 2*time.Second, f)
	t.Logf("%s: %s", what, time.Since(began).Round(time.Millisecond))
}

// till is one version of the service that is reloaded: a workload, its Sidecar and what came through it.
type till struct {
	name, ip string
	port     int
	seen     *atomic.Int64
}

func newTill(t *testing.T, name, ip string) till {
	seen := &atomic.Int64{}
	port := echo(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/" {
			seen.Add(1)
		}
		fmt.Fprintf(w, "%s %s\n", name, r.Header.Get("x-route"))
	})
	return till{name, ip, port, seen}
}

func (l till) objects(inbound int) string {
	return objects(entry("shop/"+l.name, l.ip, l.name, "app: till, version: "+l.name, fmt.Sprintf(", ports: {http: %d}", inbound)),
		networkingObject("Sidecar", "shop/"+l.name, fmt.Sprintf("workloadSelector: {labels: {version: %s}}\ningress:\n- port: {number: %d, name: http, protocol: HTTP}\n  defaultEndpoint: 127.0.0.1:%d", l.name, inbound, l.port)))
}

const tillService = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: till, namespace: shop}
spec:
  hosts: [till.shop]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: till}}
`

func tillRoute(value string) string {
	return networkingObject("VirtualService", "shop/till", "hosts: [till.shop]\nhttp:\n- headers: {request: {set: {x-route: "+value+"}}}\n  route: [{destination: {host: till.shop}}]")
}

// reload is the mesh that is changed while it works.
type reload struct {
	*running
	a, b  till
	proxy string
	drum  *drum
}

func newReload(t *testing.T) *reload {
	ip := addr()
	r := &reload{a: newTill(t, "a", ip+"2"), b: newTill(t, "b", ip+"3")}
	r.running = up(t, map[string]string{"base.yaml": objects(entry("shop/cart", ip+"1", "cart", "", ""), entry("shop/other", ip+"9", "other", "", ""), tillService, strict),
		"a.yaml": r.a.objects(8080), "route.yaml": tillRoute("one")})
	r.proxy = r.workload("shop/cart").Outbound
	r.drum = startDrum(t, r.proxy, "http://till.shop/")
	return r
}

func (r *reload) get(path string) string {
	out, _ := curl(r.t, "-x", "http://"+r.proxy, "http://till.shop"+path)
	return out
}

func (r *reload) answers(t *testing.T, what, path, want string) {
	t.Helper()
	within(t, what, func() string {
		if out := r.get(path); !strings.Contains(out, want) {
			return "answer: " + out
		}
		return ""
	})
}

// put writes a file in place, as a shell's redirection does.
func (r *reload) put(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reload) remove(name string) {
	r.t.Helper()
	if err := os.Remove(filepath.Join(r.Dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	r := newReload(t)
	t.Run("workloads", r.workloads)
	t.Run("ports", r.ports)
	t.Run("addresses", r.addresses)
	t.Run("roles", r.roles)
	t.Run("routes and policies", r.rules)
	t.Run("broken files", r.broken)
	t.Run("files being saved", r.saves)
	t.Run("moving", r.moves)
	t.Run("service account", r.accounts)
	t.Run("crashes", r.crashes)
	if n := r.drum.sent.Load(); n < 1000 {
		t.Errorf("only %d requests were sent", n)
	}
	t.Logf("%d requests", r.drum.sent.Load())
}

func (r *reload) workloads(t *testing.T) {
	for range 2 {
		r.put("b.yaml", r.b.objects(8080))
		before := r.b.seen.Load()
		within(t, "a new workload takes traffic", func() string {
			if r.b.seen.Load() > before+10 {
				return ""
			}
			return "b has no traffic\n" + r.Log()
		})
		r.drum.quiet(t, "a workload was added")
		r.remove("b.yaml")
		within(t, "a removed workload gets no more traffic", func() string {
			before := r.b.seen.Load()
			time.Sleep(200 * time.Millisecond)
			if r.b.seen.Load() == before {
				return ""
			}
			return "b has traffic"
		})
		eventually(t, 8*time.Second, func() string {
			for _, d := range descendants(r.State) {
				if strings.Contains(d, "shop.b/") {
					return "its sidecar is there: " + d
				}
			}
			return ""
		})
		r.drum.quiet(t, "a workload was removed")
	}
}

func (r *reload) ports(t *testing.T) {
	for _, port := range []int{8090, 8080} {
		r.put("a.yaml", r.a.objects(port))
		within(t, "a changed port", func() string {
			if got := code(t, fmt.Sprintf("http://%s:%d/", r.a.ip, port)); got != "curl 52" && got != "curl 56" {
				return "the new port gives " + got
			}
			if got := code(t, fmt.Sprintf("http://%s:%d/", r.a.ip, 8080+8090-port)); got != "curl 7" {
				return "the old port gives " + got
			}
			return ""
		})
		r.drum.quiet(t, "a port changed")
	}
}

// addresses gives the workload another address and its own again.
func (r *reload) addresses(t *testing.T) {
	own := r.a.ip
	for _, ip := range []string{own + "2", own} {
		before := r.a.ip
		r.a.ip = ip
		r.put("a.yaml", r.a.objects(8080))
		within(t, "a changed address", func() string {
			if got := code(t, "http://"+ip+":8080/"); got != "curl 52" && got != "curl 56" {
				return "the new address gives " + got
			}
			if got := code(t, "http://"+before+":8080/"); got != "curl 7" {
				return "the old address gives " + got
			}
			return ""
		})
		r.drum.quiet(t, "an address changed")
	}
}

// roles lets an inbound and an outbound listener change places, which takes that neither is closed before it is opened.
func (r *reload) roles(t *testing.T) {
	for _, port := range []int{8080, 8090, 8080} {
		text := strings.Replace(r.a.objects(port), "ingress:", fmt.Sprintf("egress:\n  - port: {number: %d, name: p, protocol: HTTP_PROXY}\n    bind: %s\n    hosts: [\"*/*\"]\n  ingress:", 8080+8090-port, r.a.ip), 1)
		r.put("a.yaml", text)
		within(t, "listeners in other roles", func() string {
			if got := code(t, fmt.Sprintf("http://%s:%d/", r.a.ip, port)); got != "curl 52" && got != "curl 56" {
				return fmt.Sprintf("inbound %d gives %s", port, got)
			}
			if got := code(t, "-x", fmt.Sprintf("http://%s:%d", r.a.ip, 8080+8090-port), "http://till.shop/"); got != "200" {
				return fmt.Sprintf("outbound %d gives %s", 8080+8090-port, got)
			}
			return ""
		})
	}
	r.put("a.yaml", r.a.objects(8080))
	r.answers(t, "afterwards", "/", "a one")
	r.drum.mu.Lock()
	r.drum.faults = nil // what a caller sent to a port whose role had just changed was refused
	r.drum.mu.Unlock()
}

func (r *reload) rules(t *testing.T) {
	r.put("route.yaml", tillRoute("two"))
	r.answers(t, "a changed route", "/", "a two")
	r.put("deny.yaml", policy("shop/deny", "action: DENY\nrules: [{to: [{operation: {paths: [/secret*]}}]}]"))
	r.answers(t, "a new policy", "/secret", "403")
	r.remove("deny.yaml")
	r.answers(t, "a removed policy", "/secret", "200")
	r.remove("route.yaml")
	r.answers(t, "a removed route", "/", "a \n")
	r.put("route.yaml", tillRoute("one"))
	r.answers(t, "a new route", "/", "a one")
	r.drum.quiet(t, "routes and policies changed")
}

func (r *reload) broken(t *testing.T) {
	r.put("route.yaml", "kind: [\n")
	r.logged(t, `route\.yaml:1`, "what the file held stays in force")
	r.put("route.yaml", strings.Replace(tillRoute("bad"), "route: [", "rout: [", 1))
	r.logged(t, `route\.yaml:\d+:\d+: VirtualService shop/till: spec\.http\[0\]\.rout`, "the last good version stays in force")
	r.put("a.yaml", strings.Replace(r.a.objects(8080), r.a.ip, "300.1.2.3", 1))
	r.logged(t, `a\.yaml:\d+:\d+: WorkloadEntry shop/a: spec\.address`)
	if out := r.get("/"); !strings.Contains(out, "a one") {
		t.Errorf("answer: %s", out)
	}
	// A control plane that starts now still knows them.
	r.signal("role-control", syscall.SIGKILL)
	time.Sleep(time.Second)
	r.pidOf("role-control")
	if out := r.get("/"); !strings.Contains(out, "a one") {
		t.Errorf("after a restart of the control plane: %s", out)
	}
	r.put("route.yaml", tillRoute("one"))
	r.put("a.yaml", r.a.objects(8080))
	time.Sleep(time.Second)
	r.drum.quiet(t, "files were broken")
}

// saves are the ways in which files come to be saved; none deletes what they hold or shows a half of it.
func (r *reload) saves(t *testing.T) {
	whole := r.a.objects(8080) + "\n---" + tillRoute("saved")
	stays := func(how string) {
		t.Helper()
		for range 10 {
			if out := r.get("/"); !strings.Contains(out, "HTTP/1.1 200") {
				t.Fatalf("%s: %s", how, out)
			}
			time.Sleep(70 * time.Millisecond)
		}
		r.drum.quiet(t, how)
	}
	r.remove("route.yaml")
	r.put("a.yaml", whole)
	r.answers(t, "an object moves with its file's rewriting", "/", "a saved")
	r.put("a.yaml", "")
	stays("an empty file")
	r.put("a.yaml", whole[:len(whole)/2-3])
	stays("half a file")
	for i := range 6 { // about 300 ms
		r.put("a.yaml", whole[:len(whole)*(i+1)/6])
		time.Sleep(50 * time.Millisecond)
	}
	r.answers(t, "a file written in pieces", "/", "a saved")
	for range 3 { // as vi does
		name := filepath.Join(r.Dir, "a.yaml")
		if err := os.Rename(name, name+"~"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		r.put("a.yaml", whole)
	}
	stays("away and back")
	r.remove("a.yaml")
	time.Sleep(200 * time.Millisecond)
	r.put("a.yaml", strings.Replace(whole, "saved", "again", 1))
	r.answers(t, "deleted and created again", "/", "a again")
	r.write("a.yaml", strings.Replace(whole, "saved", "renamed", 1))
	r.answers(t, "an atomic rename", "/", "a renamed")
	r.drum.quiet(t, "saves")
}

func (r *reload) moves(t *testing.T) {
	r.put("a.yaml", r.a.objects(8080))
	time.Sleep(100 * time.Millisecond)
	r.put("elsewhere.yaml", tillRoute("moved"))
	r.answers(t, "an object in another file", "/", "a moved")
	r.put("elsewhere.yaml", objects(tillRoute("moved"), r.a.objects(8080)))
	r.remove("a.yaml")
	time.Sleep(1200 * time.Millisecond)
	if out := r.get("/"); !strings.Contains(out, "a moved") {
		t.Errorf("answer: %s", out)
	}
	r.drum.quiet(t, "objects moved")
}

// accounts gives a workload another identity: its sidecar starts anew with it.
func (r *reload) accounts(t *testing.T) {
	base, err := os.ReadFile(filepath.Join(r.Dir, "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r.put("base.yaml", strings.Replace(string(base), "serviceAccount: other", "serviceAccount: renamed", 1))
	r.logged(t, `certificate in use.*shop\.other.*/ns/shop/sa/renamed`)
	r.drum.quiet(t, "a bystander's identity changed")
	until := func(want string) {
		t.Helper()
		eventually(t, 4*time.Second, func() string {
			if out, _ := curl(t, "-x", "http://"+r.workload("shop/other").Outbound, "http://till.shop/"); !strings.Contains(out, want) {
				return out
			}
			return ""
		})
	}
	until("200")
	r.put("only.yaml", policy("shop/only", "selector: {matchLabels: {app: till}}\naction: DENY\nrules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/renamed]}}]}]"))
	until("403")
	r.remove("only.yaml")
	until("200")
}

// crashes kills the control plane and a sidecar.
func (r *reload) crashes(t *testing.T) {
	r.drum.quiet(t, "before")
	before := r.pidOf("role-control")
	r.signal("role-control", syscall.SIGKILL)
	r.logged(t, "control plane ended; traffic goes on")
	eventually(t, 5*time.Second, func() string {
		if r.pidOf("role-control") == before {
			return "no new control plane"
		}
		return ""
	})
	eventually(t, 8*time.Second, func() string { // sidecars come back to it within their back-off
		r.put("elsewhere.yaml", objects(tillRoute("after"), r.a.objects(8080)))
		if out := r.get("/"); !strings.Contains(out, "a after") {
			return out
		}
		return ""
	})
	r.drum.quiet(t, "the control plane was killed")

	var pid int
	eventually(t, time.Second, func() string {
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range paths {
			if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), r.State+"/run/shop.a/token") {
				_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
			}
		}
		if pid == 0 {
			return "no sidecar"
		}
		return ""
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.logged(t, `sidecar ended.*shop\.a state="signal: killed"`)
	eventually(t, 5*time.Second, func() string {
		if out := r.get("/"); !strings.Contains(out, "HTTP/1.1 200") {
			return out
		}
		return ""
	})
	t.Logf("a killed sidecar serves again after %s", time.Since(began))
	time.Sleep(300 * time.Millisecond)
	r.drum.mu.Lock()
	r.drum.faults = nil // nobody else could have answered
	r.drum.mu.Unlock()
	time.Sleep(500 * time.Millisecond)
	r.drum.quiet(t, "after the restart")
}
