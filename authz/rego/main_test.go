package rego

import (
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fields are headers in order: name, value, name, value.
type fields []string

func (f fields) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i+1 < len(f); i += 2 {
		if f[i] == name {
			return f[i+1], i + 2, true
		}
	}
	return "", len(f), false
}

func (f fields) EachField(yield func(name, value string)) {
	for i := 0; i+1 < len(f); i += 2 {
		yield(f[i], f[i+1])
	}
}

// unlisted headers cannot be enumerated.
type unlisted struct{ f fields }

func (u unlisted) HeaderValue(name string, from int) (string, int, bool) {
	return u.f.HeaderValue(name, from)
}

func peer(t testing.TB, account string) *authz.Connection {
	t.Helper()
	c := &authz.Connection{
		SourceIP: netip.MustParseAddr("10.0.0.7"), DestinationIP: netip.MustParseAddr("10.0.0.8"), DestinationPort: 8080,
		SNI: "outbound_.80_._.menu.shop.svc.cluster.local",
	}
	if account != "" {
		id, err := identity.New("cluster.local", "shop", account)
		if err != nil {
			t.Fatal(err)
		}
		c.Peer = identity.Peer{ID: id}
	}
	return c
}

// baseData is the base document of the policies in testdata.
const baseData = `{
	"principals": ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/app"],
	"paths": ["/people/7", "/people", "/each/8"],
	"methods": {"get": {"ok": false}, "head": {"ok": 1}, "delete": true},
	"roles": {
		"spiffe://cluster.local/ns/shop/sa/boss": ["admin", "reader"],
		"spiffe://cluster.local/ns/shop/sa/app": ["reader"],
		"spiffe://cluster.local/ns/shop/sa/none": []
	}
}`

func dataOf(t testing.TB, text string) *structpb.Struct {
	t.Helper()
	out := &structpb.Struct{}
	if err := out.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return out
}

// made builds a policy of one module.
func made(t testing.TB, module, query string) *Policy {
	t.Helper()
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Log: slog.New(slog.DiscardHandler),
		Spec: &policy.RegoPolicy{Query: query, Module: module, Data: dataOf(t, baseData), Timeout: durationpb.New(MaxTimeout)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// corpus are the policies of testdata with their queries, and whether they are lowered.
func corpus(t testing.TB) map[string]*Policy {
	t.Helper()
	files, err := filepath.Glob("testdata/policies/*.rego")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d policies, %v", len(files), err)
	}
	out := map[string]*Policy{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		query := "data.envoy.authz.allow"
		if strings.Contains(string(text), "package menu") {
			query = "data.menu.decision"
		}
		out[filepath.Base(file)] = made(t, string(text), query)
	}
	return out
}

// dice makes requests of the words that the policies of the corpus know, and of a few that they don't.
type dice struct{ *rand.Rand }

func (d dice) of(words ...string) string { return words[d.IntN(len(words))] }

func (d dice) connection(t testing.TB) *authz.Connection {
	c := peer(t, d.of("", "web", "app", "boss", "admin", "none", "other"))
	if d.IntN(4) == 0 {
		c.SNI = ""
	}
	return c
}

func (d dice) path() string {
	segments := []string{"people", "each", "7", "8", "secret", "public", "a.css", "admin", "hidden", ".git", "", "x%2Fy", "x%20y", "ü"}
	out := ""
	for range 1 + d.IntN(3) {
		out += "/" + d.of(segments...)
	}
	return out
}

func (d dice) request() *authz.Request {
	r := &authz.Request{
		Method: d.of("GET", "POST", "HEAD", "DELETE"), Host: d.of("menu.shop", "menu.shop:80", ""), Path: d.path(), Minor: 1,
		Received: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
	if strings.Contains(r.Path, "%") {
		r.DecodedPath = strings.NewReplacer("%2F", "/", "%20", " ").Replace(r.Path)
	}
	if d.IntN(3) == 0 {
		r.Query = d.of("?", "?debug=1", "?debug=0&debug=1", "?a=b;c", "?%zz=1&debug=1")
	}
	var h fields
	for range d.IntN(4) {
		h = append(h, d.of("x-tier", "authorization", "x-tier", "x-other"), d.of("gold", "free", "Bearer a.b.c", ""))
	}
	if d.IntN(2) == 0 {
		r.Token = d.token()
	}
	if d.IntN(2) == 0 {
		r.Body = []byte(d.of(`{"role": "reader"}`, `{"role": "reader"}`, `{"role": 1}`, `{`, `role=reader`))
		r.Truncated = d.IntN(4) == 0
		h = append(fields{"content-type", d.of("application/json", "application/json", "application/x-www-form-urlencoded", "text/plain")}, h...)
	}
	r.Headers = h
	return r
}

func (d dice) token() *jwt.Token {
	t := &jwt.Token{Issuer: "https://issuer.example", Subject: d.of("", "alice"), Claims: map[string]any{}}
	if d.IntN(2) == 0 {
		t.Audiences = []string{"web", d.of("api", "other")}
	}
	for name, values := range map[string][]any{
		"role":   {"admin", "Admin", "guest", json.Number("1"), nil, []any{"admin"}},
		"groups": {[]any{"ops", "reader"}, []any{"staff", "security"}, []any{}, "ops", map[string]any{"a": "ops"}, []any{[]any{"ops"}, true}},
		"level":  {json.Number("3"), json.Number("4"), json.Number("3.5"), json.Number("4e0"), "4", true},
	} {
		if d.IntN(3) > 0 {
			t.Claims[name] = values[d.IntN(len(values))]
		}
	}
	return t
}
