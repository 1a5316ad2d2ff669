package rego

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// opa is the real thing.
func opa(t *testing.T) string {
	t.Helper()
	where, err := exec.CommandContext(t.Context(), "go", "-C", "../../test/opa", "tool", "-n", "opa").Output()
	if err != nil {
		t.Fatalf("building opa: %v", err)
	}
	return strings.TrimSpace(string(where))
}

// oracle is a running opa server.
type oracle struct {
	t    *testing.T
	base string
}

func startOracle(t *testing.T) oracle {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, opa(t), "run", "--server", "--addr", address, "--log-level", "error", "--disable-telemetry")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	o := oracle{t, "http://" + address}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get(o.base + "/health"); err == nil {
			_ = r.Body.Close()
			return o
		}
		if time.Now().After(deadline) {
			t.Fatal("opa does not answer")
		}
	}
}

func (o oracle) call(method, path string, body []byte) (int, []byte) {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), method, o.base+path, bytes.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return res.StatusCode, answer
}

// TestOracle asks a real opa server the same with the whole input as JSON: our pruned input, our topdown and our native
// code must all give its answer.
func TestOracle(t *testing.T) {
	o := startOracle(t)
	if code, text := o.call(http.MethodPut, "/v1/data", []byte(baseData)); code != http.StatusNoContent {
		t.Fatalf("%d %s", code, text)
	}
	d := dice{rand.New(rand.NewPCG(5, 6))}
	for name, p := range corpus(t) {
		if name == "people_v0.rego" {
			continue
		}
		text, err := os.ReadFile(filepath.Join("testdata/policies", name))
		if err != nil {
			t.Fatal(err)
		}
		if code, text := o.call(http.MethodPut, "/v1/policies/it", text); code != http.StatusOK {
			t.Fatalf("%s: %d %s", name, code, text)
		}
		results := map[string]int{}
		for range 60 {
			c, r := d.connection(t), d.request()
			results[compare(t, o, name, p, c, r, false)]++
			if r.DecodedPath != "" {
				results[compare(t, o, name, p, c, r, true)]++
			}
		}
		if len(results) < 2 {
			t.Errorf("%s: all results are the same: %v", name, results)
		}
		o.call(http.MethodDelete, "/v1/policies/it", nil)
	}
}

// compare asks both and returns what they said.
func compare(t *testing.T, o oracle, name string, p *Policy, c *authz.Connection, r *authz.Request, decoded bool) string {
	t.Helper()
	input, err := Input(c, r, decoded)
	if err != nil {
		if a := p.Ask(t.Context(), c, r); p.Needs().Body > 0 && (a.Allowed || a.Status != http.StatusBadRequest) {
			t.Errorf("%s: a body that can't be read: %+v", name, a)
		}
		return "bad request"
	}
	path := "/v1/data/" + strings.ReplaceAll(strings.TrimPrefix(p.query.String(), "data."), ".", "/")
	code, text := o.call(http.MethodPost, path+"?strict-builtin-errors=true", fmt.Appendf(nil, `{"input": %s}`, input))
	var theirs struct{ Result json.RawMessage }
	if code == http.StatusOK {
		if err := json.Unmarshal(text, &theirs); err != nil {
			t.Fatal(err)
		}
	}
	s := p.current.Load()
	ours, err := p.evaluate(t.Context(), s, c, r, decoded)
	switch {
	case err != nil || code != http.StatusOK:
		if err == nil || code == http.StatusOK {
			t.Errorf("%s: ours %v, %v; theirs %d %s\n%s", name, ours, err, code, text, input)
		}
		return "error"
	case ours == nil || theirs.Result == nil:
		if ours != nil || theirs.Result != nil {
			t.Errorf("%s: ours %v; theirs %s\n%s", name, ours, theirs.Result, input)
		}
		return "undefined"
	}
	want, err := ast.ValueFromReader(bytes.NewReader(theirs.Result))
	if err != nil {
		t.Fatal(err)
	}
	if ast.Compare(ours, want) != 0 {
		t.Errorf("%s: ours %v; theirs %v\n%s", name, ours, want, input)
	}
	if s.native != nil {
		outcome(t, p, c, r, decoded)
	}
	return want.String()
}

// TestOracleVersion0 runs a policy of Rego's version 0 as opa does that is told so.
func TestOracleVersion0(t *testing.T) {
	p := corpus(t)["people_v0.rego"]
	program := opa(t)
	c := peer(t, "web")
	for _, test := range []struct {
		name, method, path, role, body string
		want                           bool
	}{
		{"a guest may look", "GET", "/people", "guest", "", true},
		{"nobody may without a role", "GET", "/people", "none", "", false},
		{"an admin may add", "POST", "/people", "admin", `{"firstname": "Charlie"}`, true},
		{"but not itself", "POST", "/people", "admin", `{"firstname": "Alice"}`, false},
	} {
		token := hs256(fmt.Sprintf(`{"role": %q, "sub": %q, "nbf": 1, "exp": 9999999999}`, test.role, base64.RawURLEncoding.EncodeToString([]byte("alice"))))
		r := &authz.Request{
			Method: test.method, Path: test.path, Host: "people", Minor: 1, Body: []byte(test.body),
			Headers: fields{"authorization", "Bearer " + token, "content-type", "application/json"},
		}
		input, err := Input(c, r, false)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program, "eval", "--v0-compatible", "--stdin-input", "--format", "raw",
			"--data", "testdata/policies/people_v0.rego", "data.envoy.authz.allow")
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if a := p.Ask(t.Context(), c, r); a.Allowed != test.want || a.Err != nil || strings.TrimSpace(string(out)) != fmt.Sprint(test.want) {
			t.Errorf("%s: ours %+v; theirs %s", test.name, a, out)
		}
	}
}

func hs256(payload string) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
