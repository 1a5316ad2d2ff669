package jwks_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

// provider is a running test/oidc.
type provider struct {
	issuer string
	client *http.Client
}

// openIDProgram builds test/oidc.
func openIDProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "oidc")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../../../test/oidc", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building test/oidc: %v\n%s", err, out)
	}
	return program
}

func openID(t *testing.T, program string, flags ...string) *provider {
	t.Helper()
	server := exec.CommandContext(t.Context(), program, flags...)
	server.Stderr = os.Stderr
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return &provider{strings.TrimSpace(line), &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}}
}

// post asks the token endpoint, or another one.
func (p *provider) post(t *testing.T, path string, form url.Values) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth("kitchen", "oven-oven-oven-oven")
	response, err := p.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", path, response.Status, text, err)
	}
	out := map[string]any{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// access is a JWT access token by client credentials.
func (p *provider) access(t *testing.T, user, audience, claims string) string {
	t.Helper()
	token, _ := p.post(t, "/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"menu"}, "audience": {audience},
		"user": {user}, "claims": {claims}})["access_token"].(string)
	return token
}

// login is an ID token by the authorization code flow.
func (p *provider) login(t *testing.T, user string) string {
	t.Helper()
	back := "http://127.0.0.1/callback"
	query := url.Values{"client_id": {"kitchen"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {back},
		"state": {"a-state-long-enough"}, "nonce": {"a-nonce-long-enough"}, "user": {user}}
	response, err := p.client.Get(p.issuer + "/auth?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	to, err := response.Location()
	if err != nil || to.Query().Get("code") == "" {
		t.Fatalf("%v: %v, %v", response.Status, to, err)
	}
	token, _ := p.post(t, "/token", url.Values{"grant_type": {"authorization_code"}, "code": {to.Query().Get("code")}, "redirect_uri": {back}})["id_token"].(string)
	return token
}

// header is a request with one bearer token.
type header string

func (h header) HeaderValue(name string, from int) (string, int, bool) {
	if name != "authorization" || from > 0 {
		return "", 0, false
	}
	return "Bearer " + string(h), 1, true
}

// TestOpenID verifies what a real provider issues, found by discovery, over a rotation of its keys.
func TestOpenID(t *testing.T) {
	program := openIDProgram(t)
	for _, algorithm := range []string{"ES256", "RS256"} {
		t.Run(algorithm, func(t *testing.T) {
			p := openID(t, program, "-alg", algorithm)
			keys, _ := start(t, jwks.Config{Issuer: p.issuer}, 0, 10*time.Second)
			a := jwt.New([]jwt.Rule{{Issuer: p.issuer, Audiences: []string{"shop", "kitchen"}, Keys: keys, ClaimHeaders: []jwt.ClaimHeader{{Header: "x-role", Claim: "realm.role"}}}})
			ask := func(token string) (*jwt.Token, string, []jwt.Field) {
				f, err := a.Authenticate(t.Context(), header(token), "", p.issuer)
				if err != nil {
					return nil, err.Reason, nil
				}
				return f.Token, "", f.Set
			}
			first := p.access(t, "alice", "shop", `{"realm":{"role":"chef"},"groups":["a","b"]}`)
			token, reason, set := ask(first)
			if reason != "" || token.Principal() != p.issuer+"/alice" || token.Claims["scope"] != "menu" || !slices.Equal(set, []jwt.Field{{Name: "x-role", Value: "chef"}}) {
				t.Fatalf("%+v, %q, %v", token, reason, set)
			}
			if token, reason, _ := ask(p.login(t, "bob")); reason != "" || token.Subject != "bob" || !slices.Contains(token.Audiences, "kitchen") {
				t.Errorf("ID token: %+v, %q", token, reason)
			}
			if _, reason, _ := ask(p.access(t, "alice", "elsewhere", "")); reason != jwt.WrongAudience {
				t.Errorf("another audience: %q", reason)
			}
			// A rotation: the new key is found at once, the old one lives until it is no longer published.
			p.post(t, "/rotate", nil)
			if _, reason, _ := ask(p.access(t, "carol", "shop", "")); reason != "" {
				t.Errorf("after a rotation: %q", reason)
			}
			if _, reason, _ := ask(first); reason != "" {
				t.Errorf("by the old key: %q", reason)
			}
			p.post(t, "/rotate", url.Values{"drop": {"1"}})
			if _, reason, _ := ask(p.access(t, "dave", "shop", "")); reason != "" {
				t.Errorf("after the second rotation: %q", reason)
			}
			if _, reason, _ := ask(first); reason != jwt.UnknownKey {
				t.Errorf("by a key that is gone: %q, want %q", reason, jwt.UnknownKey)
			}
			// Another provider's token is worth nothing here.
			stranger := openID(t, program, "-alg", algorithm)
			if _, reason, _ := ask(stranger.access(t, "alice", "shop", "")); reason != jwt.UnknownIssuer {
				t.Errorf("a stranger's: %q", reason)
			}
			if _, reason, _ := ask(stranger.access(t, "alice", "shop", `{"iss":"`+p.issuer+`"}`)); reason == "" {
				t.Error("a stranger's is accepted")
			}
		})
	}
}
