package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// regoModules are the RegoPolicies of TestRego, each asked about the path of its name. elsewhere is of the root namespace.
func regoModules() string {
	docs := []string{
		custom("elsewhere", "elsewhere", "/elsewhere"), regoPolicy("istio-system/elsewhere", "data.elsewhere.allow", "package elsewhere\nallow := input.attributes.request.http.method == \"GET\""),
		custom("nowhere", "nowhere", "/nowhere"),
		custom("both-a", "bool", "/both"), custom("both-b", "body", "/both"),
	}
	for name, module := range map[string]string{
		"bool": `
default decision := false
decision if {
  input.attributes.request.http.headers["x-key"] == "sesame"
  startswith(input.attributes.source.principal, "spiffe://cluster.local/ns/lab/")
}`,
		"object": `
decision := {
  "allowed": true,
  "headers": {"x-cook": input.attributes.source.principal, "x-tags": ["a", "b"]},
  "response_headers_to_add": {"x-verdict": "yes"},
  "request_headers_to_remove": ["x-secret"],
  "query_parameters_to_remove": ["debug"],
} if input.attributes.request.http.headers["x-key"] == "sesame"
else := {"allowed": false, "http_status": 418, "body": "no soup for you\n", "headers": {"x-why": "key", "content-type": "text/soup"}}`,
		"undefined": `decision if input.attributes.request.http.method == "PUT"`,
		"conflict": `
decision := true if input.attributes.request.http.method == "GET"
decision := false if startswith(input.attributes.request.http.path, "/conflict")`,
		"framing": `decision := {"allowed": true, "headers": {"transfer-encoding": "chunked"}}`,
		"body":    `decision := input.parsed_body.soup == "tomato"`,
		"start":   `decision := input.truncated_body`,
	} {
		docs = append(docs, regoPolicy("lab/"+name, "data."+name+".decision", "package "+name+"\n"+strings.Trim(module, "\n")), custom(name, name, "/"+name))
	}
	return objects(docs...)
}

func TestRego(t *testing.T) {
	t.Parallel()
	k := newGatehouse(t, map[string]string{"policies.yaml": regoModules()})
	const tomato, peas = `{"soup":"tomato"}`, `{"soup":"peas"}`
	key, jsonBody, chunked := []string{"-H", "x-key: sesame"}, []string{"-H", "content-type: application/json", "-d", tomato}, []string{"-H", "transfer-encoding: chunked"}
	for _, c := range []struct {
		path string
		args [][]string
		want string
	}{
		{"/bool", nil, "403"}, {"/bool", [][]string{key}, "200"},
		{"/other", nil, "200"}, // no policy is about it
		{"/object", nil, "418"}, {"/object", [][]string{key}, "200"},
		{"/undefined", nil, "403"}, {"/undefined", [][]string{{"-X", "PUT"}}, "200"},
		{"/conflict", [][]string{{"-X", "PUT"}}, "403"}, {"/conflict", nil, "403"},
		{"/framing", nil, "403"}, // nobody may write how a message is framed
		{"/body", nil, "403"}, {"/body", [][]string{jsonBody}, "200"}, {"/body", [][]string{jsonBody, chunked}, "200"},
		{"/body", [][]string{{"-H", "content-type: application/json", "-d", peas}}, "403"}, {"/body", [][]string{{"-H", "content-type: application/json", "-d", peas}, chunked}, "403"},
		{"/body", [][]string{{"-d", tomato}}, "403"}, // of another type, it is not parsed
		{"/both", [][]string{key}, "403"}, {"/both", [][]string{jsonBody}, "403"}, {"/both", [][]string{key, jsonBody}, "200"},
		{"/elsewhere", nil, "200"}, {"/elsewhere", [][]string{{"-X", "PUT"}}, "403"},
		{"/nowhere", nil, "403"},
	} {
		if got := k.code(t, c.path, slices.Concat(c.args...)...); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.path, c.args, got, c.want)
		}
	}
	if got := code(t, "-x", k.guest, "-H", "x-key: sesame", "http://oven.lab/bool"); got != "403" {
		t.Errorf("a caller of another namespace: %s", got)
	}
	malformed := k.code(t, "/body", "-H", "content-type: application/json", "-d", `{"soup":`)
	if malformed != "400" {
		t.Errorf("a body that is no JSON: %s, want 400", malformed)
	}
	t.Run("objects", func(t *testing.T) { regoObjects(t, k) })
	t.Run("unresolved", func(t *testing.T) {
		k.logged(t, `level=WARN`, `workload=lab\.oven`, `nowhere`, `does not exist`)
		if f := k.found(t, "unresolved", "AuthorizationPolicy", "nowhere"); !strings.Contains(f.Message, "nowhere") || f.Namespace != "lab" || f.Field != "spec.provider.name" {
			t.Errorf("%+v", f)
		}
		k.logged(t, `^lab\.oven `, `"GET /nowhere HTTP/1.1" 403 UAEX `)
	})
	t.Run("large bodies", func(t *testing.T) { regoBodies(t, k) })
	t.Run("metrics", func(t *testing.T) {
		s := scrape(t, k.workload("lab/oven"))
		for labels, least := range map[string]float64{`reason="undefined"`: 1, `reason="error"`: 1} {
			if n, _ := s.sum("signet_rego_failures_total", labels); n < least {
				t.Errorf("signet_rego_failures_total{%s} is %v", labels, n)
			}
		}
		if n, _ := s.sum("signet_rego_decisions_total", `policy="lab/bool"`, `engine="native"`); n < 2 {
			t.Errorf("lab/bool was not judged natively: %v", n)
		}
		if n, _ := s.sum("istio_requests_total", `response_code="403"`, `response_flags="UAEX"`); n < 5 {
			t.Errorf("%v denials by authorities in istio_requests_total", n)
		}
	})
}

// regoObjects is what a decision that is an object does to request and response.
func regoObjects(t *testing.T, k *gatehouse) {
	out := k.get(t, "/object?a=1&debug=2", "-H", "x-key: sesame", "-H", "x-secret: s", "-H", "x-cook: forged")
	wants(t, out, "HTTP/1.1 200", "GET /object?a=1\n", "X-Cook: spiffe://cluster.local/ns/lab/sa/web\r\n", "X-Tags: a\r\nX-Tags: b\r\n", "x-verdict: yes\r\n", "x-oven: hot\r\n")
	for _, bad := range []string{"X-Secret", "forged", "debug"} {
		if strings.Contains(out, bad) {
			t.Errorf("the program got %s:\n%s", bad, out)
		}
	}
	out = k.get(t, "/object")
	wants(t, out, "HTTP/1.1 418 ", "x-why: key\r\n", "content-type: text/soup\r\n", "\r\n\r\nno soup for you\n")
	if strings.Contains(out, "x-oven") || strings.Contains(out, "text/plain") {
		t.Errorf("a denial has more than its authority said:\n%s", out)
	}
	k.logged(t, `^lab\.oven `, `"GET /object HTTP/1.1" 418 UAEX ext_authz_denied\{RegoPolicy/lab/object\} `)
	k.logged(t, `^lab\.oven `, `"GET /undefined HTTP/1.1" 403 UAEX ext_authz_error\{RegoPolicy/lab/undefined\} `)
}

// regoBodies has bodies that a policy looks at: they arrive whole, or are refused by their size.
func regoBodies(t *testing.T, k *gatehouse) {
	// 64 KiB is what a policy sees. JSON may end there to the byte.
	fits := `{"soup":"tomato","x":"` + strings.Repeat("x", 64<<10-24) + `"}`
	for _, more := range [][]string{nil, {"-H", "transfer-encoding: chunked"}, {"-H", "expect: 100-continue"}, {"-H", "expect: 100-continue", "-H", "transfer-encoding: chunked"}} {
		upload := func(body string) []string {
			return append([]string{"-H", "content-type: application/json", "--data-binary", "@" + save1(t, body)}, more...)
		}
		wants(t, k.get(t, "/body", upload(fits)...), "HTTP/1.1 200", digest(fits))
		long := fits[:len(fits)-2] + `x"}`
		wants(t, k.get(t, "/body", upload(long)...), "HTTP/1.1 413")
		// A policy that reads truncated_body takes the beginning; what is forwarded is all of it.
		big := strings.Repeat("0123456789abcdef", 300<<10/16)
		wants(t, k.get(t, "/start", upload(big)...), "HTTP/1.1 200", digest(big))
		wants(t, k.get(t, "/start", upload(fits)...), "HTTP/1.1 403")
		// Nothing of it sticks to what comes next on the same connection.
		wants(t, k.get(t, "/other", upload(big)...), "HTTP/1.1 200", digest(big))
	}
	k.logged(t, `^lab\.oven `, `"POST /body HTTP/1.1" 413 DPE ext_authz_body_too_large `)
}

// save1 keeps a text in a file.
func save1(t *testing.T, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRegoFollows shows how soon a changed policy decides, and that one which is broken changes nothing.
func TestRegoFollows(t *testing.T) {
	k := newGatehouse(t, map[string]string{"custom.yaml": custom("p", "p", "/p")})
	module := func(allow string) string { return regoPolicy("lab/p", "data.p.allow", "package p\nallow := "+allow) }
	for _, step := range []struct{ text, want string }{
		{module("true"), "200"}, {module("false"), "403"}, {module(`input.attributes.request.http.method == "GET"`), "200"},
	} {
		k.write("p.yaml", step.text)
		k.becomes(t, time.Second, step.want, "/p")
	}
	k.write("p.yaml", module("nonsense("))
	f := k.found(t, "refused", "RegoPolicy", "p")
	if !strings.HasPrefix(f.Where, filepath.Join(k.Dir, "p.yaml")) || f.Field != "spec.module" {
		t.Errorf("%+v", f)
	}
	k.logged(t, `p\.yaml:\d+`, `RegoPolicy lab/p`, "the last good version stays in force")
	if got := k.code(t, "/p"); got != "200" {
		t.Errorf("a broken module: %s", got)
	}
}

// TestRegoBuiltins has policies that would reach out: only who runs the mesh may allow that.
func TestRegoBuiltins(t *testing.T) {
	t.Parallel()
	other := echo(t, nil)
	text := objects(custom("p", "p", "/p"), regoPolicy("lab/p", "data.p.allow",
		fmt.Sprintf("package p\nallow := http.send({\"method\": \"GET\", \"url\": \"http://127.0.0.1:%d/\"}).status_code == 200", other)))
	dir := directory(t, map[string]string{"p.yaml": text})
	out, _, exit := run(t, "signet", "validate", dir)
	if exit != 2 || !strings.Contains(out, "http.send is refused unless the operator allows it by name") || !strings.Contains(out, "RegoPolicy lab/p: spec.module") {
		t.Errorf("validate: exit %d\n%s", exit, out)
	}
	if out, errs, exit := run(t, "signet", "validate", "--allow-rego-builtin", "http.send", filepath.Join(dir, "p.yaml")); exit != 0 {
		t.Errorf("validate with it allowed: exit %d\n%s%s", exit, out, errs)
	}
	if _, errs, exit := run(t, "signet", "up", "--state", shortDir(t), "--control-address", "127.0.0.1:0", dir); exit != 2 || !strings.Contains(errs, "http.send") {
		t.Errorf("up: exit %d\n%s", exit, errs)
	}
	k := newGatehouse(t, map[string]string{"p.yaml": text}, "--allow-rego-builtin", "http.send")
	if got := k.code(t, "/p"); got != "200" {
		t.Errorf("allowed, it got %s", got)
	}
}

// larder serves one bundle as OPA's bundle API has it, with an ETag.
type larder struct {
	*httptest.Server
	mu              sync.Mutex
	bundle          []byte
	tag             string
	asked, notAgain int
}

func (l *larder) set(t *testing.T, module string) {
	t.Helper()
	dir := directory(t, map[string]string{"menu.rego": module, ".manifest": `{"revision":"r","roots":["menu"]}`})
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	must(t, "tar", "-C", dir, "-czf", file, ".manifest", "menu.rego")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bundle, l.tag = b, fmt.Sprintf("%q", digest(string(b))[:40])
}

// ServeHTTP implements http.Handler.
func (l *larder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if r.URL.Path != "/bundles/menu.tar.gz" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("etag", l.tag)
	if r.Header.Get("if-none-match") == l.tag {
		l.notAgain++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(l.bundle)
}

func TestRegoBundle(t *testing.T) {
	t.Parallel()
	l := &larder{}
	l.set(t, "package menu\nallow := input.attributes.request.http.path == \"/menu/soup\"\n")
	l.Server = httptest.NewServer(l)
	defer l.Close()
	k := newGatehouse(t, map[string]string{"menu.yaml": objects(custom("menu", "menu", "/menu/*"),
		object("policy.signet.dev/v1alpha1", "RegoPolicy", "lab/menu", "query: data.menu.allow\nbundle: {url: \""+l.URL+"\", path: bundles/menu.tar.gz, polling: {minDelay: 0.2s, maxDelay: 0.3s}}"))})
	k.becomes(t, 5*time.Second, "200", "/menu/soup")
	if got := k.code(t, "/menu/cake"); got != "403" {
		t.Errorf("/menu/cake: %s", got)
	}
	l.set(t, "package menu\nallow := input.attributes.request.http.path == \"/menu/cake\"\n")
	k.becomes(t, 3*time.Second, "200", "/menu/cake")
	if got := k.code(t, "/menu/soup"); got != "403" {
		t.Errorf("after the update /menu/soup: %s", got)
	}
	eventually(t, 3*time.Second, func() string {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.notAgain == 0 {
			return fmt.Sprintf("asked %d times, and never with the ETag", l.asked)
		}
		return ""
	})
	l.Close()
	k.stop()
	k.start()
	k.web = "http://" + k.workload("lab/web").Outbound
	for path, want := range map[string]string{"/menu/cake": "200", "/menu/soup": "403"} {
		if got := k.code(t, path); got != want {
			t.Errorf("without the server, after a restart, %s: %s, want %s", path, got, want)
		}
	}
}

// TestDryRun has policies that would all refuse: none has an effect, all are counted and logged.
func TestDryRun(t *testing.T) {
	t.Parallel()
	k := newGatehouse(t, map[string]string{"config.yaml": meshConfig("accessLogEncoding: JSON"), "policies.yaml": objects(
		rehearsed(onOven("would-deny", "DENY", onPath("/deny"))),
		rehearsed(onOven("would-allow", "ALLOW", onPath("/allow"))),
		rehearsed(custom("would-ask", "ask", "/ask*")),
		rehearsed(custom("would-miss", "nowhere", "/missing")),
		regoPolicy("lab/ask", "data.ask.decision", "package ask\ndecision := {\"allowed\": input.parsed_path[0] == \"ask-yes\", \"headers\": {\"x-asked\": \"yes\"}, \"http_status\": 418}"),
		onOven("real", "DENY", onPath("/really")),
	)})
	for _, c := range []struct {
		path, want      string
		denied, allowed []string
	}{
		{"/deny", "200", []string{"AuthorizationPolicy/lab/would-deny[0]", "AuthorizationPolicy/lab/would-allow"}, nil},
		{"/allow", "200", nil, []string{"AuthorizationPolicy/lab/would-allow[0]"}},
		{"/ask-no", "200", []string{"AuthorizationPolicy/lab/would-ask[0]"}, nil},
		{"/ask-yes", "200", nil, []string{"AuthorizationPolicy/lab/would-ask[0]"}},
		{"/missing", "200", []string{"AuthorizationPolicy/lab/would-miss[0]"}, nil},
		{"/really", "403", []string{"AuthorizationPolicy/lab/would-allow"}, nil},
	} {
		out := k.get(t, c.path)
		if !strings.HasPrefix(out, "HTTP/1.1 "+c.want) || strings.Contains(out, "X-Asked") {
			t.Errorf("%s: want %s\n%s", c.path, c.want, out)
		}
		status, _ := strconv.Atoi(c.want)
		line := k.jsonLogged(t, "lab.oven", c.path, status)
		for member, want := range map[string][]string{"dry_run_denied": c.denied, "dry_run_allowed": c.allowed} {
			for _, by := range want {
				if got, _ := line[member].([]any); !slices.Contains(got, any(by)) {
					t.Errorf("%s: %s is %v, lacks %s", c.path, member, got, by)
				}
			}
		}
		if by, denied := line["denied_by"]; denied != (c.want == "403") || denied && by != "AuthorizationPolicy/lab/real[0]" {
			t.Errorf("%s: denied_by is %v", c.path, by)
		}
	}
	s := scrape(t, k.workload("lab/oven"))
	for by, want := range map[string]map[string]float64{
		"AuthorizationPolicy/lab/would-deny[0]": {"deny": 1}, "AuthorizationPolicy/lab/would-allow[0]": {"allow": 1},
		"AuthorizationPolicy/lab/would-ask[0]": {"deny": 1, "allow": 1}, "AuthorizationPolicy/lab/would-miss[0]": {"deny": 1},
	} {
		for decision, n := range want {
			if got, _ := s.sum("signet_dry_run_total", `policy="`+by+`"`, `decision="`+decision+`"`); got != n {
				t.Errorf("signet_dry_run_total{%s,%s} is %v, want %v", by, decision, got, n)
			}
		}
	}
}
