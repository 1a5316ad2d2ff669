package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// rateLimit is a RateLimitPolicy.
func rateLimit(key, spec string) string {
	return object("policy.signet.dev/v1alpha1", "RateLimitPolicy", key, spec)
}

const inJSON = "accessLogEncoding: JSON"

// bakery is a mesh whose requests are counted: web and desk call oven, which has two services, and grill.
func bakery(ip string, program int) string {
	service := func(name, labels string, target int) string {
		return networkingObject("ServiceEntry", "lab/"+name, fmt.Sprintf(`
hosts: [%s.lab]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: %d}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {%s}}`, name, target, labels))
	}
	return objects(strict, meshConfig(inJSON),
		entry("lab/web", ip+"1", "web", "app: web", ""),
		entry("lab/desk", ip+"2", "desk", "app: desk", ""),
		entry("lab/oven", ip+"10", "oven", "app: oven", ""),
		entry("lab/grill", ip+"11", "grill", "app: grill", ""),
		networkingObject("Sidecar", "lab/oven", fmt.Sprintf(`
workloadSelector: {labels: {app: oven}}
ingress:
- {port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}
- {port: {number: 8081, name: http-pans, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%[1]d"}`, program)),
		networkingObject("Sidecar", "lab/grill", fmt.Sprintf(`
workloadSelector: {labels: {app: grill}}
ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, program)),
		service("oven", "app: oven", 8080), service("pans", "app: oven", 8081), service("grill", "app: grill", 8080),
		networkingObject("VirtualService", "lab/oven", `
hosts: [oven.lab]
http:
- {name: routed, match: [{uri: {prefix: /routed}}], route: [{destination: {host: oven.lab}}]}
- {name: rest, route: [{destination: {host: oven.lab}}]}`),
	)
}

// localLimits let each path have its own rule. Nothing comes back within the time of a test.
func localLimits(ip string) string {
	return objects(
		rateLimit("lab/oven", strings.ReplaceAll(`
selector: {matchLabels: {app: oven}}
local:
  rules:
  - {clientSelectors: [{path: {type: PathPrefix, value: /each}, identity: {type: Distinct}}], limit: {requests: 2, unit: Hour}}
  - {clientSelectors: [{path: {value: /web}, identity: {type: Exact, value: "spiffe://cluster.local/ns/lab/sa/web"}}], limit: {requests: 1, unit: Hour}}
  - {clientSelectors: [{path: {value: /method}, methods: [{value: GET}, {value: PUT}]}], limit: {requests: 2, unit: Hour}}
  - {clientSelectors: [{path: {value: /tier}, headers: [{name: X-Tier, type: Exact, value: free}]}], limit: {requests: 1, unit: Hour}}
  - {clientSelectors: [{path: {value: /key}, headers: [{name: x-key, type: Distinct}]}], limit: {requests: 1, unit: Hour}}
  - {clientSelectors: [{path: {value: /net}, sourceCIDR: {value: IP1/32}}], limit: {requests: 1, unit: Hour}}
  - {clientSelectors: [{path: {value: /shadow}}], limit: {requests: 1, unit: Hour}, shadowMode: true}
  - {clientSelectors: [{path: {value: /both}}], limit: {requests: 3, unit: Hour}}
  - {clientSelectors: [{path: {type: Exact, value: /both/strict}}], limit: {requests: 1, unit: Hour}}
  - {clientSelectors: [{path: {value: /burst}}], limit: {requests: 60, unit: Hour, burst: 2}}
  - {clientSelectors: [{path: {value: /keep}}], limit: {requests: 2, unit: Hour}}`, "IP", ip)),
		rateLimit("lab/pans", `
targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: pans}]
local: {rules: [{limit: {requests: 2, unit: Hour}}]}`),
		rateLimit("lab/grill", `
targetRefs: [{group: networking.istio.io, kind: WorkloadEntry, name: grill}]
local: {rules: [{limit: {requests: 1, unit: Hour}}]}`),
		rateLimit("lab/routed", `
targetRefs: [{group: networking.istio.io, kind: VirtualService, name: oven, sectionName: routed}]
local: {rules: [{limit: {requests: 2, unit: Hour}}]}`),
	)
}

// TestLocalLimits: what is limited by what, what a refusal looks like, and what log and metrics say of it.
func TestLocalLimits(t *testing.T) {
	t.Parallel()
	ip := addr()
	m := up(t, map[string]string{"mesh.yaml": bakery(ip, echo(t, nil)), "limits.yaml": localLimits(ip)})
	for _, c := range []struct {
		name     string
		requests []string // WHO curl's arguments = status
	}{
		{"each identity", []string{"web oven.lab/each/1 = 200", "web oven.lab/each/2 = 200", "web oven.lab/each/3 = 429", "desk oven.lab/each/1 = 200",
			"desk oven.lab/each/2 = 200", "desk oven.lab/each = 429", "web oven.lab/eachother = 200"}},
		{"one identity", []string{"web oven.lab/web = 200", "web oven.lab/web = 429", "desk oven.lab/web = 200", "desk oven.lab/web = 200"}},
		{"methods", []string{"web oven.lab/method = 200", "web -X PUT oven.lab/method = 200", "web oven.lab/method = 429", "web -X PUT oven.lab/method = 429",
			"web -X POST oven.lab/method = 200"}},
		{"a header", []string{"web -H x-tier:free oven.lab/tier = 200", "desk -H x-tier:free oven.lab/tier = 429", "web -H x-tier:paid oven.lab/tier = 200",
			"web oven.lab/tier = 200"}},
		{"each value of a header", []string{"web -H x-key:a oven.lab/key = 200", "web -H x-key:a oven.lab/key = 429", "web -H x-key:b oven.lab/key = 200"}},
		{"a network", []string{"web oven.lab/net = 200", "web oven.lab/net = 429", "desk oven.lab/net = 200", "desk oven.lab/net = 200"}},
		{"another spelling", []string{"web --path-as-is oven.lab/x/../net = 429", "web oven.lab/%6eet = 429"}},
		{"shadow mode", []string{"web oven.lab/shadow = 200", "web oven.lab/shadow = 200", "web oven.lab/shadow = 200"}},
		{"several rules", []string{"web oven.lab/both/strict = 200", "web oven.lab/both/strict = 429", "web oven.lab/both = 200", "web oven.lab/both = 429"}},
		{"burst", []string{"web oven.lab/burst = 200", "web oven.lab/burst = 200", "web oven.lab/burst = 429"}},
		{"a service", []string{"web pans.lab/ = 200", "desk pans.lab/ = 200", "web pans.lab/ = 429", "web oven.lab/ = 200"}},
		{"a workload", []string{"web grill.lab/ = 200", "desk grill.lab/ = 429"}},
		{"a route", []string{"web oven.lab/routed = 200", "web oven.lab/routed = 200", "web oven.lab/routed = 429", "desk oven.lab/routed = 200", "web oven.lab/ = 200"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, r := range c.requests {
				line, want, _ := strings.Cut(r, " = ")
				args := strings.Fields(line)
				args[len(args)-1] = "http://" + args[len(args)-1]
				if got := code(t, append([]string{"-x", "http://" + m.workload("lab/"+args[0]).Outbound}, args[1:]...)...); got != want {
					t.Errorf("request %d: %s: %s, want %s", i, line, got, want)
				}
			}
		})
	}
	t.Run("fields", func(t *testing.T) { limitFields(t, m) })
	t.Run("access log", func(t *testing.T) { limitsLogged(t, m) })
	t.Run("metrics", func(t *testing.T) { limitsCounted(t, m) })
	t.Run("changes", func(t *testing.T) { limitsKept(t, m) })
}

// field is the value of a header field in curl's output.
func field(t *testing.T, out, name string) string {
	t.Helper()
	f := regexp.MustCompile(`(?im)^` + name + `: *(.*?)\r?$`).FindStringSubmatch(out)
	if f == nil {
		t.Errorf("no field %s:\n%s", name, out)
		return ""
	}
	return f[1]
}

func limitFields(t *testing.T, m *running) {
	web := "http://" + m.workload("lab/web").Outbound
	for _, c := range []struct{ path, policy, limit, retry string }{
		{"pans.lab/", `"pans";q=2;w=3600`, `"pans";r=0;t=3[456]\d\d`, `1[78]\d\d`},
		{"oven.lab/burst", `"oven";q=60;w=3600`, `"oven";r=0;t=1[012]\d`, `[1-6]?\d`},
		{"oven.lab/routed", `"routed";q=2;w=3600`, `"routed";r=0;t=3[456]\d\d`, `1[78]\d\d`},
	} {
		out, _ := curl(t, "-x", web, "http://"+c.path)
		wants(t, out, "HTTP/1.1 429 Too Many Requests")
		for name, want := range map[string]string{"ratelimit-policy": regexp.QuoteMeta(c.policy), "ratelimit": c.limit, "retry-after": c.retry} {
			if got := field(t, out, name); !regexp.MustCompile("^" + want + "$").MatchString(got) {
				t.Errorf("%s: %s is %q, want %s", c.path, name, got, want)
			}
		}
	}
	out, _ := curl(t, "-x", "http://"+m.workload("lab/desk").Outbound, "-H", "x-key: c", "http://oven.lab/keep")
	wants(t, out, "HTTP/1.1 200 OK")
	if got := field(t, out, "ratelimit"); !strings.HasPrefix(got, `"oven";r=1;t=`) || strings.Contains(strings.ToLower(out), "retry-after") {
		t.Errorf("let through with ratelimit %q:\n%s", got, out)
	}
}

// jsonLogged is the last line of a workload's access log for a path that has a status.
func (m *running) jsonLogged(t *testing.T, workload, path string, status int) (members map[string]any) {
	t.Helper()
	line := m.logged(t, `^\{"workload":"`+regexp.QuoteMeta(workload)+`"`, `"path":"`+regexp.QuoteMeta(path)+`"`, fmt.Sprintf(`"response_code":%d,`, status))
	if err := json.Unmarshal([]byte(line), &members); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return members
}

func limitsLogged(t *testing.T, m *running) {
	for _, c := range []struct{ workload, path, by string }{
		{"lab.oven", "/each/3", "RateLimitPolicy/lab/oven[0]"},
		{"lab.oven", "/both/strict", "RateLimitPolicy/lab/oven[8]"},
		{"lab.grill", "/", "RateLimitPolicy/lab/grill[0]"},
		{"lab.web", "/routed", "RateLimitPolicy/lab/routed[0]"},
	} {
		line := m.jsonLogged(t, c.workload, c.path, 429)
		if line["response_flags"] != "RL" || line["denied_by"] != c.by || !strings.HasSuffix(fmt.Sprint(line["response_code_details"]), "_rate_limited{"+c.by+"}") {
			t.Errorf("%s %s: %v", c.workload, c.path, line)
		}
	}
	if line := m.jsonLogged(t, "lab.web", "/each/3", 429); line["response_flags"] != "-" || line["denied_by"] != nil {
		t.Errorf("the caller's side says it refused: %v", line)
	}
	if line := m.logged(t, `"workload":"lab.oven"`, `"path":"/shadow"`, `"dry_run_denied":\["RateLimitPolicy/lab/oven\[6\]"\]`); !strings.Contains(line, `"response_code":200,`) || strings.Contains(line, "denied_by") {
		t.Errorf("shadow mode: %s", line)
	}
	for line := range strings.Lines(m.Log()) {
		if strings.Contains(line, `"workload":"lab.oven"`) && strings.Contains(line, "/routed") && strings.Contains(line, "RateLimitPolicy") {
			t.Errorf("the server limits a route: %s", line)
		}
	}
}

func limitsCounted(t *testing.T, m *running) {
	web, oven, grill := m.workload("lab/web"), m.workload("lab/oven"), m.workload("lab/grill")
	for _, c := range []struct {
		of     status
		metric string
		labels []string
		want   float64
	}{
		{oven, "signet_ratelimit_requests_total", []string{`policy="RateLimitPolicy/lab/oven[0]"`, `outcome="allowed"`}, 4},
		{oven, "signet_ratelimit_requests_total", []string{`policy="RateLimitPolicy/lab/oven[0]"`, `outcome="refused"`}, 2},
		{oven, "signet_ratelimit_requests_total", []string{`policy="RateLimitPolicy/lab/oven[6]"`, `outcome="shadowed"`}, 2},
		{oven, "signet_ratelimit_requests_total", []string{`policy="RateLimitPolicy/lab/oven[6]"`, `outcome="refused"`}, 0},
		{oven, "signet_dry_run_total", []string{`policy="RateLimitPolicy/lab/oven[6]"`, `decision="deny"`}, 2},
		{oven, "istio_requests_total", []string{`denied_by="RateLimitPolicy/lab/oven[0]"`, `response_flags="RL"`, `response_code="429"`,
			`reporter="destination"`, `source_workload="web"`}, 1},
		{grill, "istio_requests_total", []string{`denied_by="RateLimitPolicy/lab/grill[0]"`, `response_flags="RL"`}, 1},
		{web, "istio_requests_total", []string{`denied_by="RateLimitPolicy/lab/routed[0]"`, `response_flags="RL"`, `reporter="source"`}, 2},
		{web, "signet_ratelimit_requests_total", []string{`policy="RateLimitPolicy/lab/routed[0]"`, `outcome="allowed"`}, 2},
	} {
		if got, n := scrape(t, c.of).sum(c.metric, c.labels...); got != c.want || n != 1 {
			t.Errorf("%s: %s%v is %v in %d series, want %v", c.of.Name, c.metric, c.labels, got, n, c.want)
		}
	}
	if got, _ := scrape(t, oven).sum("signet_ratelimit_requests_total", `policy="RateLimitPolicy/lab/routed[0]"`); got != 0 {
		t.Errorf("the server counts by a route's limit: %v", got)
	}
}

// limitsKept: a change of other objects, or of what becomes of a refusal, refills nothing; a change of the limit itself does.
func limitsKept(t *testing.T, m *running) {
	desk := "http://" + m.workload("lab/desk").Outbound
	keep := func() string { return code(t, "-x", desk, "http://oven.lab/keep") }
	for range 2 {
		keep()
	}
	closed := func(path string) { // tells by a path that is closed with it when a change is in force
		t.Helper()
		m.write("policy.yaml", policy("lab/closed", "selector: {matchLabels: {app: oven}}\naction: DENY\nrules: [{to: [{operation: {paths: ["+path+"]}}]}]"))
		eventually(t, 5*time.Second, func() string {
			if got := code(t, "-x", desk, "http://oven.lab"+path); got != "403" {
				return "not in force: " + got
			}
			return ""
		})
	}
	limits := localLimits(strings.TrimSuffix(m.workload("lab/web").Outbound, "1:15001"))
	closed("/closed")
	if got := keep(); got != "429" {
		t.Errorf("after another object changed: %s", got)
	}
	m.write("limits.yaml", limits+"\n---\n"+rateLimit("lab/other", "selector: {matchLabels: {app: oven}}\nlocal: {rules: [{clientSelectors: [{path: {value: /other}}], limit: {requests: 1, unit: Hour}}]}"))
	eventually(t, 5*time.Second, func() string {
		if got := code(t, "-x", desk, "http://oven.lab/other"); got != "429" {
			return "the new limit is not in force: " + got
		}
		return ""
	})
	if got := keep(); got != "429" {
		t.Errorf("after another limit came: %s", got)
	}
	m.write("limits.yaml", strings.Replace(limits, "value: /keep}}], limit: {requests: 2,", "value: /keep}}], limit: {requests: 3600,", 1)) // a bucket that is empty stays so, and refills at the new rate
	eventually(t, 5*time.Second, func() string {
		if got := keep(); got != "200" {
			return "the changed limit is not in force: " + got
		}
		return ""
	})
}

// count is what became of a steady stream of requests.
type count struct {
	passed, refused int
	others          []string
	span            time.Duration // from the first request's start to the last one's
}

// steady offers n requests to a URL through a proxy, one every interval whatever becomes of those before.
func steady(t *testing.T, proxy, target string, n int, interval time.Duration) (c count) {
	t.Helper()
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: proxy}), MaxIdleConnsPerHost: 64}
	defer tr.CloseIdleConnections()
	var mu sync.Mutex
	var workers sync.WaitGroup
	turns := make(chan struct{}, n)
	for range 64 {
		workers.Go(func() {
			for range turns {
				code, fault := fetch(t, tr, target)
				mu.Lock()
				switch {
				case code == http.StatusOK:
					c.passed++
				case code == http.StatusTooManyRequests:
					c.refused++
				default:
					c.others = append(c.others, fmt.Sprint(code, fault))
				}
				mu.Unlock()
			}
		})
	}
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * interval)))
		turns <- struct{}{}
	}
	c.span = time.Since(start)
	close(turns)
	workers.Wait()
	return c
}

func fetch(t *testing.T, tr http.RoundTripper, target string) (int, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, ""
}

// within fails unless what passed is at least low and at most high times what the limit lets through in the time.
func (c *count) within(t *testing.T, rate, burst int, low, high float64) {
	t.Helper()
	offered := float64(c.passed+c.refused) / c.span.Seconds()
	want := float64(rate)*c.span.Seconds() + float64(burst)
	t.Logf("%d of %d passed in %s, which is %.1f %% of the limit; offered %.1f/s", c.passed, c.passed+c.refused, c.span, 100*float64(c.passed)/want, offered)
	if len(c.others) > 0 {
		t.Errorf("%d requests were neither let through nor refused: %q", len(c.others), c.others[:min(len(c.others), 5)])
	}
	if offered < 3*float64(rate) {
		t.Errorf("offered %.1f requests a second, which is not three times the rate", offered)
	}
	if got := float64(c.passed) / want; got < low || got > high {
		t.Errorf("%d passed in %s: %.3f of rate x time + burst, want %v to %v", c.passed, c.span, got, low, high)
	}
}

// TestLocalRate offers over three times the rate for ten seconds.
func TestLocalRate(t *testing.T) {
	t.Parallel()
	ip := addr()
	m := up(t, map[string]string{"mesh.yaml": bakery(ip, echo(t, nil)), "config.yaml": "", "limits.yaml": rateLimit("lab/oven", `
selector: {matchLabels: {app: oven}}
local: {rules: [{limit: {requests: 60, unit: Second, burst: 30}}]}`)})
	c := steady(t, m.workload("lab/web").Outbound, "http://oven.lab/", 2000, 5*time.Millisecond)
	c.within(t, 60, 30, 0.98, 1.02)
	s := scrape(t, m.workload("lab/oven"))
	for outcome, want := range map[string]int{"allowed": c.passed, "refused": c.refused} {
		if got, _ := s.sum("signet_ratelimit_requests_total", `outcome="`+outcome+`"`); int(got) != want {
			t.Errorf("%v counted as %s, the caller saw %d", got, outcome, want)
		}
	}
	if !slices.Contains([]string{"200", "429"}, code(t, "-x", "http://"+m.workload("lab/web").Outbound, "http://oven.lab/")) {
		t.Error("oven does not answer")
	}
}
