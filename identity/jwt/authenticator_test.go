package jwt_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
)

func rule(keys jwt.Keys, change func(*jwt.Rule)) jwt.Rule {
	r := jwt.Rule{Namespace: "shop", Name: "users", Issuer: issuer, Keys: keys}
	if change != nil {
		change(&r)
	}
	return r
}

func TestNothing(t *testing.T) {
	var none *jwt.Authenticator
	if f, err := none.Authenticate(t.Context(), bearer("x"), "?access_token=x", ""); err != nil || !reflect.DeepEqual(f, jwt.Found{}) {
		t.Errorf("nil: %+v, %v", f, err)
	}
	if f, err := jwt.New(nil).Authenticate(t.Context(), bearer("x"), "", ""); err != nil || f.Token != nil {
		t.Errorf("without rules: %+v, %v", f, err)
	}
	// The zero rule accepts nothing.
	if f, err := authenticator(jwt.Rule{}).Authenticate(t.Context(), bearer(good(t)), "", ""); err == nil || err.Reason != jwt.UnknownIssuer {
		t.Errorf("the zero rule: %+v, %v", f, err)
	}
}

// TestLocations looks for one good token in all places.
func TestLocations(t *testing.T) {
	keys := ring(key("k1", "", "p256"))
	token := good(t)
	everywhere := func(r *jwt.Rule) {
		r.Headers = []jwt.HeaderLocation{{Name: "X-Jwt"}, {Name: "Authorization", Prefix: "Token "}}
		r.Params, r.Cookies = []string{"my token"}, []string{"session"}
	}
	custom := func(r *jwt.Rule) { everywhere(r); r.PayloadHeader = "X-Payload" }
	for _, c := range []struct {
		name   string
		change func(*jwt.Rule)
		fields fields
		query  string
		want   string // "" no token, "token", or a reason
		remove string
	}{
		{"none", nil, nil, "", "", ""},
		{"header", nil, bearer(token), "", "token", "fields authorization"},
		{"scheme in lower case", nil, fields{{"authorization", "bearer   " + token + " "}}, "", "token", "fields authorization"},
		{"another scheme", nil, fields{{"authorization", "Basic " + token}}, "", "", ""},
		{"scheme alone", nil, fields{{"authorization", "Bearer "}}, "", "", ""},
		{"query", nil, nil, "?a=b&access_token=" + token, "token", "params access_token"},
		{"query, escaped", nil, nil, "?%61ccess%5Ftoken=" + strings.ReplaceAll(token, ".", "%2E"), "token", "params access_token"},
		{"query, empty", nil, nil, "?access_token=&access_token", "", ""},
		{"default places are not looked at", everywhere, bearer(token), "?access_token=" + token, "", ""},
		{"own header", everywhere, fields{{"x-jwt", token}}, "", "token", "fields x-jwt"},
		{"own prefix", everywhere, fields{{"authorization", "Token " + token}}, "", "token", "fields authorization"},
		{"own param", everywhere, nil, "?my+token=" + token, "token", "params my token"},
		{"cookie", everywhere, fields{{"cookie", "a=b; session=" + token + "; c=d"}}, "", "token", "cookies session"},
		{"cookie in a second field", everywhere, fields{{"cookie", "a=b"}, {"cookie", `session="` + token + `"`}}, "", "token", "cookies session"},
		{"cookie, empty", everywhere, fields{{"cookie", "session="}}, "", "", ""},
		{"cookie of a longer name", everywhere, fields{{"cookie", "xsession=" + token}}, "", "", ""},
		{"outputs are cleared without a token", custom, fields{{"x-payload", "forged"}}, "", "", "clear x-payload"},
		{"outputs are cleared with one", custom, fields{{"x-jwt", token}, {"x-payload", "forged"}}, "", "token", "clear x-payload fields x-jwt"},
		{"forwarded", func(r *jwt.Rule) { custom(r); r.Forward = true }, fields{{"x-jwt", token}}, "", "token", "clear x-payload"},
		{"in two places", nil, bearer(token), "?access_token=" + token, "token", "fields authorization params access_token"},
		{"two fields, one token", nil, fields{{"authorization", "Bearer " + token}, {"authorization", "Bearer " + token}}, "", "token", "fields authorization"},

		{"two fields, two tokens", nil, fields{{"authorization", "Bearer " + token}, {"authorization", "Bearer x"}}, "", jwt.RepeatedLocation, ""},
		{"two fields, two schemes", nil, fields{{"authorization", "Basic x"}, {"authorization", "Bearer " + token}}, "", jwt.RepeatedLocation, ""},
		{"param twice", nil, nil, "?access_token=" + token + "&access_token=x", jwt.RepeatedLocation, ""},
		{"param twice, once empty", nil, nil, "?access_token=&access_token=" + token, jwt.RepeatedLocation, ""},
		{"cookie twice", everywhere, fields{{"cookie", "session=x; session=" + token}}, "", jwt.RepeatedLocation, ""},
		{"two places, two tokens", nil, bearer(token), "?access_token=" + good(t, `"x":1`), jwt.SeveralTokens, ""},
		{"two places, one bad", nil, bearer("x"), "?access_token=" + token, jwt.Malformed, ""},
		{"two in a field", nil, bearer(token + ", Bearer " + token), "", jwt.Malformed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := authenticator(rule(keys, c.change))
			for range 2 { // the second time from the cache
				f, err := a.Authenticate(t.Context(), c.fields, c.query, "http://shop/")
				got, remove := "", removals(f)
				switch {
				case err != nil:
					got = err.Reason
				case f.Token != nil:
					got = "token"
				}
				if got != c.want || remove != c.remove {
					t.Errorf("%q, removes %q; want %q, %q (%v)", got, remove, c.want, c.remove, err)
				}
			}
		})
	}
}

func removals(f jwt.Found) string {
	var out []string
	for _, part := range []struct {
		name string
		list []string
	}{{"clear", f.Clear}, {"fields", f.Remove}, {"params", f.RemoveParams}, {"cookies", f.RemoveCookie}} {
		if len(part.list) > 0 {
			out = append(out, part.name)
			out = append(out, part.list...)
		}
	}
	return strings.Join(out, " ")
}

// TestIssuers has rules that look at the same place and are told apart by issuer, and one that looks elsewhere.
func TestIssuers(t *testing.T) {
	first := rule(ring(key("k1", "", "p256")), nil)
	strict := rule(ring(key("k1", "", "p256")), func(r *jwt.Rule) { r.Name, r.Audiences = "strict", []string{"shop"} })
	other := rule(ring(key("k1", "", "p256-other")), func(r *jwt.Rule) { r.Name, r.Issuer = "other", "other" })
	header := rule(ring(key("k1", "", "p256-other")), func(r *jwt.Rule) {
		r.Name, r.Issuer, r.Headers = "header", "third", []jwt.HeaderLocation{{Name: "x-jwt"}}
	})
	of := func(pair, iss string, more string) string {
		return mint(t, "ES256", pair, `{"alg":"ES256","kid":"k1"}`, `{"iss":"`+iss+`","sub":"s"`+more+`}`)
	}
	for _, c := range []struct {
		name   string
		rules  []jwt.Rule
		fields fields
		rule   int
		reason string
		blamed string
	}{
		{"the first", []jwt.Rule{first, other, header}, bearer(of("p256", issuer, "")), 0, "", ""},
		{"the second", []jwt.Rule{first, other, header}, bearer(of("p256-other", "other", "")), 1, "", ""},
		{"one issuer's key for another", []jwt.Rule{first, other, header}, bearer(of("p256-other", issuer, "")), 0, jwt.BadSignature, "users"},
		{"issuer of another place", []jwt.Rule{first, other, header}, bearer(of("p256-other", "third", "")), 0, jwt.UnknownIssuer, ""},
		{"issuer at its place", []jwt.Rule{first, other, header}, fields{{"x-jwt", of("p256-other", "third", "")}}, 2, "", ""},
		{"nobody's", []jwt.Rule{first, other, header}, bearer(of("p256", "nobody", "")), 0, jwt.UnknownIssuer, ""},
		{"two rules of one issuer, the first does", []jwt.Rule{strict, first}, bearer(of("p256", issuer, `,"aud":"shop"`)), 0, "", ""},
		{"two rules of one issuer, the second does", []jwt.Rule{strict, first}, bearer(of("p256", issuer, `,"aud":"x"`)), 1, "", ""},
		{"two rules of one issuer, none does", []jwt.Rule{strict, strict}, bearer(of("p256", issuer, `,"aud":"x"`)), 0, jwt.WrongAudience, "strict"},
	} {
		a := authenticator(c.rules...)
		f, err := a.Authenticate(t.Context(), c.fields, "", "")
		switch {
		case c.reason == "" && (err != nil || f.Token.Rule != c.rule):
			t.Errorf("%s: %+v, %v", c.name, f.Token, err)
		case c.reason != "" && (err == nil || err.Reason != c.reason || (err.Rule == nil) != (c.blamed == "") || err.Rule != nil && err.Rule.Name != c.blamed):
			t.Errorf("%s: %+v, want %s of %q", c.name, err, c.reason, c.blamed)
		}
	}
}

func TestOutputs(t *testing.T) {
	r := rule(ring(key("k1", "", "p256")), func(r *jwt.Rule) {
		r.PayloadHeader = "X-Payload"
		for _, c := range []string{"sub", "n", "yes", "deep.er.name", "a.b", "list", "obj", "none", "deep.none", "sub.x", "evil", "blank", "nothing"} {
			r.ClaimHeaders = append(r.ClaimHeaders, jwt.ClaimHeader{Header: "X-" + strings.ReplaceAll(c, ".", "-"), Claim: c})
		}
	})
	token := good(t, `"n":9007199254740993`, `"yes":true`, `"deep":{"er":{"name":"Zoë"}}`, `"a.b":"dotted"`, `"a":{"b":"nested"}`,
		`"list":["a"]`, `"obj":{}`, `"evil":"a\r\nx-admin: 1"`, `"blank":" a"`, `"nothing":null`)
	f, err := authenticator(r).Authenticate(t.Context(), bearer(token), "", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []jwt.Field{{"x-payload", strings.Split(token, ".")[1]}, {"x-sub", "alice"}, {"x-n", "9007199254740993"}, {"x-yes", "true"},
		{"x-deep-er-name", "Zoë"}, {"x-a-b", "dotted"}}
	if !slices.Equal(f.Set, want) {
		t.Errorf("sets %q\nwant %q", f.Set, want)
	}
	for _, name := range []string{"x-payload", "x-none", "x-evil", "x-obj"} {
		if !slices.Contains(f.Clear, name) || slices.Contains(f.Remove, name) { // Remove would take off what was set
			t.Errorf("%s is not cleared, or removed", name)
		}
	}
}

func TestChallenge(t *testing.T) {
	a := authenticator(rule(ring(key("k1", "", "p256")), nil))
	for _, c := range []struct{ realm, want string }{
		{"http://shop.example/a?access_token=secret", `Bearer realm="http://shop.example/a", error="invalid_token", error_description="the token has expired"`},
		{"http://shop/\"\\\r\n\x00é", `Bearer realm="http://shop/", error="invalid_token", error_description="the token has expired"`},
		{strings.Repeat("a", 999), `Bearer realm="` + strings.Repeat("a", 256) + `", error="invalid_token", error_description="the token has expired"`},
	} {
		_, err := a.Authenticate(t.Context(), bearer(claims(t, `"exp":1`)), "", c.realm)
		if err == nil || err.Challenge != c.want {
			t.Errorf("%q: %+v, want %s", c.realm, err, c.want)
		}
	}
	seen := map[string]bool{}
	for _, token := range []string{"x", strings.Repeat("x", jwt.MaxToken+1), claims(t, `"exp":1`), claims(t, `"nbf":1900000000`), raw(t, `{}`),
		mint(t, "ES256", "p256", `{"alg":"none"}`, payload()), mint(t, "ES256", "p256", `{"alg":"ES256","kid":"x"}`, payload()),
		mint(t, "ES256", "p256-other", `{"alg":"ES256","kid":"k1"}`, payload())} {
		_, err := a.Authenticate(t.Context(), bearer(token), "", "r")
		if err == nil || strings.Contains(err.Challenge, token) || seen[err.Challenge] || strings.Count(err.Challenge, `"`) != 6 {
			t.Errorf("%.60s: %+v", token, err)
			continue
		}
		seen[err.Challenge] = true
	}
}

// TestCache counts how often keys are asked for, by a key that the set loses.
func TestCache(t *testing.T) {
	keys := ring(key("k1", "", "p256"))
	now := epoch
	a := jwt.New([]jwt.Rule{rule(keys, nil), rule(ring(key("k1", "", "p256-other")), func(r *jwt.Rule) { r.Params = []string{"other"} })})
	a.SetClock(func() time.Time { return now })
	long, short := good(t), claims(t, `"exp":1800000010`)
	ask := func(token string) string {
		if _, err := a.Authenticate(t.Context(), bearer(token), "", ""); err != nil {
			return err.Reason
		}
		return ""
	}
	first, err := a.Authenticate(t.Context(), bearer(long), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := a.Authenticate(t.Context(), bearer(long), "", ""); again.Token != first.Token {
		t.Error("a token is verified again")
	}
	if ask(short) != "" {
		t.Error("a short one is refused")
	}
	// One place's verdict is not another one's, and one byte makes another token.
	if _, err := a.Authenticate(t.Context(), fields(nil), "?other="+long, ""); err == nil || err.Reason != jwt.BadSignature {
		t.Errorf("at another place: %v", err)
	}
	if got := ask(long[:len(long)-4] + "AAAA"); got != jwt.BadSignature {
		t.Errorf("with another signature: %q", got)
	}
	// exp counts, though CacheTime is not over.
	now = time.Unix(1800000010, 0).Add(jwt.ClockSkew - time.Second)
	if got := ask(short); got != "" {
		t.Errorf("before its end: %q", got)
	}
	now = now.Add(time.Second)
	if got := ask(short); got != jwt.Expired {
		t.Errorf("at its end: %q", got)
	}
	// CacheTime counts.
	now = epoch.Add(jwt.CacheTime)
	if again, err := a.Authenticate(t.Context(), bearer(long), "", ""); err != nil || again.Token == first.Token {
		t.Errorf("a token is believed for ever (%v)", err)
	}
	// A new set counts at once.
	keys.mu.Lock()
	keys.now = []jwt.Key{key("k2", "", "p256")}
	keys.mu.Unlock()
	if got := ask(long); got != jwt.UnknownKey {
		t.Errorf("after its key went: %q", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	a := authenticator(rule(ring(key("k1", "", "ed25519")), nil))
	filler := strings.Repeat("x", 8000)
	most := 0
	for i := range 1500 {
		token := mint(t, "EdDSA", "ed25519", `{"alg":"EdDSA","kid":"k1"}`, payload(fmt.Sprintf(`"x":"%s%d"`, filler, i)))
		if _, err := a.Authenticate(t.Context(), bearer(token), "", ""); err != nil {
			t.Fatal(err)
		}
		_, bytes := a.CacheSize()
		most = max(most, bytes)
	}
	if tokens, _ := a.CacheSize(); most > jwt.CacheBytes || tokens < 100 {
		t.Errorf("%d bytes, limit %d; %d tokens", most, jwt.CacheBytes, tokens)
	}
}

func TestConcurrent(t *testing.T) {
	keys := ring(key("k1", "", "p256"))
	a := authenticator(rule(keys, nil))
	tokens := make([]string, 50)
	for i := range tokens {
		tokens[i] = good(t, fmt.Sprintf(`"n":%d`, i))
	}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 200 {
				token := tokens[(i+worker)%len(tokens)]
				if f, err := a.Authenticate(t.Context(), bearer(token), "", ""); err != nil || f.Token.Payload != strings.Split(token, ".")[1] {
					t.Errorf("%+v, %v", f, err)
				}
				if worker == 0 && i%50 == 0 {
					keys.mu.Lock()
					keys.now = slices.Clone(keys.now)
					keys.mu.Unlock()
				}
			}
		})
	}
	group.Wait()
}

// TestAllocations: a token that was verified before costs none, and neither does a request without one.
func TestAllocations(t *testing.T) {
	a := authenticator(rule(ring(key("k1", "", "p256")), func(r *jwt.Rule) {
		r.Headers, r.Cookies, r.PayloadHeader = []jwt.HeaderLocation{{Name: "authorization", Prefix: "Bearer "}}, []string{"session"}, "x-payload"
	}))
	token := good(t)
	ctx := t.Context()
	for name, f := range map[string]jwt.Fields{"header": bearer(token), "cookie": fields{{"cookie", "a=b; session=" + token}}, "none": fields{{"cookie", "a=b"}}} {
		ask := func() {
			if _, err := a.Authenticate(ctx, f, "?a=b", "http://shop/"); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		if n := testing.AllocsPerRun(100, ask); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkCached(b *testing.B) {
	a := authenticator(rule(ring(key("k1", "", "p256")), nil))
	var f jwt.Fields = bearer(good(b))
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := a.Authenticate(ctx, f, "", ""); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for algorithm, pair := range map[string]string{"RS256": "rsa", "ES256": "p256", "EdDSA": "ed25519"} {
		b.Run(algorithm, func(b *testing.B) {
			token := mint(b, algorithm, pair, fmt.Sprintf(`{"alg":%q}`, algorithm), payload())
			rules := []jwt.Rule{rule(ring(key("", "", pair)), nil)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jwt.Verify(b.Context(), token, rules, epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
