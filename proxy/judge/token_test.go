package judge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/proxy"
)

// ring is a set of one key.
type ring []jwt.Key

// Keys implements jwt.Keys.
func (r ring) Keys() []jwt.Key { return r }

// Refresh implements jwt.Keys.
func (ring) Refresh(context.Context) bool { return false }

// tokens is a judge without a program that takes tokens of one issuer, and such a token of alice.
func tokens(t testing.TB, change func(*jwt.Rule)) (Judge, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rule := jwt.Rule{Namespace: "shop", Name: "users", Issuer: "https://id.shop", Keys: ring{{ID: "k", Algorithm: "ES256", Public: key.Public()}}}
	if change != nil {
		change(&rule)
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + encode([]byte(`{"iss":"https://id.shop","sub":"alice"}`))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return Judge{Tokens: jwt.New([]jwt.Rule{rule})}, text + "." + encode(signature)
}

func TestTokens(t *testing.T) {
	j, token := tokens(t, nil)
	person := &security.AuthorizationPolicy{Rules: []*security.Rule{{From: []*security.Rule_From{{Source: &security.Source{RequestPrincipals: []string{"https://id.shop/alice"}}}}}}}
	j.Program = program(t, person)
	for name, tt := range map[string]struct {
		field string
		code  proxy.Code
	}{
		"hers":    {"Bearer " + token, proxy.OK},
		"none":    {"", proxy.Denied}, // nobody, which the policies decide about
		"another": {"Basic YTph", proxy.Denied},
		"altered": {"Bearer " + token[:len(token)-10] + "AAAAAAAAAA", proxy.TokenInvalid},
		"garbage": {"Bearer x", proxy.TokenInvalid},
	} {
		k := newCase(t, "/")
		if tt.field != "" {
			k.Head.Add("authorization", tt.field)
		}
		v, f := j.Authorize(t.Context(), k)
		if v.Permit.Valid() != (tt.code == proxy.OK) || f != nil && f.Code != tt.code {
			t.Errorf("%s: permit %v, %+v", name, v.Permit.Valid(), f)
		}
		if tt.code != proxy.TokenInvalid {
			continue
		}
		if len(f.Fields) != 1 || f.Fields[0].Name != "www-authenticate" || !strings.HasPrefix(f.Fields[0].Value, "Bearer realm=") ||
			!strings.HasPrefix(f.Detail, "jwt_authn_access_denied{") || strings.Contains(f.Error()+f.Fields[0].Value, token[:20]) {
			t.Errorf("%s: %+v", name, f)
		}
		if v.By == nil || v.By.Kind != "RequestAuthentication" {
			t.Errorf("%s: by %+v", name, v.By)
		}
	}
}

// What a verified token writes into the request is not the caller's to write: with a token and without.
func TestForgedOutputs(t *testing.T) {
	j, token := tokens(t, func(r *jwt.Rule) {
		r.PayloadHeader, r.ClaimHeaders = "x-payload", []jwt.ClaimHeader{{Header: "x-user", Claim: "sub"}, {Header: "x-none", Claim: "none"}}
	})
	forged := func(k *Case) {
		for _, name := range []string{"x-payload", "x-user", "x-none"} {
			k.Head.Add(name, "root")
		}
	}
	j.Program = program(t, ifHeader(security.AuthorizationPolicy_ALLOW, "x-user", "root"))
	k := newCase(t, "/")
	forged(k)
	if v, _ := j.Authorize(t.Context(), k); v.Permit.Valid() || len(k.Head.Fields) > 0 {
		t.Errorf("a forged field was judged: permit %v, %v", v.Permit.Valid(), k.Head.Fields)
	}
	j.Program = program(t, ifHeader(security.AuthorizationPolicy_ALLOW, "x-user", "alice"))
	k = newCase(t, "/")
	forged(k)
	k.Head.Add("authorization", "Bearer "+token)
	v, f := j.Authorize(t.Context(), k)
	if !v.Permit.Valid() {
		t.Fatalf("a claim's field is not judged: %v", f)
	}
	v.Strip(k)
	want := []proxy.Field{{Name: "x-payload", Value: strings.Split(token, ".")[1]}, {Name: "x-user", Value: "alice"}}
	if !slices.Equal(k.Head.Fields, want) {
		t.Errorf("forwarded %v, want %v", k.Head.Fields, want)
	}
}

// Strip takes a token off what is forwarded, and what is judged again is the request as it was.
func TestStrip(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*jwt.Rule)
		put    func(h *proxy.Head, token string)
		fields string // forwarded
		query  string
	}{
		"header": {nil, func(h *proxy.Head, token string) { h.Add("authorization", "Bearer "+token) }, "x-a=1", "?b=%20"},
		"parameter": {nil, func(h *proxy.Head, token string) {
			h.Query = "?%61ccess_token=" + token + "&b=%20"
		}, "x-a=1", "?b=%20"},
		"cookie": {func(r *jwt.Rule) { r.Cookies = []string{"session"} },
			func(h *proxy.Head, token string) {
				h.Add("cookie", "a=b; session="+token+";c=d")
				h.Add("cookie", "session="+token)
			}, "x-a=1 cookie=a=b; c=d", "?b=%20"},
		"forwarded": {func(r *jwt.Rule) { r.Forward = true }, func(h *proxy.Head, token string) {
			h.Add("authorization", "Bearer x")
			h.Set("authorization", "Bearer "+token)
		}, "x-a=1 authorization=Bearer TOKEN", "?b=%20"},
		"none": {nil, func(*proxy.Head, string) {}, "x-a=1", "?b=%20"},
	} {
		j, token := tokens(t, tt.change)
		j.Program = program(t, ifHeader(security.AuthorizationPolicy_ALLOW, "x-a", "1"))
		k := newCase(t, "/")
		k.Head.Query = "?b=%20"
		k.Head.Add("x-a", "1")
		tt.put(k.Head, token)
		before, query := slices.Clone(k.Head.Fields), k.Head.Query
		v, f := j.Authorize(t.Context(), k)
		if !v.Permit.Valid() {
			t.Fatalf("%s: %v", name, f)
		}
		v.Strip(k)
		var got []string
		for _, f := range k.Head.Fields {
			got = append(got, f.Name+"="+strings.ReplaceAll(f.Value, token, "TOKEN"))
		}
		if strings.Join(got, " ") != tt.fields || k.Head.Query != tt.query {
			t.Errorf("%s: forwarded %q %q, want %q %q", name, got, k.Head.Query, tt.fields, tt.query)
		}
		var judged []proxy.Field
		k.Request.Headers.(interface {
			EachField(func(name, value string))
		}).EachField(func(name, value string) { judged = append(judged, proxy.Field{Name: name, Value: value}) })
		if !slices.Equal(judged, before) || k.Request.Query != query {
			t.Errorf("%s: judged again would be %v %q, want %v %q", name, judged, k.Request.Query, before, query)
		}
		if by, detail := j.Again(t.Context(), k.Connection, k.Request); by != nil {
			t.Errorf("%s: denied when judged again: %s", name, detail)
		}
	}
}

func TestEditQuery(t *testing.T) {
	for _, tt := range []struct {
		in, remove, set, want string
	}{
		{"", "a", "", ""}, {"?", "a", "", ""}, {"?a", "a", "", ""}, {"?a=1", "b", "", "?a=1"},
		{"?a=1&b=2&a=3", "a", "", "?b=2"}, {"?%61=1&b=%zz&+c", "a", "", "?b=%zz&+c"}, {"?a%20b=1", "a b", "", ""}, {"?%zz=1", "%zz", "", ""},
		{"?A=1&ab=2", "a", "", "?A=1&ab=2"}, {"?a=b&c=a", "a", "", "?c=a"}, {"", "", "a=1", "?a=1"}, {"?b=2&a=0", "", "a=1", "?b=2&a=1"},
		{"?a=0", "a", "a=1", "?a=1"}, {"?x&&y", "a", "", "?x&y"}, {"?a=b?c=d", "c", "", "?a=b?c=d"},
	} {
		var set []authz.QueryParam
		if name, value, ok := strings.Cut(tt.set, "="); ok {
			set = []authz.QueryParam{{Name: name, Value: value}}
		}
		if got := editQuery(tt.in, []string{tt.remove}, set); got != tt.want {
			t.Errorf("%q without %q and with %q: %q, want %q", tt.in, tt.remove, tt.set, got, tt.want)
		}
	}
}

// A request without a token costs nothing, though tokens would be looked for.
func TestNoTokenAllocates(t *testing.T) {
	j, _ := tokens(t, func(r *jwt.Rule) { r.PayloadHeader = "x-payload" })
	j.Program = program(t)
	k := newCase(t, "/api")
	k.Head.Add("accept", "text/plain")
	if n := testing.AllocsPerRun(100, func() {
		k.Head.Path = "/api"
		v, _ := j.Authorize(context.Background(), k)
		v.Strip(k)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A program behind CGI reads x_customer and x-customer as one: only the mesh states it.
func TestTwinsOfOutputsGo(t *testing.T) {
	h := get("/")
	for _, name := range []string{"x_customer", "x-customer_id", "x_customer_id", "x-customerxid", "x-customer-id"} {
		h.Add(name, "forged")
	}
	Edit(h, authz.HeaderEdit{Op: authz.SetHeader, Name: "x-customer-id", Value: "ada"})
	var got []string
	for _, f := range h.Fields {
		got = append(got, f.Name+"="+f.Value)
	}
	if want := "x_customer=forged x-customerxid=forged x-customer-id=ada"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// Whom limits count: who is connected, unless proxies are trusted to say who called them.
func TestClientIP(t *testing.T) {
	for trusted, want := range map[int]string{0: "invalid IP", 1: "198.51.100.7"} {
		h := get("/")
		h.Add("x-forwarded-for", "198.51.100.7, 203.0.113.9")
		req := &authz.Request{}
		j := Judge{Program: program(t), NumTrustedProxies: trusted}
		if _, failure := j.Authorize(context.Background(), &Case{Connection: caller(t), Head: h, Request: req, Scratch: &Scratch{}}); failure != nil || req.ClientIP.String() != want {
			t.Errorf("%d trusted: %v, %v; want %s", trusted, req.ClientIP, failure, want)
		}
	}
}
