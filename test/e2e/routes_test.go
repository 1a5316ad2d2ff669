package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// trade is a mesh of two callers (desk and clerk) and one service with two versions, under many hosts.
func trade(t *testing.T, s *script, routes string) *running {
	ip := addr()
	sidecar := func(version string) string {
		return networkingObject("Sidecar", "trade/rates-"+version, fmt.Sprintf(`
workloadSelector: {labels: {app: rates, version: %[1]s}}
ingress: [{port: {number: 9001, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%[2]d"}]`, version, s.program(t, version)))
	}
	live, dead := s.program(t, "plain"), quietPort(t)
	return up(t, map[string]string{"mesh.yaml": objects(strict,
		entry("trade/desk", ip+"10", "desk", "app: desk, tier: gold", ""),
		entry("office/clerk", ip+"11", "clerk", "app: clerk", ""),
		entry("trade/rates-a", ip+"20", "rates", "app: rates, version: a", ", weight: 1"),
		entry("trade/rates-b", ip+"21", "rates", "app: rates, version: b", ", weight: 1"),
		sidecar("a"), sidecar("b"),
		networkingObject("ServiceEntry", "trade/rates", `
hosts: [match.example, weights.example, change.example, redirect.example, direct.example, slow.example, default.example,
  retry.example, turns.example, dice.example, light.example, host.example, moved.example]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9001}, {number: 8081, name: http-two, protocol: HTTP, targetPort: 9001}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {app: rates}}`),
		networkingObject("ServiceEntry", "trade/half", fmt.Sprintf(`
hosts: [half.example]
ports: [{number: 80, name: http, protocol: HTTP}]
resolution: STATIC
endpoints: [{address: 127.0.0.1, ports: {http: %d}}, {address: 127.0.0.1, ports: {http: %d}}]`, live, dead)),
		networkingObject("ServiceEntry", "trade/raw", fmt.Sprintf(`
hosts: [raw.example]
ports: [{number: 80, name: http, protocol: HTTP}]
resolution: STATIC
endpoints: [{address: 127.0.0.1, ports: {http: %d}}]`, live)),
		routes)}, "--trust-domain", "market.example")
}

// routes of TestRoutes. A route that answers directly says its name.
const tradeRoutes = `
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: match, namespace: trade}
spec:
  hosts: [match.example]
  http:
  - {name: exact, match: [{uri: {exact: /exact}}], directResponse: {status: 200, body: {string: exact}}}
  - {match: [{uri: {prefix: /pre}}], directResponse: {status: 200, body: {string: prefix}}}
  - {match: [{uri: {regex: "/r[0-9]+/x"}}], directResponse: {status: 200, body: {string: regex}}}
  - {match: [{uri: {exact: /CASE}, ignoreUriCase: true}], directResponse: {status: 200, body: {string: case}}}
  - {match: [{headers: {x-user: {exact: ann}}}], directResponse: {status: 200, body: {string: header-exact}}}
  - {match: [{headers: {x-user: {prefix: bo}}}], directResponse: {status: 200, body: {string: header-prefix}}}
  - {match: [{headers: {x-user: {regex: "c.l"}}}], directResponse: {status: 200, body: {string: header-regex}}}
  - {match: [{headers: {x-there: {}}}], directResponse: {status: 200, body: {string: header-present}}}
  - {match: [{uri: {prefix: /without}, withoutHeaders: {x-debug: {}}}], directResponse: {status: 200, body: {string: without}}}
  - {match: [{method: {exact: DELETE}}], directResponse: {status: 200, body: {string: method}}}
  - {match: [{queryParams: {q: {exact: "1"}}}], directResponse: {status: 200, body: {string: query-exact}}}
  - {match: [{queryParams: {q: {prefix: "two"}}}], directResponse: {status: 200, body: {string: query-prefix}}}
  - {match: [{queryParams: {q: {regex: "[a-c]+"}}}], directResponse: {status: 200, body: {string: query-regex}}}
  - {match: [{uri: {prefix: /both}, headers: {x-a: {exact: "1"}}}, {uri: {prefix: /other}}], directResponse: {status: 200, body: {string: or}}}
  - {match: [{uri: {prefix: /from}, sourceLabels: {tier: gold}}], directResponse: {status: 200, body: {string: gold}}}
  - {match: [{uri: {prefix: /from}, sourceNamespace: office}], directResponse: {status: 200, body: {string: office}}}
  - {match: [{uri: {prefix: /port}, port: 8081}], directResponse: {status: 200, body: {string: port}}}
  - {match: [{authority: {prefix: "match.example:"}}], directResponse: {status: 200, body: {string: authority}}}
  - {directResponse: {status: 404, body: {string: none}}}
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: versions, namespace: trade}
spec:
  host: weights.example
  subsets: [{name: a, labels: {version: a}}, {name: b, labels: {version: b}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: weights, namespace: trade}
spec:
  hosts: [weights.example]
  http:
  - route:
    - {destination: {host: weights.example, subset: a, port: {number: 80}}, weight: 90, headers: {response: {set: {x-version: a}}}}
    - {destination: {host: weights.example, subset: b, port: {number: 80}}, weight: 10, headers: {response: {set: {x-version: b}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: change, namespace: trade}
spec:
  hosts: [change.example]
  http:
  - {match: [{uri: {prefix: /api/}}], rewrite: {uri: /v2/}, route: [{destination: {host: change.example, port: {number: 80}}}]}
  - {match: [{uri: {exact: /old}}], rewrite: {uri: /new, authority: other.example}, route: [{destination: {host: change.example, port: {number: 80}}}]}
  - match: [{uri: {prefix: /item}}]
    rewrite: {uriRegexRewrite: {match: "^/item/([^/]+)/(.*)$", rewrite: '/\2/of/\1'}}
    route: [{destination: {host: change.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /headers}}]
    headers:
      request: {set: {x-set: from-route, x-both: route}, add: {x-add: more}, remove: [x-gone]}
      response: {set: {x-answer: from-route}, remove: [date]}
    route:
    - destination: {host: change.example, port: {number: 80}}
      headers: {request: {set: {x-dest: from-destination}}, response: {add: {x-answer-2: from-destination, x-percent: "100%%"}}}
  - match: [{uri: {prefix: /host}}]
    headers: {request: {set: {Host: set.example}}}
    route: [{destination: {host: change.example, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: redirect, namespace: trade}
spec:
  hosts: [redirect.example]
  http:
  - {match: [{uri: {exact: /a}}], redirect: {uri: /b}}
  - {match: [{uri: {prefix: /p/}}], redirect: {prefixRewrite: /q/, redirectCode: 308, authority: moved.example}}
  - {match: [{uri: {prefix: /s}}], redirect: {scheme: https, port: 8443, redirectCode: 302}}
  - {match: [{uri: {prefix: /d}}], redirect: {derivePort: FROM_REQUEST_PORT, redirectCode: 307}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: slow, namespace: trade}
spec:
  hosts: [slow.example]
  http:
  - {timeout: 0.3s, route: [{destination: {host: slow.example, port: {number: 80}}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: retry, namespace: trade}
spec:
  hosts: [retry.example]
  http:
  - match: [{uri: {prefix: /5xx}}]
    retries: {attempts: 3, retryOn: 5xx}
    route: [{destination: {host: retry.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /codes}}]
    retries: {attempts: 2, retryOn: "retriable-status-codes,418"}
    route: [{destination: {host: retry.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /pertry}}]
    retries: {attempts: 2, perTryTimeout: 0.25s, retryOn: "reset,connect-failure"}
    route: [{destination: {host: retry.example, port: {number: 80}}}]
  - match: [{uri: {prefix: /none}}]
    retries: {attempts: 0}
    route: [{destination: {host: retry.example, port: {number: 80}}}]
---
# raw.example is called without a sidecar in front of it, which would answer 503 where a program closes.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw, namespace: trade}
spec:
  hosts: [raw.example]
  http:
  - {match: [{uri: {prefix: /reset}}], retries: {attempts: 2, retryOn: reset}, route: [{destination: {host: raw.example}}]}
  - {match: [{uri: {prefix: /none}}], retries: {attempts: 0}, route: [{destination: {host: raw.example}}]}
  - {route: [{destination: {host: raw.example}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: turns, namespace: trade}
spec: {host: turns.example, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dice, namespace: trade}
spec: {host: dice.example, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: half, namespace: trade}
spec: {host: half.example, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
`

func TestRoutes(t *testing.T) {
	s := newScript()
	m := trade(t, s, tradeRoutes)
	desk, clerk := "http://"+m.workload("trade/desk").Outbound, "http://"+m.workload("office/clerk").Outbound
	t.Run("of", func(t *testing.T) {
		t.Run("match", func(t *testing.T) { t.Parallel(); routeMatches(t, desk, clerk) })
		t.Run("weights", func(t *testing.T) { t.Parallel(); routeWeights(t, desk) })
		t.Run("change", func(t *testing.T) { t.Parallel(); routeChanges(t, desk) })
		t.Run("redirect", func(t *testing.T) { t.Parallel(); routeRedirects(t, desk) })
		t.Run("timeout", func(t *testing.T) { t.Parallel(); routeTimeout(t, m, desk) })
		t.Run("retry", func(t *testing.T) { t.Parallel(); routeRetries(t, s, desk) })
		t.Run("balance", func(t *testing.T) { t.Parallel(); routeBalance(t, desk) })
	})
}

func routeMatches(t *testing.T, desk, clerk string) {
	for _, c := range []struct{ proxy, args, want string }{
		{desk, "http://match.example/exact", "exact"},
		{desk, "http://match.example/exact?q=9", "exact"},
		{desk, "http://match.example/exact/", "none"},
		{desk, "http://match.example/prefix/x", "prefix"},
		{desk, "http://match.example/pr", "none"},
		{desk, "http://match.example/r12/x", "regex"},
		{desk, "http://match.example/r12/xy", "none"},
		{desk, "http://match.example/case", "case"},
		{desk, "http://match.example/cAsE", "case"},
		{desk, "-H x-user:ann http://match.example/", "header-exact"},
		{desk, "-H X-USER:bob http://match.example/", "header-prefix"},
		{desk, "-H x-user:cal http://match.example/", "header-regex"},
		{desk, "-H x-user:scald http://match.example/", "none"},
		{desk, "-H x-there: -H x-user:z http://match.example/", "none"}, // curl drops an empty one
		{desk, "-H x-there:1 http://match.example/", "header-present"},
		{desk, "http://match.example/without", "without"},
		{desk, "-H x-debug:1 http://match.example/without", "none"},
		{desk, "-X DELETE http://match.example/", "method"},
		{desk, "http://match.example/?a=2&q=1", "query-exact"},
		{desk, "http://match.example/?q=two2", "query-prefix"},
		{desk, "http://match.example/?q=abc", "query-regex"},
		{desk, "http://match.example/?q=abcd", "none"},
		{desk, "-H x-a:1 http://match.example/both", "or"},
		{desk, "http://match.example/both", "none"},
		{desk, "http://match.example/other", "or"},
		{desk, "http://match.example/from", "gold"},
		{clerk, "http://match.example/from", "office"},
		{desk, "http://match.example:8081/port", "port"},
		{desk, "http://match.example/port", "none"},
		{desk, "http://match.example:8081/", "authority"},
	} {
		out, _ := curl(t, append([]string{"-x", c.proxy}, strings.Fields(c.args)...)...)
		if body := out[strings.LastIndex(out, "\n")+1:]; body != c.want {
			t.Errorf("%s took %q, want %q", c.args, body, c.want)
		}
	}
}

// tally sends n requests over one curl and counts the programs that answered.
func tally(t *testing.T, proxy, host string, n int) map[string]int {
	t.Helper()
	out, exit := curl(t, "--no-include", "-x", proxy, fmt.Sprintf("http://%s/[1-%d]", host, n))
	if exit != 0 {
		t.Fatalf("curl %d: %s", exit, out[max(0, len(out)-2000):])
	}
	got := map[string]int{}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(line, "program: "); ok {
			got[strings.TrimSpace(name)]++
		}
	}
	return got
}

func routeWeights(t *testing.T, desk string) {
	got := tally(t, desk, "weights.example", 5000)
	if got["a"]+got["b"] != 5000 || got["b"] < 400 || got["b"] > 600 {
		t.Errorf("90/10 over 5000 requests came to %v", got)
	}
	out, _ := curl(t, "-x", desk, "http://weights.example/")
	name := "a"
	if strings.Contains(out, "program: b") {
		name = "b"
	}
	wants(t, strings.ToLower(out), "x-version: "+name)
}

func routeChanges(t *testing.T, desk string) {
	for args, want := range map[string][]string{
		"http://change.example/api/x?q=1":      {"GET /v2/x?q=1", "host: change.example"},
		"http://change.example/old?q=1":        {"GET /new?q=1", "host: other.example"},
		"http://change.example/item/7/price?x": {"GET /price/of/7?x"},
		"-H x-gone:1 -H x-both:client -H x-set:client http://change.example/headers": {"X-Set: from-route", "X-Both: route",
			"X-Add: more", "X-Dest: from-destination", "x-answer: from-route", "x-answer-2: from-destination", "x-percent: 100%"},
		"http://change.example/host": {"GET /host", "host: set.example"},
	} {
		out, _ := curl(t, append([]string{"-x", desk}, strings.Fields(args)...)...)
		if !strings.Contains(out, "HTTP/1.1 200") {
			t.Errorf("%s:\n%s", args, out)
		}
		wants(t, out, want...)
		if strings.Contains(out, "X-Gone") || strings.Contains(args, "/headers") && strings.Contains(strings.ToLower(out), "\ndate:") {
			t.Errorf("%s: what was removed is there:\n%s", args, out)
		}
	}
}

func routeRedirects(t *testing.T, desk string) {
	for url, want := range map[string]string{
		"http://redirect.example/a?x=1":  "301 http://redirect.example/b?x=1",
		"http://redirect.example/p/1/2":  "308 http://moved.example/q/1/2",
		"http://redirect.example/s":      "302 https://redirect.example:8443/s",
		"http://redirect.example:8081/d": "307 http://redirect.example:8081/d",
	} {
		out, _ := curl(t, "-x", desk, "-o", "/dev/null", "--no-include", "-w", "%{http_code} %{redirect_url}", url)
		if out != want {
			t.Errorf("%s: %s, want %s", url, out, want)
		}
	}
}

func routeTimeout(t *testing.T, m *running, desk string) {
	start := time.Now()
	out, _ := curl(t, "-x", desk, "-H", "x-script: hang", "-H", "x-key: timeout", "http://slow.example/timeout")
	wants(t, out, "HTTP/1.1 504", "upstream request timeout")
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the answer took %s", d)
	}
	m.logged(t, `^trade\.desk `, `"GET /timeout HTTP/1.1" 504 UT response_timeout `, `outbound\|80\|\|slow\.example`)
}

func routeRetries(t *testing.T, s *script, desk string) {
	for i, c := range []struct {
		url, script, method string
		status, seen        int
	}{
		{"http://retry.example/5xx", "503,500,200", "GET", 200, 3},
		{"http://retry.example/5xx", "503", "GET", 503, 4},
		{"http://retry.example/5xx", "503,200", "POST", 200, 2}, // asked for in so many words
		{"http://retry.example/5xx", "404", "GET", 404, 1},
		{"http://retry.example/codes", "418,418,200", "GET", 200, 3},
		{"http://retry.example/codes", "503,200", "GET", 503, 1},
		{"http://retry.example/pertry", "hang,200", "GET", 200, 2},
		{"http://retry.example/pertry", "hang", "GET", 504, 3},
		{"http://retry.example/none", "503,200", "GET", 503, 1},
		{"http://raw.example/reset", "close,close,200", "GET", 200, 3},
		{"http://raw.example/reset", "close,200", "POST", 200, 2}, // asked for in so many words
		{"http://raw.example/none", "close,200", "GET", 503, 1},
		{"http://raw.example/", "close,200", "POST", 503, 1},
		{"http://default.example/", "503,200", "GET", 503, 1},
		{"http://default.example/", "close,200", "POST", 503, 1},
		{"http://default.example/", "close,200", "PATCH", 503, 1},
	} {
		key := fmt.Sprint("retry-", i)
		args := []string{"-x", desk, "-X", c.method, "-H", "x-script: " + c.script, "-H", "x-key: " + key, c.url}
		if c.method != http.MethodGet {
			args = append(args, "-d", "amount=7")
		}
		if got := code(t, args...); got != fmt.Sprint(c.status) || s.count(key) != c.seen {
			t.Errorf("%s %s with %s: %s after %d tries, want %d after %d", c.method, c.url, c.script, got, s.count(key), c.status, c.seen)
		}
	}
	// A reused connection that ends without an answer is replaced by a new one without counting as a try.
	if got := code(t, "-x", desk, "-H", "x-script: close", "-H", "x-key: always", "http://raw.example/reset"); got != "503" || s.count("always") < 3 || s.count("always") > 6 {
		t.Errorf("a server that always closes: %s after %d tries, want 503 after 3 and no more than one more for each", got, s.count("always"))
	}
	// One of two endpoints refuses connections: the default policy hides it, from requests of every method.
	for _, method := range []string{"GET", "POST"} {
		for i := range 6 {
			if got := code(t, "-x", desk, "-X", method, "-d", "x=1", "http://half.example/"); got != "200" {
				t.Errorf("%s %d to a service half of which is down: %s", method, i, got)
			}
		}
	}
}

func routeBalance(t *testing.T, desk string) {
	if got := tally(t, desk, "turns.example", 100); got["a"] != 50 || got["b"] != 50 {
		t.Errorf("ROUND_ROBIN over 100: %v", got)
	}
	if got := tally(t, desk, "dice.example", 200); got["a"]+got["b"] != 200 || got["a"] < 60 || got["b"] < 60 {
		t.Errorf("RANDOM over 200: %v", got)
	}
	// Four requests hang: from the second on they go to the emptier of the two, so that two hang at each. The one that is
	// freed by neither gets no more than its share.
	if got := tally(t, desk, "light.example", 100); got["a"]+got["b"] != 100 || got["a"] < 20 || got["b"] < 20 {
		t.Errorf("LEAST_REQUEST over 100: %v", got)
	}
	first := make(chan string, 1)
	go func() {
		out, _ := curl(t, "-x", desk, "-H", "x-script: hang", "-H", "x-key: light", "http://light.example/")
		first <- out
	}()
	time.Sleep(200 * time.Millisecond)
	got := tally(t, desk, "light.example", 50)
	busy := "a"
	if strings.Contains(<-first, "program: b") {
		busy = "b"
	}
	if got[busy] != 0 {
		t.Errorf("LEAST_REQUEST sent %d of 50 requests to the busy endpoint", got[busy])
	}
}
