package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openID is a running provider of test/oidc.
type openID struct {
	t      *testing.T
	issuer string
}

func newOpenID(t *testing.T, flags ...string) *openID {
	t.Helper()
	program := filepath.Join(t.TempDir(), "oidc")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../oidc", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building test/oidc: %v\n%s", err, out)
	}
	cmd := exec.Command(program, flags...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &openID{t, strings.TrimSpace(line)}
}

func (o *openID) post(path string, form url.Values) []byte {
	o.t.Helper()
	r, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, o.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		o.t.Fatal(err)
	}
	r.Header.Set("content-type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("kitchen", "oven-oven-oven-oven")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		o.t.Fatalf("%s: %s %s %v", path, resp.Status, b, err)
	}
	return b
}

// token is one for a user, by client credentials.
func (o *openID) token(user, audience, claims string) string {
	o.t.Helper()
	var out struct {
		Token string `json:"access_token"`
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"menu"}, "audience": {audience}, "user": {user}, "claims": {claims}}
	if err := json.Unmarshal(o.post("/token", form), &out); err != nil || strings.Count(out.Token, ".") != 2 {
		o.t.Fatalf("%v, token %q", err, out.Token)
	}
	return out.Token
}

// tokens is a gatehouse whose oven takes the tokens of a provider: with Authorization, forwarded; and in places of its own, where
// they are taken off.
func tokens(t *testing.T, o *openID) *gatehouse {
	when := func(path, key, value string) string {
		return fmt.Sprintf("- {to: [{operation: {paths: [%q]}}], when: [{key: %q, values: [%q]}]}\n", path, key, value)
	}
	return newGatehouse(t, map[string]string{"config.yaml": meshConfig("accessLogEncoding: JSON"), "policies.yaml": objects(
		object("security.istio.io/v1", "RequestAuthentication", "lab/oven", fmt.Sprintf(`
selector: {matchLabels: {app: oven}}
jwtRules:
- issuer: %[1]q
  audiences: [kitchen, pantry]
  fromHeaders: [{name: Authorization, prefix: "Bearer "}]
  forwardOriginalToken: true
  outputPayloadToHeader: x-payload
  outputClaimToHeaders: [{header: x-user, claim: sub}, {header: x-team, claim: team.name}]
- issuer: %[1]q
  jwksUri: %[1]s/jwks
  audiences: [kitchen]
  fromHeaders: [{name: x-token, prefix: "tok "}]
  fromParams: [t]
  fromCookies: [session]
  outputClaimToHeaders: [{header: x-own, claim: sub}]`, o.issuer)),
		onOven("allow", "ALLOW", onPath("/open", "/rego")+"\n"+
			fmt.Sprintf("- {from: [{source: {requestPrincipals: [%q]}}], to: [{operation: {paths: [/alice]}}]}\n", o.issuer+"/alice")+
			"- {from: [{source: {requestPrincipals: [\"*\"]}}], to: [{operation: {paths: [/anybody]}}]}\n"+
			when("/team", "request.auth.claims[team][name]", "bakers")+when("/group", "request.auth.claims[groups]", "admin")+
			when("/audience", "request.auth.audiences", "pantry")+when("/header", "request.headers[x-user]", "alice")),
		custom("claims", "claims", "/rego"),
		regoPolicy("lab/claims", "data.claims.allow", "package claims\nallow if {\n  \"admin\" in input.token.claims.groups\n  input.token.subject == \"alice\"\n}"),
	)})
}

func TestRequestAuthentication(t *testing.T) {
	t.Parallel()
	o := newOpenID(t)
	k := tokens(t, o)
	alice := o.token("alice", "kitchen", `{"team":{"name":"bakers"},"groups":["staff","admin"]}`)
	bob := o.token("bob", "pantry", `{"team":{"name":"waiters"},"groups":["staff"]}`)
	stranger := newOpenID(t, "-alg", "RS256").token("alice", "kitchen", "{}")
	altered := alice[:len(alice)-8] + "AAAAAAAA"
	bearer := func(token string) []string { return []string{"-H", "authorization: Bearer " + token} }
	for _, c := range []struct {
		name, path string
		args       []string
		want       string
	}{
		{"no token, open", "/open", nil, "200"}, {"no token, somebody", "/anybody", nil, "403"}, {"no token, alice", "/alice", nil, "403"},
		{"no token, claim", "/team", nil, "403"}, {"no token, Rego", "/rego", nil, "403"},
		{"alice", "/alice", bearer(alice), "200"}, {"bob is not alice", "/alice", bearer(bob), "403"}, {"bob is somebody", "/anybody", bearer(bob), "200"},
		{"nested claim", "/team", bearer(alice), "200"}, {"another nested claim", "/team", bearer(bob), "403"},
		{"in a list", "/group", bearer(alice), "200"}, {"not in a list", "/group", bearer(bob), "403"},
		{"audience", "/audience", bearer(bob), "200"}, {"another audience", "/audience", bearer(alice), "403"},
		{"claims in Rego", "/rego", bearer(alice), "200"}, {"other claims in Rego", "/rego", bearer(bob), "403"},
		{"invalid, open", "/open", bearer("x.y.z"), "401"}, {"altered", "/alice", bearer(altered), "401"},
		{"another issuer", "/open", bearer(stranger), "401"}, {"audience nobody takes", "/open", bearer(o.token("alice", "cellar", "{}")), "401"},
		{"another scheme is no token", "/open", []string{"-u", "alice:alice"}, "200"},
		{"own header", "/alice", []string{"-H", "x-token: tok " + alice}, "200"}, {"own header, invalid", "/open", []string{"-H", "x-token: tok x"}, "401"},
		{"own header, its audiences", "/open", []string{"-H", "x-token: tok " + bob}, "401"},
		{"cookie", "/alice", []string{"-b", "a=b; session=" + alice}, "200"}, {"cookie, invalid", "/open", []string{"-b", "session=x"}, "401"},
		{"parameter", "/alice?t=" + alice, nil, "200"}, {"parameter, invalid", "/open?t=x", nil, "401"},
		{"two that differ", "/open", append(bearer(alice), "-b", "session="+bob), "401"},
		{"a claim as a field", "/header", bearer(alice), "200"}, {"a claim as a field, another", "/header", bearer(bob), "403"},
		{"a forged field", "/header", []string{"-H", "x-user: alice"}, "403"}, {"a forged field beside a token", "/header", append(bearer(bob), "-H", "x-user: alice"), "403"},
	} {
		if got := k.code(t, c.path, c.args...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	t.Run("forwarded", func(t *testing.T) { tokenForwarded(t, k, alice) })
	t.Run("refused", func(t *testing.T) {
		out := k.get(t, "/open", bearer(altered)...)
		wants(t, out, "HTTP/1.1 401 ", `www-authenticate: Bearer realm="oven.lab"`, `error="invalid_token"`)
		if strings.Contains(out, altered) || strings.Contains(k.Log(), altered[:60]) || strings.Contains(k.Log(), alice[len(alice)-20:]) {
			t.Error("a token is in the answer or in the log")
		}
		if line := k.jsonLogged(t, "lab.oven", "/alice", 401); line["denied_by"] != "RequestAuthentication/lab/oven[0]" || !strings.HasPrefix(fmt.Sprint(line["response_code_details"]), "jwt_authn_access_denied{") {
			t.Errorf("%v", line)
		}
	})
	t.Run("rotation", func(t *testing.T) {
		o.post("/rotate", url.Values{"drop": {"1"}})
		fresh := o.token("alice", "kitchen", "{}")
		k.becomes(t, 15*time.Second, "200", "/alice", bearer(fresh)...) // keys are not asked for more than once in 10 s
		if got := k.code(t, "/alice", bearer(alice)...); got != "401" {
			t.Errorf("a token of a key that is not published any more: %s", got)
		}
	})
}

// tokenForwarded is what of a token reaches the program.
func tokenForwarded(t *testing.T, k *gatehouse, alice string) {
	forged := []string{"-H", "x-user: root", "-H", "x-team: root", "-H", "x-payload: root", "-H", "x-own: root"}
	out := k.get(t, "/open", append(forged, "-H", "authorization: Bearer "+alice)...)
	wants(t, out, "HTTP/1.1 200", "Authorization: Bearer "+alice, "X-User: alice\r\n", "X-Team: bakers\r\n", "X-Payload: "+strings.Split(alice, ".")[1]+"\r\n")
	if b, err := base64.RawURLEncoding.DecodeString(strings.Split(alice, ".")[1]); err != nil || !strings.Contains(string(b), "bakers") {
		t.Errorf("payload %q, %v", b, err)
	}
	if strings.Contains(out, "root") {
		t.Errorf("a forged field reached the program:\n%s", out)
	}
	if out := k.get(t, "/open", forged...); strings.Contains(out, "root") || strings.Contains(out, "X-Own") {
		t.Errorf("without a token a forged field reached the program:\n%s", out)
	}
	for _, args := range [][]string{{"-H", "x-token: tok " + alice}, {"-b", "a=b; session=" + alice + "; c=d"}} {
		out := k.get(t, "/open?a=1", append(args, forged...)...)
		wants(t, out, "HTTP/1.1 200", "GET /open?a=1\n", "X-Own: alice\r\n")
		if strings.Contains(out, alice) || strings.Contains(out, "root") || strings.Contains(out, "X-User") {
			t.Errorf("%q: what must not be forwarded was:\n%s", args[:1], out)
		}
		if args[0] == "-b" {
			wants(t, out, "Cookie: a=b; c=d\r\n")
		}
	}
	out = k.get(t, "/open?a=1&t="+alice+"&b=%20")
	wants(t, out, "HTTP/1.1 200", "GET /open?a=1&b=%20\n", "X-Own: alice\r\n")
}
