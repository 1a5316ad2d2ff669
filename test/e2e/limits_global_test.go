package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bench is a mesh in which web calls three replicas of oven, and till.
func bench(ip string, program int) string {
	sidecar := func(name string) string {
		return networkingObject("Sidecar", "lab/"+name, fmt.Sprintf(`
workloadSelector: {labels: {app: %s}}
ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, name, program))
	}
	service := func(name string) string {
		return networkingObject("ServiceEntry", "lab/"+name, fmt.Sprintf(`
hosts: [%s.lab]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {app: %[1]s}}`, name))
	}
	docs := []string{strict, meshConfig(inJSON), sidecar("oven"), sidecar("till"), service("oven"), service("till"),
		entry("lab/web", ip+"1", "web", "app: web", ""), entry("lab/desk", ip+"2", "desk", "app: desk", ""), entry("lab/till", ip+"20", "till", "app: till", "")}
	for i := range replicas {
		docs = append(docs, entry(fmt.Sprintf("lab/oven%d", i), fmt.Sprintf("%s1%d", ip, i), "oven", "app: oven", ""))
	}
	return objects(docs...)
}

const replicas = 3

// globalLimits let each path of oven have its own rule.
var globalLimits = rateLimit("lab/oven", `
selector: {matchLabels: {app: oven}}
global:
  rules:
  - {clientSelectors: [{path: {value: /day}}], limit: {requests: 12, unit: Day}, onStoreFailure: Deny}
  - {clientSelectors: [{path: {value: /hour}}], limit: {requests: 12, unit: Hour}, onStoreFailure: Deny}
  - {clientSelectors: [{path: {value: /each}, identity: {type: Distinct}}], limit: {requests: 4, unit: Hour}, onStoreFailure: Deny}
  - {clientSelectors: [{path: {value: /shut}}], limit: {requests: 100000, unit: Hour}, onStoreFailure: Deny}
  - {clientSelectors: [{path: {value: /open}}], limit: {requests: 3, unit: Hour}, onStoreFailure: Allow}
  - {clientSelectors: [{path: {value: /fair}}], limit: {requests: 30, unit: Hour}, onStoreFailure: Local}
  - {clientSelectors: [{path: {value: /rate}}], limit: {requests: 60, unit: Second, burst: 30}, onStoreFailure: Deny}`)

// pantry is a bench whose limits a real Redis keeps.
type pantry struct {
	*running
	redis *redisServer
	t     *testing.T
	flags []string
}

func newPantry(t *testing.T, redis *redisServer, limits string) *pantry {
	t.Helper()
	k := &pantry{redis: redis, t: t, flags: redis.flags()}
	k.running = up(t, map[string]string{"mesh.yaml": bench(addr(), echo(t, nil)), "limits.yaml": limits}, k.flags...)
	return k
}

// storeStatus is the part of `signet status -o json` that tests read.
type storeStatus struct {
	Control struct {
		Problems []struct{ State, Kind, Namespace, Name, Field, Message string }
	}
	Sidecars []struct {
		Workload struct{ Name string }
		Policies struct {
			Store *struct {
				State, Error string
				Replicas     int
			}
		}
	}
}

// status asks as a person does.
func (m *running) status(t *testing.T) (s storeStatus, exit int) {
	t.Helper()
	out, errs, exit := run(t, "signet", "status", "-o", "json", "--state", m.State)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v in %q: %s", err, out, errs)
	}
	return s, exit
}

// store waits until all replicas say that the store is up or away.
func (k *pantry) store(state string) {
	k.t.Helper()
	eventually(k.t, 15*time.Second, func() string {
		s, _ := k.status(k.t)
		n := 0
		for _, x := range s.Sidecars {
			switch st := x.Policies.Store; {
			case st == nil && strings.HasPrefix(x.Workload.Name, "oven"):
				return x.Workload.Name + " has no store"
			case st != nil && !strings.HasPrefix(x.Workload.Name, "oven"):
				return x.Workload.Name + " was told of a store that it does not need"
			case st == nil:
			case st.State != state || state == "up" && st.Replicas != replicas:
				return fmt.Sprintf("%s: %+v, want %s", x.Workload.Name, *st, state)
			default:
				n++
			}
		}
		if n != replicas {
			return fmt.Sprintf("%d replicas", n)
		}
		return ""
	})
	want := map[string]float64{"up": 1, "away": 0}[state]
	if got := k.metric(k.t, "lab/oven0", "signet_ratelimit_store_up"); got != want {
		k.t.Errorf("signet_ratelimit_store_up is %v while the store is %s", got, state)
	}
}

// answer is what a caller got.
type answer struct {
	code   int
	header http.Header
	took   time.Duration
}

// get asks oven once on behalf of a caller.
func (k *pantry) get(caller, path string) answer {
	k.t.Helper()
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: k.workload("lab/" + caller).Outbound}), DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(k.t.Context(), http.MethodGet, "http://oven.lab"+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	began := time.Now()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		k.t.Fatalf("%s: %v", path, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return answer{resp.StatusCode, resp.Header, time.Since(began)}
}

// exhaust asks until n requests passed and then as often again: no more may. What one replica has at hand and does not use
// is there for the others after a moment, so that a refusal before is none for good.
func (k *pantry) exhaust(caller, path string, n int) {
	k.t.Helper()
	passed := 0
	eventually(k.t, 20*time.Second, func() string {
		if k.get(caller, path).code == http.StatusOK {
			passed++
		}
		if passed < n {
			return fmt.Sprintf("%s %s: %d passed, want %d", caller, path, passed, n)
		}
		return ""
	})
	k.spent(caller, path, n)
}

// spent checks that a limit lets nobody through, because it is reached and not because the store was not asked.
func (k *pantry) spent(caller, path string, times int) {
	k.t.Helper()
	for range times {
		eventually(k.t, 10*time.Second, func() string {
			a := k.get(caller, path)
			if a.code != http.StatusTooManyRequests || a.header.Get("retry-after") == "" {
				k.t.Errorf("%s %s passes after its limit: %d %v", caller, path, a.code, a.header)
			} else if !strings.Contains(a.header.Get("ratelimit"), ";r=0;") {
				return fmt.Sprintf("%s %s: not judged by the store: %v", caller, path, a.header)
			}
			return ""
		})
	}
}

// always checks one status several times in a row, that no request hangs, and gives what it should until then.
func (k *pantry) always(path string, want int) {
	k.t.Helper()
	row := 0
	eventually(k.t, 10*time.Second, func() string {
		a := k.get("web", path)
		k.prompt(path, a)
		if row++; a.code != want {
			row = 0
		}
		if row < 10 {
			return fmt.Sprintf("%s: %d %v, want %d", path, a.code, a.header, want)
		}
		return ""
	})
}

func (k *pantry) prompt(path string, a answer) {
	k.t.Helper()
	if a.took > time.Second {
		k.t.Errorf("%s took %s", path, a.took)
	}
}

// beforeMidnight waits where a day would end within the test, so that its quota is one.
func beforeMidnight() {
	now := time.Now().UTC()
	if left := now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now); left < 90*time.Second {
		time.Sleep(left + time.Second)
	}
}

// TestGlobalLimits: replicas share limits by a Redis over TLS with a password, while it is there, while it is not, and after
// everything was started anew.
func TestGlobalLimits(t *testing.T) {
	t.Parallel()
	beforeMidnight()
	k := newPantry(t, startRedis(t, true), globalLimits)
	k.store("up")
	k.shares()
	if t.Failed() {
		return
	}
	k.hangs()
	k.secret()
	k.dies()
	k.secret()

	k.stop()
	k.redis.kill()
	k.redis.start()
	k.start(k.flags...)
	k.store("up")
	k.spent("web", "/day", 6)
	k.spent("desk", "/hour", 6)
	k.secret()
}

func (k *pantry) shares() {
	k.t.Helper()
	k.exhaust("web", "/day", 12)
	k.exhaust("web", "/hour", 12)
	k.exhaust("web", "/each", 4)
	k.exhaust("desk", "/each", 4)
	k.always("/shut", 200)
	c := steady(k.t, k.workload("lab/web").Outbound, "http://oven.lab/rate", 800, 5*time.Millisecond)
	c.within(k.t, 60, 30, 0.8, 1.05)
	all := 0
	for i := range replicas {
		w := k.workload(fmt.Sprintf("lab/oven%d", i))
		n, _ := scrape(k.t, w).sum("signet_ratelimit_requests_total", `policy="RateLimitPolicy/lab/oven[6]"`)
		if n == 0 {
			k.t.Errorf("no request reached %s", w.Name)
		}
		all += int(n)
	}
	if all != c.passed+c.refused {
		k.t.Errorf("%d requests are counted, %d were made", all, c.passed+c.refused)
	}
	line := k.logged(k.t, `^\{"workload":"lab.oven`, `"path":"/day"`, `"response_code":429`, `"response_code_details":"[a-z]+_rate_limited`)
	wants(k.t, line, `"response_flags":"RL"`, `"denied_by":"RateLimitPolicy/lab/oven[0]"`)
}

// hangs stops Redis in the middle of everything: it accepts connections and does not answer.
func (k *pantry) hangs() {
	k.t.Helper()
	k.redis.signal(syscall.SIGSTOP)
	for range 30 { // before anybody knows
		for _, path := range []string{"/shut", "/open"} {
			k.prompt(path, k.get("web", path))
		}
	}
	k.store("away")
	k.always("/shut", 429)
	if a := k.get("web", "/shut"); a.header.Get("retry-after") != "1" || a.header.Get("ratelimit") != "" {
		k.t.Errorf("refused for want of the store: %v", a.header)
	}
	k.logged(k.t, `^\{"workload":"lab.oven`, `"path":"/shut"`, `"response_code":429`, `"denied_by":"RateLimitPolicy/lab/oven\[3\]"`)
	k.always("/open", 200)
	passed := 0
	for range 150 {
		a := k.get("web", "/fair")
		k.prompt("/fair", a)
		if a.code == http.StatusOK {
			passed++
		}
	}
	if passed != 30 { // a third by each replica
		k.t.Errorf("%d of a fair share of 30 passed", passed)
	}
	k.redis.signal(syscall.SIGCONT)
	k.store("up")
	k.always("/shut", 200)
	k.spent("web", "/day", 3)
	k.spent("web", "/hour", 3)
}

// dies kills Redis and starts it anew.
func (k *pantry) dies() {
	k.t.Helper()
	k.redis.kill()
	k.store("away")
	k.always("/shut", 429)
	k.always("/open", 200)
	k.redis.start()
	k.store("up")
	k.always("/shut", 200)
	k.spent("web", "/day", 3)
	k.spent("web", "/hour", 3)
}

// secret looks for the password in all that the mesh says of itself.
func (k *pantry) secret() {
	k.t.Helper()
	const part = "Battery"
	if !strings.Contains(redisPassword, part) {
		k.t.Fatal("the password has changed")
	}
	shown := map[string]string{"the log": k.Log()}
	for _, format := range []string{"table", "json"} {
		out, errs, _ := run(k.t, "signet", "status", "-o", format, "--state", k.State)
		shown["status as "+format] = out + errs
		wants(k.t, out, "oven0")
	}
	for _, what := range []string{"cmdline", "environ"} {
		all, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, f := range all {
			b, _ := os.ReadFile(f)
			shown[f] = string(b)
		}
	}
	for _, w := range k.Ready.Workloads {
		for _, page := range []string{"/status", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
			shown[w.Name+page] = adminPage(k.t, w.Admin, page)
		}
		shown[w.Name+" metrics"] = get(k.t, "http://"+w.Metrics+"/stats/prometheus")
	}
	shown["control plane"] = adminPage(k.t, filepath.Join(k.State, "control.sock"), "/status")
	for where, text := range shown {
		if strings.Contains(text, part) {
			k.t.Errorf("%s shows the password", where)
		}
	}
	_ = filepath.WalkDir(k.State, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), part) {
			k.t.Errorf("%s holds the password", path)
		}
		return nil
	})
}

// adminPage reads a page of an admin socket, whatever its status.
func adminPage(t *testing.T, socket, page string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://admin"+page, nil)
	resp, err := tr.RoundTrip(req)
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
