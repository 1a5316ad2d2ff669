package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func menu(t *testing.T) *Mesh {
	t.Helper()
	m, err := Load("testdata/menu", "cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The cases of testdata/menu: Rego, bodies, tokens whose claims are given, and one that is not verified.
func TestMenuCases(t *testing.T) {
	m, cases, err := LoadCases("testdata/menu", "cluster.local", nil)
	if err != nil {
		t.Fatal(err)
	}
	results := RunCases(t.Context(), m, cases)
	if len(results) != 6 {
		t.Errorf("%d cases", len(results))
	}
	for _, r := range results {
		if r.Failure != "" {
			t.Errorf("%s: %s", r.Case.Name, r.Failure)
		}
	}
	claims := Case{Question: Question{From: Plaintext, To: "lab/oven"}, Claims: map[string]any{"iss": "https://other.example"}, Expect: Expect{Decision: Deny}}
	if r := RunCases(t.Context(), m, []Case{claims})[0]; !strings.Contains(r.Failure, "it takes those of https://idp.example") {
		t.Errorf("a token that no rule takes: %q", r.Failure)
	}
}

func TestWhyShowsAllSteps(t *testing.T) {
	a, err := menu(t).Why(t.Context(), &Question{From: "lab/waiter", To: "lab/oven", Path: "/dishes/1"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"RegoPolicy lab/menu allows, handed over by AuthorizationPolicy lab/ask-menu rule 0",
		"AuthorizationPolicy lab/soon rule 0 would deny", "RateLimitPolicy lab/oven rule 0: 20 per 1s, burst 10, local: counts by ",
		"DENY   lab/soon (dry run): matches, rule 0", "ALLOWED by AuthorizationPolicy lab/cooks rule 0",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
	if len(a.Server.Limits) != 1 || a.Server.Limits[0].Known {
		t.Errorf("limits: %+v", a.Server.Limits)
	}
}

// A limit of no requests refuses whatever its state is, and so also from files; in shadow mode it refuses nothing.
func TestLimitOfNothing(t *testing.T) {
	text, err := os.ReadFile("testdata/menu/mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ limit, decision string }{
		{"requests: 20, unit: Second, burst: 10}", Allow},
		{"requests: 0, unit: Second}", Deny},
		{"requests: 0, unit: Month}", Deny},
		{"requests: 0, unit: Second}\n      shadowMode: true", Allow},
	} {
		changed := strings.Replace(string(text), "requests: 20, unit: Second, burst: 10}", c.limit, 1)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "mesh.yaml"), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Load(dir, "cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		a, err := m.Why(t.Context(), &Question{From: "lab/waiter", To: "lab/oven", Path: "/dishes/1"})
		if err != nil {
			t.Fatal(err)
		}
		if s := a.Server; s.Decision != c.decision || (s.Reason == reasonLimit) != (c.decision == Deny) || c.decision == Deny && s.Status != http.StatusTooManyRequests {
			t.Errorf("%s: %s (%s), status %d", c.limit, s.Decision, s.Reason, s.Status)
		}
	}
}

// A log has neither tokens nor headers: what hangs on them is not judged, and what does not is.
func TestReplayOfTheUnlogged(t *testing.T) {
	r, err := newReplayer(menu(t), "lab/oven")
	if err != nil {
		t.Fatal(err)
	}
	const waiter, other = "spiffe://cluster.local/ns/lab/sa/waiter", "spiffe://cluster.local/ns/else/sa/x"
	for _, c := range []struct {
		from, path, decision, by, handed string
	}{
		{waiter, "/dishes/1", Allow, "AuthorizationPolicy/lab/cooks[0]", "RegoPolicy/lab/menu"},
		{waiter, "/ovens", Unknown, "", ""},
		{other, "/dishes/1", Unknown, "", ""},
		{"", "/ovens", Unknown, "", ""},
		{waiter, "/a%00", Deny, "bad path", ""},
	} {
		o, handed := r.judge(t.Context(), &shape{to: "lab/oven", port: 8080, from: c.from, method: "GET", path: c.path, authority: "oven.lab.mesh"})
		if o.decision != c.decision || o.by != c.by || handed != c.handed {
			t.Errorf("%+v: %+v, %q", c, o, handed)
		}
	}
	if o, _ := r.judge(t.Context(), &shape{to: "lab/oven", port: 1, from: waiter}); o.decision != Unknown {
		t.Errorf("a port that is none: %+v", o)
	}
}

func TestPathTemplates(t *testing.T) {
	for path, want := range map[string]string{"/": "/", "/items/7": "/items/{*}", "/v1/items": "/v1/items", "/a/0a1b2c3d-ffff/x": "/a/{*}/x",
		"/order-20260101": "/{*}", "/feedface": "/feedface", "/bead/": "/bead/"} {
		if got := guessTemplate(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, c := range []struct{ paths, want []string }{
		{[]string{"/items/1", "/items/2", "/items/new"}, []string{"/items/new", "/items/{*}"}},
		{[]string{"/items/1"}, []string{"/items/1"}},
		{[]string{"/a/x", "/b/x", "/c/x", "/d/y"}, []string{"/{*}/x", "/{*}/y"}},
		{[]string{"/a*b", "/"}, []string{"/", "/{*}"}},
		{[]string{"/x/", "/x"}, []string{"/x", "/x/"}},
	} {
		var set pathSet
		for _, p := range c.paths {
			set.add(strings.Split(p, "/")[1:])
		}
		set.fold(3)
		if got := set.list(); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.paths, got, c.want)
		}
	}
}

func TestHandlerRefuses(t *testing.T) {
	at, err := menu(t).At("lab/oven")
	if err != nil {
		t.Fatal(err)
	}
	post := func(h http.Handler, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, WhyPath, strings.NewReader(body)))
		return w
	}
	serving, starting := Handler(func() *At { return at }), Handler(func() *At { return nil })
	for body, want := range map[string]int{"{}": 200, "{": 400, `{"form":"a/b"}`: 400, `{"body":"` + strings.Repeat("A", MaxQuestion) + `"}`: 400} {
		if w := post(serving, body); w.Code != want {
			t.Errorf("%.20s: %d, want %d: %s", body, w.Code, want, w.Body)
		}
	}
	if w := post(starting, "{}"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a configuration: %d", w.Code)
	}
	var r Reply
	if err := json.Unmarshal(post(serving, `{"from":"plaintext","to":"lab/oven"}`).Body.Bytes(), &r); err != nil || r.Server == nil || r.Route != nil {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestRecordedOutcome(t *testing.T) {
	for line, want := range map[string]outcome{
		`{"response_code":200,"response_code_details":"via_upstream","upstream_host":"a:1"}`:                           {decision: Allow},
		`{"response_code":403,"response_code_details":"via_upstream","upstream_host":"a:1"}`:                           {decision: Allow},
		`{"response_code":"403","response_code_details":"rbac_access_denied_matched_policy[none]"}`:                    {Deny, "AuthorizationPolicy/none", ""},
		`{"response_code":403,"response_code_details":"rbac_access_denied_matched_policy[ns[a]-policy[b.c]-rule[2]]"}`: {Deny, "AuthorizationPolicy/a/b.c[2]", ""},
		`{"response_code":0,"connection_termination_details":"rbac_access_denied_matched_policy[none]"}`:               {Deny, "AuthorizationPolicy/none", ""},
		`{"response_code":403,"denied_by":"RegoPolicy/lab/menu"}`:                                                      {Deny, "RegoPolicy/lab/menu", ""},
		`{"response_code":429,"response_flags":"RL","denied_by":"RateLimitPolicy/lab/oven[0]"}`:                        {decision: Allow},
		`{"response_code":401,"response_code_details":"jwt_authn_access_denied{Jwt_is_expired}"}`:                      {Deny, "RequestAuthentication", ""},
	} {
		l := parseLine([]byte(line))
		if l == nil {
			t.Fatalf("%s: no JSON", line)
		}
		if got := l.recorded(); got != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}

func TestReadLog(t *testing.T) {
	lines, jsons := 0, 0
	long := `{"path":"` + strings.Repeat("x", MaxLogLine) + `"}`
	err := readLog("-", strings.NewReader("{\"method\":\"GET\"}\n\n"+long+"\n2026 stdout F {\"method\":\"-\"}\nlast"), func(l *logLine) error {
		if lines++; l != nil {
			jsons++
		}
		return nil
	})
	if err != nil || lines != 4 || jsons != 2 {
		t.Errorf("%d lines, %d of JSON: %v", lines, jsons, err)
	}
}

func TestSimulateEnds(t *testing.T) {
	tr, err := ReadTraffic(menu(t), "lab/oven", []string{"-"}, strings.NewReader(
		`{"method":"GET","path":"/dishes","protocol":"HTTP/1.1","response_code":200,"upstream_cluster":"inbound|8080||"}`))
	if err != nil || tr.Requests != 1 {
		t.Fatalf("%v: %+v", err, tr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Simulate(ctx, tr, nil); err == nil {
		t.Error("it went on after its context ended")
	}
}
