package tool

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

// signet runs the command in this process and gives its exit code, its standard output and its standard error.
func signet(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := Command()
	var out, errs bytes.Buffer
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetArgs(args)
	saved := os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stderr = w
	code = cli.Main(c)
	os.Stderr = saved
	w.Close()
	if _, err := errs.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	r.Close()
	return code, out.String(), errs.String()
}

func TestWhy(t *testing.T) {
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, []byte("x=1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string // of standard output, or for code 2 of standard error
	}{
		{"allowed", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/items/7"}, 0,
			[]string{"route rest", "outbound|80||cart.shop.mesh weight 100  <- this one", "mTLS, expecting spiffe://cluster.local/ns/shop/sa/cart",
				"at 127.0.40.1", "ALLOWED by AuthorizationPolicy shop/callers rule 0\n"}},
		{"denied by the second rule, in the decoded reading", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/x/..%2Fadmin"}, 3,
			[]string{"decoded /admin", "DENY   shop/no-admin: matches, rule 1", "DENIED by AuthorizationPolicy shop/no-admin rule 1 (403 rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[1]])"}},
		{"no rule matches: the first clause that failed", []string{"--from", "office/reports", "--to", "shop/cart:8080", "--path", "/items/7"}, 3,
			[]string{`rule 0: from[0].source.principals wants cluster.local/ns/shop/sa/front; saw "cluster.local/ns/office/sa/reports"`,
				"rule 1: when[0].values wants sales; saw nothing", "because no rule of the ALLOW policies matches"}},
		{"a header", []string{"--from", "office/reports", "--to", "shop/cart:8080", "--path", "/items/7", "-H", "X-Team: sales"}, 0, []string{"shop/callers rule 1"}},
		{"plaintext under STRICT", []string{"--from", "plaintext", "--to", "shop/cart:8080"}, 3, []string{"DENIED by PeerAuthentication shop/only-mtls (plaintext_under_strict)"}},
		{"a workload without a sidecar", []string{"--from", "office/legacy", "--to", "shop/cart:8080"}, 3, []string{"the caller has no sidecar", "PeerAuthentication shop/only-mtls"}},
		{"an identity", []string{"--from", "spiffe://cluster.local/ns/shop/sa/front", "--to", "shop/cart:8081", "--method", "DELETE", "--body", body}, 0, []string{"ALLOWED by"}},
		{"another trust domain", []string{"--from", "spiffe://evil.example/ns/shop/sa/front", "--to", "shop/cart:8080"}, 3, []string{"the handshake fails", "DENIED by TrustDomain cluster.local"}},
		{"the trust domain of the mesh", []string{"--trust-domain", "x.example", "--from", "shop/front", "--to", "shop/cart:8080"}, 0, []string{"spiffe://x.example/ns/shop/sa/front"}},
		{"redirect", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/old"}, 3,
			[]string{"answers 301 http://cart.shop.mesh/items", "this request does not reach shop/cart:8080", "\nNOT REACHED; if it were: ALLOWED by "}},
		{"direct response", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/ping"}, 3, []string{"answers 200", "does not reach", "NOT REACHED"}},
		{"what the route rewrites is what is judged", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/v1/a"}, 0, []string{"forwarded as GET /items/a", "Path      /items/a"}},
		{"astray", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/db"}, 3, []string{"127.0.40.5:5432 shop/db", "sends it elsewhere", "NOT REACHED"}},
		{"TCP", []string{"--from", "shop/front", "--to", "shop/db:5432"}, 3, []string{"carried as TCP", "db.shop.mesh", "from[0].source.serviceAccounts"}},
		{"unknown host", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--host", "nowhere.example"}, 3, []string{"passthrough", "not in the mesh's registry", "NOT REACHED"}},
		{"bad path", []string{"--from", "spiffe://cluster.local/ns/shop/sa/front", "--to", "shop/cart:8080", "--path", "/a%00"}, 3, []string{"DENIED: bad-path (400 "}},
		{"several ports", []string{"--from", "shop/front", "--to", "shop/cart"}, 2, []string{"several HTTP ports, name one: it accepts on 8080 (HTTP), 8081 (HTTP)"}},
		{"no such port", []string{"--from", "shop/front", "--to", "shop/cart:1"}, 2, []string{"has no port 1"}},
		{"no such server", []string{"--from", "shop/front", "--to", "shop/nobody"}, 2, []string{`there is no WorkloadEntry "shop/nobody"`}},
		{"no such caller", []string{"--from", "shop/nobody", "--to", "shop/cart:8080"}, 2, []string{`"shop/nobody"`}},
		{"no caller", []string{"--to", "shop/cart:8080"}, 2, []string{"--from and --to must be given"}},
		{"a caller that is none", []string{"--from", "front", "--to", "shop/cart:8080"}, 2, []string{`"front": want NAMESPACE/WORKLOAD`}},
		{"a header that is none", []string{"--from", "shop/front", "--to", "shop/cart:8080", "-H", "x"}, 2, []string{"want NAME:VALUE"}},
		{"a header that smuggles", []string{"--from", "shop/front", "--to", "shop/cart:8080", "-H", "x: a\r\ny: b"}, 2, []string{"line break"}},
		{"a path that smuggles", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/ HTTP/1.1\r\nx: y"}, 2, []string{"not one that a sidecar reads"}},
		{"no such token", []string{"--from", "shop/front", "--to", "shop/cart:8080", "--token", "/nonexistent"}, 2, []string{"--token"}},
		{"bad output", []string{"--from", "shop/front", "--to", "shop/cart:8080", "-o", "xml"}, 2, []string{"want text or json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := signet(t, "", append([]string{"why", "-f", "testdata/shop"}, c.args...)...)
			if code != c.code {
				t.Errorf("exit %d, want %d: %s", code, c.code, errs)
			}
			if c.code == cli.ExitMistake {
				if out != "" {
					t.Errorf("a mistake printed\n%s", out)
				}
				out = errs
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

// A directory that does not stand is judged by nothing.
func TestWhyRefused(t *testing.T) {
	code, out, errs := signet(t, "", "why", "-f", "testdata/broken", "--from", "plaintext", "--to", "shop/cart")
	if code != cli.ExitMistake || out != "" || !strings.Contains(errs, `testdata/broken/mesh.yaml:4:`) || !strings.Contains(errs, "pahts") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
	if code, _, _ := signet(t, "", "why", "-f", "testdata/nowhere", "--from", "plaintext", "--to", "shop/cart"); code != cli.ExitMistake {
		t.Errorf("exit %d for a directory that is not there", code)
	}
}

func TestWhyJSON(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("e.y.z\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type by struct {
		Kind, Namespace, Name string
		Rule                  int
	}
	for _, c := range []struct {
		from, path, decision string
		code                 int
		by                   by
	}{
		{"shop/front", "/items/1", "allow", 0, by{"AuthorizationPolicy", "shop", "callers", 0}},
		{"shop/front", "/admin", "deny", 3, by{"AuthorizationPolicy", "shop", "no-admin", 1}},
		{"shop/db", "/items/1", "deny", 3, by{"AuthorizationPolicy", "", "none", -1}},
		{"plaintext", "/", "deny", 3, by{"PeerAuthentication", "shop", "only-mtls", -1}},
	} {
		code, out, errs := signet(t, "", "why", "-f", "testdata/shop", "--from", c.from, "--to", "shop/cart:8080", "--path", c.path, "-o", "json",
			"--token", token, "-H", "cookie: secret=1")
		var got struct {
			Decision string
			By       by
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		if code != c.code || got.Decision != c.decision || got.By != c.by {
			t.Errorf("%+v: exit %d, %+v", c, code, got)
		}
		if strings.Contains(out, "e.y.z") || strings.Contains(out, "secret=1") {
			t.Errorf("credentials are shown:\n%s", out)
		}
	}
}

func TestSimulate(t *testing.T) {
	code, out, errs := signet(t, "", "simulate", "-f", "testdata/shop-new", "--log", "testdata/access.log", "-o", "json", "--fail-on-denied")
	if code != exitDenied {
		t.Fatalf("exit %d: %s", code, errs)
	}
	want(t, "testdata/simulate.golden", out)
	// Against the old objects instead of what was recorded, from standard input: the same but for what depends on the log.
	log, err := os.ReadFile("testdata/access.log")
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs = signet(t, string(log), "simulate", "-f", "testdata/shop-new", "--old", "testdata/shop", "--log", "-")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	want(t, "testdata/simulate-old.golden", out)
	for _, args := range [][]string{{"-f", "testdata/shop"}, {"--log", "testdata/access.log"}, {"-f", "testdata/broken", "--log", "-"},
		{"-f", "testdata/shop", "--log", "nowhere"}, {"-f", "testdata/shop", "--to", "shop/nobody", "--log", "-"}} {
		if code, _, errs := signet(t, "", append([]string{"simulate"}, args...)...); code != cli.ExitMistake || errs == "" {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
}

// want compares with a golden file, which is written anew when the environment variable UPDATE_GOLDEN is set.
func want(t *testing.T, golden, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(text) {
		t.Errorf("%s: got\n%s\nwant\n%s", golden, got, text)
	}
}

// What suggest writes stands, and denies nothing of what was recorded that it does not name.
func TestSuggest(t *testing.T) {
	code, out, errs := signet(t, "", "suggest", "-f", "testdata/shop", "--log", "testdata/access.log")
	if code != 0 || !strings.Contains(errs, "it was denied") || !strings.Contains(errs, "nothing was recorded for office/reports") {
		t.Fatalf("exit %d: %s", code, errs)
	}
	want(t, "testdata/suggest.golden", out)
	dir := t.TempDir()
	mesh, err := os.ReadFile("testdata/shop/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// The workloads without the policies they had: what is suggested must do alone.
	before, _, _ := strings.Cut(string(mesh), "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy")
	for name, text := range map[string]string{"mesh.yaml": before, "recorded.yaml": out} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, out, _ := signet(t, "", "validate", dir); code != 0 {
		t.Errorf("validate: exit %d: %s", code, out)
	}
	code, report, errs := signet(t, "", "simulate", "-f", dir, "--log", "testdata/access.log", "--fail-on-denied")
	if code != 0 || !strings.Contains(report, " 0 newly denied, 0 newly allowed") {
		t.Errorf("exit %d: %s%s", code, report, errs)
	}
}

func TestCases(t *testing.T) {
	junit := filepath.Join(t.TempDir(), "junit.xml")
	code, out, errs := signet(t, "", "test", "testdata/shop", "--junit", junit)
	if code != 0 || !strings.HasSuffix(out, "4 of 4 cases passed\n") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, out, _ := signet(t, "", "validate", "testdata/shop"); code != 0 {
		t.Errorf("cases are in the way of validate: exit %d: %s", code, out)
	}
	more := filepath.Join(t.TempDir(), "more.yaml")
	write := func(text string) {
		if err := os.WriteFile(more, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cases:\n- name: wrong <&>\n  request: {from: shop/front, to: \"shop/cart:8080\", path: /admin}\n  expect: {decision: allow, status: 200}\n")
	code, out, _ = signet(t, "", "test", "testdata/shop", "--cases", more, "--junit", junit)
	if code != cli.ExitFailure || !strings.Contains(out, "FAIL  wrong <&>") || !strings.Contains(out, "more.yaml:2:3: decision: want allow, got deny; status: want 200, got 403") ||
		!strings.Contains(out, "4 of 5 cases passed") {
		t.Errorf("exit %d: %s", code, out)
	}
	report, err := os.ReadFile(junit)
	if err != nil || !strings.Contains(string(report), `<testsuites tests="5" failures="1">`) || !strings.Contains(string(report), "wrong &lt;&amp;&gt;") {
		t.Errorf("%v: %s", err, report)
	}
	for text, want := range map[string]string{
		"- {name: x, request: {from: a/b, to: a/b}, expect: {decision: maybe}}":                  `1:63: expect.decision: "maybe"`,
		"- {name: x, request: {from: a/b, to: a/b, paht: /}, expect: {decision: allow}}":         `1:43: request: unknown field "paht"`,
		"- {name: x, request: {from: a/b}, expect: {decision: allow}}":                           "request.from and request.to",
		"- {request: {from: a/b, to: a/b}}":                                                      "expect.decision must be given",
		"- {request: {from: a/b, to: a/b}, expect: {decision: allow, by: nobody}}":               "want KIND/NAMESPACE/NAME",
		"- {request: {from: a/b, to: a/b, token: x, claims: {a: b}}, expect: {decision: allow}}": "exclude each other",
		"- {request: {from: a/b, to: a/b}, expect: {decision: allow, decision: deny}}":           "given twice",
		"- [":       "broken YAML",
		"just text": "want a mapping",
	} {
		write(text)
		if code, _, errs := signet(t, "", "test", "testdata/shop", "--cases", more); code != cli.ExitMistake || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, lacks %q: %s", text, code, want, errs)
		}
	}
	if code, _, errs := signet(t, "", "test", "testdata/shop-new"); code != cli.ExitMistake || !strings.Contains(errs, "has no cases") {
		t.Errorf("no cases: exit %d: %s", code, errs)
	}
}

// serveAdmin is a sidecar's admin socket for one workload of testdata/shop.
func serveAdmin(t *testing.T, name string, denials []explain.Denial) string {
	t.Helper()
	m, err := explain.Load("testdata/shop", "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	at, err := m.At(name)
	if err != nil {
		t.Fatal(err)
	}
	namespace, workload, _ := strings.Cut(name, "/")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		_ = writeJSON(w, map[string]any{"workload": map[string]string{"name": workload, "namespace": namespace}})
	})
	mux.Handle("POST "+explain.WhyPath, explain.Handler(func() *explain.At { return at }))
	mux.HandleFunc("GET "+explain.DenialsPath, func(w http.ResponseWriter, _ *http.Request) { _ = writeJSON(w, denials) })
	dir := filepath.Join(t.TempDir(), namespace+"."+workload)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "admin.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	return socket
}

// Running sidecars say the same as the files, and one that can't be asked is named.
func TestWhyLive(t *testing.T) {
	front, cart := serveAdmin(t, "shop/front", nil), serveAdmin(t, "shop/cart", nil)
	question := []string{"--from", "shop/front", "--to", "shop/cart:8080", "--path", "/v1/..%2Fadmin"}
	_, files, _ := signet(t, "", append([]string{"why", "-f", "testdata/shop"}, question...)...)
	code, live, errs := signet(t, "", append([]string{"why", "--admin", front, "--admin", cart}, question...)...)
	if code != exitDenied || live != files || !strings.Contains(live, "no-admin rule 1") {
		t.Errorf("exit %d: %s%s\nthe files say\n%s", code, live, errs, files)
	}
	code, live, _ = signet(t, "", append([]string{"why", "--admin", cart}, question...)...)
	if code != exitDenied || !strings.Contains(live, "the route is missing: its sidecar can't be asked: no admin socket here is shop/front's") {
		t.Errorf("without the caller's: exit %d: %s", code, live)
	}
	code, live, errs = signet(t, "", append([]string{"why", "--admin", front}, question...)...)
	if code != cli.ExitFailure || !strings.Contains(live, "the judgement is missing") || !strings.Contains(live, "Route ") || !strings.Contains(errs, "could not be asked") {
		t.Errorf("without the server's: exit %d: %s%s", code, live, errs)
	}
	if code, _, errs = signet(t, "", append([]string{"why", "--admin", "/nonexistent/admin.sock"}, question...)...); code != cli.ExitFailure || !strings.Contains(errs, "/nonexistent/admin.sock") {
		t.Errorf("without any: exit %d: %s", code, errs)
	}
}

func TestTop(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := explain.Denial{From: "spiffe://cluster.local/ns/shop/sa/db", To: "shop/cart", By: "AuthorizationPolicy/none", Method: "GET", Path: "/\x1b[2J", Status: 403, Count: 2, Last: at}
	two := explain.Denial{From: "127.0.0.1", To: "shop/db", By: "AuthorizationPolicy/shop/db", Count: 7, Last: at}
	cart, db := serveAdmin(t, "shop/cart", []explain.Denial{one}), serveAdmin(t, "shop/db", []explain.Denial{two})
	code, out, errs := signet(t, "", "top", "--once", "--admin", cart, "--admin", db, "--admin", "/nonexistent")
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) < 3 || !strings.HasPrefix(lines[1], "7 ") || !strings.Contains(lines[2], `GET /\x1b[2J`) || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	code, out, _ = signet(t, "", "top", "--once", "--admin", cart, "--admin", db, "-o", "json", "-n", "1")
	var got []explain.Denial
	if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil || len(got) != 1 || got[0] != two {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	if code, _, _ = signet(t, "", "top", "--once", "--admin", "/nonexistent"); code != cli.ExitFailure {
		t.Errorf("exit %d without a sidecar", code)
	}
}
