package jwt_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

// TestVectors verifies the published examples, whose payloads are not all claims.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) != 10 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v struct {
				Verdict, JWS string
				JWKS         json.RawMessage
			}
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			keys, err := jwks.Parse(v.JWKS)
			if v.Verdict == "refuse" {
				keys = append(keys, key("", "", "rsa"), jwt.Key{Public: []byte("secret")})
				if _, ok := jwt.VerifyJWS(v.JWS, keys); ok {
					t.Error("accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := jwt.VerifyJWS(v.JWS, keys); !ok {
				t.Error("refused")
			}
			head, rest, _ := strings.Cut(v.JWS, ".")
			for name, broken := range map[string]string{"payload": head + ".eA" + rest[strings.Index(rest, "."):], "signature": v.JWS[:len(v.JWS)-8] + "AAAAAAAA"} {
				if _, ok := jwt.VerifyJWS(broken, keys); ok {
					t.Errorf("accepted with another %s", name)
				}
			}
		})
	}
}

// TestAlgorithms signs by every algorithm and verifies with every key.
func TestAlgorithms(t *testing.T) {
	fits := map[string]string{"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed25519"}
	for algorithm, pair := range fits {
		token := mint(t, algorithm, pair, fmt.Sprintf(`{"alg":%q}`, algorithm), payload())
		for other := range pairs() {
			for _, own := range []string{"", algorithm, "RS256", "PS256", "ES256", "RSA-OAEP", "none"} {
				_, ok := jwt.VerifyJWS(token, []jwt.Key{key("", own, other)})
				if want := other == pair && (own == "" || own == algorithm); ok != want {
					t.Errorf("%s token, key %s with alg %q: %v", algorithm, other, own, ok)
				}
			}
		}
	}
	if _, ok := jwt.VerifyJWS(mint(t, "RS256", "rsa-short", `{"alg":"RS256"}`, "{}"), []jwt.Key{key("", "", "rsa-short")}); ok {
		t.Error("a key of 1024 bits is accepted")
	}
}

// attack is a token that must be refused for a reason.
type attack struct{ name, token, reason string }

func headers(t *testing.T) []attack {
	out := []attack{
		{"crit", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1","crit":["exp"],"exp":1}`, payload()), jwt.Malformed},
		{"crit empty", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1","crit":[]}`, payload()), jwt.Malformed},
		{"b64 false", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1","b64":false}`, payload()), jwt.Malformed},
		{"b64 false critical", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1","b64":false,"crit":["b64"]}`, payload()), jwt.Malformed},
		{"two algs", mint(t, "ES256", "p256", `{"alg":"ES256","alg":"ES256","kid":"k1"}`, payload()), jwt.Malformed},
		{"two algs, one escaped", mint(t, "ES256", "p256", `{"alg":"ES256","\u0061lg":"none","kid":"k1"}`, payload()), jwt.Malformed},
		{"two members deep down", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1","x":[{"y":{"a":1,"a":2}}]}`, payload()), jwt.Malformed},
		{"no alg", mint(t, "ES256", "p256", `{"kid":"k1"}`, payload()), jwt.Malformed},
		{"alg a number", mint(t, "ES256", "p256", `{"alg":256,"kid":"k1"}`, payload()), jwt.Malformed},
		{"header an array", mint(t, "ES256", "p256", `["alg","ES256"]`, payload()), jwt.Malformed},
		{"header and more", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1"}{}`, payload()), jwt.Malformed},
		{"header and a brace", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1"}}`, payload()), jwt.Malformed},
		{"header not UTF-8", mint(t, "ES256", "p256", "{\"alg\":\"ES256\",\"kid\":\"k1\",\"x\":\"\xff\"}", payload()), jwt.Malformed},
		{"kid a number", mint(t, "ES256", "p256", `{"alg":"ES256","kid":1}`, payload()), jwt.Malformed},
		{"kid null", mint(t, "ES256", "p256", `{"alg":"ES256","kid":null}`, payload()), jwt.Malformed},
		{"kid very long", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"`+strings.Repeat("k", jwt.MaxKeyID+1)+`"}`, payload()), jwt.Malformed},
		{"kid a path", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"../../../../dev/null"}`, payload()), jwt.UnknownKey},
		{"kid SQL", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1' or '1'='1"}`, payload()), jwt.UnknownKey},
		{"kid with NUL", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1\u0000"}`, payload()), jwt.UnknownKey},
		{"kid empty", mint(t, "ES256", "p256", `{"alg":"ES256","kid":""}`, payload()), jwt.UnknownKey},
		{"kid of another key", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"r1"}`, payload()), jwt.UnknownKey},
		{"another key", mint(t, "ES256", "p256-other", `{"alg":"ES256","kid":"k1"}`, payload()), jwt.BadSignature},
		{"another key, no kid", mint(t, "ES256", "p256-other", `{"alg":"ES256"}`, payload()), jwt.BadSignature},
		{"embedded jwk", mint(t, "ES256", "p256-other", `{"alg":"ES256","jwk":`+jwk(t)+`}`, payload()), jwt.BadSignature},
		{"embedded jku and x5u", mint(t, "ES256", "p256-other", `{"alg":"ES256","jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/"}`, payload()), jwt.BadSignature},
		{"RS signed, says PS", mint(t, "RS256", "rsa", `{"alg":"PS256","kid":"r1"}`, payload()), jwt.BadSignature},
		{"PS with a key for RS", mint(t, "PS256", "rsa", `{"alg":"PS256","kid":"r-rs"}`, payload()), jwt.UnknownKey},
		{"RS with a key for PS", mint(t, "RS256", "rsa", `{"alg":"RS256","kid":"r-ps"}`, payload()), jwt.UnknownKey},
		{"ES256 with an RSA key", mint(t, "ES256", "p256", `{"alg":"ES256","kid":"r1"}`, payload()), jwt.UnknownKey},
		{"ES384 with a P-256 key", mint(t, "ES384", "p256", `{"alg":"ES384","kid":"k1"}`, payload()), jwt.UnknownKey},
		{"short RSA key", mint(t, "RS256", "rsa-short", `{"alg":"RS256","kid":"short"}`, payload()), jwt.UnknownKey},
	}
	for _, none := range []string{"none", "None", "NONE", "nOnE", "", " none", "none ", "null", "es256", "ES256 ", "ES256K", "HS1", "A256KW", "dir"} {
		head := b64(`{"alg":"`+none+`","kid":"k1"}`) + "." + b64(payload())
		out = append(out, attack{"alg " + none, head + ".", jwt.BadAlgorithm},
			attack{"alg signed " + none, seal(t, "ES256", pairs()["p256"], head), jwt.BadAlgorithm})
	}
	// The public key as an HMAC secret, in the forms in which it is published.
	public := pairs()["rsa"].Public()
	der, _ := x509.MarshalPKIXPublicKey(public)
	for form, secret := range map[string][]byte{"PKIX": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"PKCS1": x509.MarshalPKCS1PublicKey(public.(*rsa.PublicKey)), "modulus": public.(*rsa.PublicKey).N.Bytes(), "empty": {}} {
		for _, bits := range []string{"256", "384", "512"} {
			out = append(out, attack{"HMAC by public key " + form + bits, seal(t, "HS"+bits, secret, b64(`{"alg":"HS`+bits+`","kid":"r1"}`)+"."+b64(payload())), jwt.BadAlgorithm})
		}
	}
	return out
}

func jwk(t *testing.T) string {
	public := pairs()["p256-other"].Public()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	point := der[len(der)-64:]
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64(string(point[:32])), b64(string(point[32:])))
}

func payloads(t *testing.T) []attack {
	deep := strings.Repeat("[", jwt.MaxDepth) + strings.Repeat("]", jwt.MaxDepth)
	deeper := strings.Repeat(`{"a":`, jwt.MaxDepth) + "1" + strings.Repeat("}", jwt.MaxDepth)
	out := []attack{
		{"expired", claims(t, `"exp":1799999940`), jwt.Expired},
		{"not yet", claims(t, `"nbf":1800000061`), jwt.NotYetValid},
		{"not yet, a fraction", claims(t, `"nbf":1800000060.01`), jwt.NotYetValid},
		{"exp a string", claims(t, `"exp":"1800003600"`), jwt.Malformed},
		{"exp null", claims(t, `"exp":null`), jwt.Malformed},
		{"exp an array", claims(t, `"exp":[1800003600]`), jwt.Malformed},
		{"exp true", claims(t, `"exp":true`), jwt.Malformed},
		{"exp negative", claims(t, `"exp":-1`), jwt.Malformed},
		{"exp endless", claims(t, `"exp":1e400`), jwt.Malformed},
		{"exp too large", claims(t, `"exp":1e16`), jwt.Malformed},
		{"nbf a string", claims(t, `"nbf":"0"`), jwt.Malformed},
		{"iat a string", claims(t, `"iat":"0"`), jwt.Malformed},
		{"aud missing", claims(t), jwt.WrongAudience},
		{"aud another", claims(t, `"aud":"shop2"`), jwt.WrongAudience},
		{"aud others", claims(t, `"aud":["a","shop ","SHOP"]`), jwt.WrongAudience},
		{"aud empty", claims(t, `"aud":[]`), jwt.WrongAudience},
		{"aud a number", claims(t, `"aud":7`), jwt.Malformed},
		{"aud of numbers", claims(t, `"aud":["shop",7]`), jwt.Malformed},
		{"sub a number", claims(t, `"aud":"shop","sub":7`), jwt.Malformed},
		{"azp an object", claims(t, `"aud":"shop","azp":{}`), jwt.Malformed},
		{"no issuer", raw(t, `{"aud":"shop"}`), jwt.UnknownIssuer},
		{"issuer empty", raw(t, `{"aud":"shop","iss":""}`), jwt.UnknownIssuer},
		{"issuer a list", raw(t, `{"aud":"shop","iss":["`+issuer+`"]}`), jwt.Malformed},
		{"issuer with slash", raw(t, `{"aud":"shop","iss":"`+issuer+`/"}`), jwt.UnknownIssuer},
		{"issuer of another case", raw(t, `{"aud":"shop","iss":"`+strings.ToUpper(issuer)+`"}`), jwt.UnknownIssuer},
		{"two issuers", raw(t, `{"aud":"shop","iss":"`+issuer+`","iss":"`+issuer+`"}`), jwt.Malformed},
		{"two subjects", claims(t, `"aud":"shop","sub":"a","\u0073ub":"root"`), jwt.Malformed},
		{"deep array", claims(t, `"aud":"shop","x":`+deep), jwt.Malformed},
		{"deep object", claims(t, `"aud":"shop","x":`+deeper), jwt.Malformed},
		{"payload not UTF-8", claims(t, "\"aud\":\"shop\",\"x\":\"\xc3\x28\""), jwt.Malformed},
		{"payload an array", raw(t, `[]`), jwt.Malformed},
		{"payload null", raw(t, `null`), jwt.Malformed},
		{"payload empty", raw(t, ``), jwt.Malformed},
		{"payload cut", raw(t, `{"iss":"`+issuer+`","aud":"shop"`), jwt.Malformed},
		{"payload and more", raw(t, `{"iss":"`+issuer+`","aud":"shop"} x`), jwt.Malformed},
		{"huge", claims(t, `"aud":"shop","x":"`+strings.Repeat("x", jwt.MaxToken)+`"`), jwt.TooLong},
	}
	ok := claims(t, `"aud":"shop"`)
	for name, token := range map[string]string{
		"trailing dot": ok + ".", "four segments": ok + ".AAAA", "five segments": ok + ".AAAA.AAAA", "two segments": ok[:strings.LastIndex(ok, ".")],
		"leading dot": "." + ok, "padded": ok + "==", "odd length": ok + "AAA", "line end": ok[:20] + "\n" + ok[20:], "line end in the signature": ok[:len(ok)-5] + "\r\n" + ok[len(ok)-5:],
		"spare bits": ok[:len(ok)-1] + string(ok[len(ok)-1]+1), "blank": ok[:20] + " " + ok[20:],
		"JSON serialization": `{"payload":"e30","signatures":[]}`, "standard alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(ok) + "+",
		"not base64": "a.b.c!", "NUL": ok + "\x00", "two in one": ok + "," + ok, "dots": "..", "one dot": ".", "words": "hello",
	} {
		out = append(out, attack{name, token, jwt.Malformed})
	}
	return out
}

// claims is a payload of which some members are replaced.
func claims(t *testing.T, with ...string) string {
	base := `"iss":"` + issuer + `"`
	if !strings.Contains(strings.Join(with, ","), `"sub"`) {
		base += `,"sub":"alice"`
	}
	return raw(t, "{"+strings.Join(append([]string{base}, with...), ",")+"}")
}

func raw(t *testing.T, payload string) string {
	return mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1"}`, payload)
}

func attackRule() jwt.Rule {
	return jwt.Rule{Issuer: issuer, Audiences: []string{"other", "shop"}, Keys: ring(key("k1", "", "p256"), key("r1", "", "rsa"),
		key("r-rs", "RS256", "rsa"), key("r-ps", "PS256", "rsa"), key("short", "", "rsa-short"))}
}

func TestAttacks(t *testing.T) {
	rules := []jwt.Rule{attackRule()}
	list := payloads(t)
	// Those of headers carry no audience.
	open := attackRule()
	open.Audiences = nil
	for _, group := range []struct {
		rules []jwt.Rule
		list  []attack
	}{{rules, list}, {[]jwt.Rule{open}, headers(t)}} {
		for _, c := range group.list {
			t.Run(c.name, func(t *testing.T) {
				token, err := jwt.Verify(t.Context(), c.token, group.rules, epoch)
				if err == nil {
					t.Fatalf("accepted: %+v", token)
				}
				if err.Reason != c.reason {
					t.Errorf("reason %q, want %q (%v)", err.Reason, c.reason, err)
				}
				if parts := strings.Split(c.token, "."); len(parts) > 1 && len(parts[1]) > 20 && strings.Contains(err.Error(), parts[1]) {
					t.Errorf("the error repeats the token: %v", err)
				}
			})
		}
	}
}

func TestAccepted(t *testing.T) {
	almost := strings.Repeat("[", jwt.MaxDepth-1) + strings.Repeat("]", jwt.MaxDepth-1)
	for name, token := range map[string]string{
		"aud a string": claims(t, `"aud":"shop"`), "aud an array": claims(t, `"aud":["a","shop"]`), "no exp": claims(t, `"aud":"shop"`),
		"exp in the skew": claims(t, `"aud":"shop","exp":1799999941`), "nbf in the skew": claims(t, `"aud":"shop","nbf":1800000060`),
		"fraction": claims(t, `"aud":"shop","exp":1800003600.75,"iat":1.8e9`), "iat ahead": claims(t, `"aud":"shop","iat":1900000000`),
		"as deep as can be": claims(t, `"aud":"shop","x":`+almost), "not ASCII": claims(t, `"aud":"shop","name":"Zoë 🍞"`),
		"typ and cty": mint(t, "ES256", "p256", `{"typ":"at+jwt","cty":"x","alg":"ES256","jku":"https://x/","x5t":"YQ"}`, payload(`"aud":"shop"`)),
		"RSA":         mint(t, "PS512", "rsa", `{"alg":"PS512","kid":"r1"}`, payload(`"aud":"shop"`)),
	} {
		if _, err := jwt.Verify(t.Context(), token, []jwt.Rule{attackRule()}, epoch); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	token, err := jwt.Verify(t.Context(), claims(t, `"aud":["shop","b"],"azp":"app","exp":1800003600`), []jwt.Rule{{Issuer: "x"}, attackRule()}, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if token.Rule != 1 || token.Principal() != issuer+"/alice" || token.Presenter != "app" || len(token.Audiences) != 2 ||
		!token.Expires.Equal(epoch.Add(time.Hour)) || token.Claims["exp"] != json.Number("1800003600") {
		t.Errorf("%+v", token)
	}
}

func TestRefresh(t *testing.T) {
	for _, c := range []struct {
		name, header string
		keys         *keyring
		asked        int
		reason       string
	}{
		{"unknown kid, found", `{"alg":"ES256","kid":"k1"}`, &keyring{now: []jwt.Key{key("k0", "", "rsa")}, next: [][]jwt.Key{{key("k1", "", "p256")}}}, 1, ""},
		{"unknown kid, not found", `{"alg":"ES256","kid":"k1"}`, ring(key("k0", "", "p256")), 1, jwt.UnknownKey},
		{"nothing yet, found", `{"alg":"ES256"}`, &keyring{next: [][]jwt.Key{{key("", "", "p256")}}}, 1, ""},
		{"nothing yet", `{"alg":"ES256","kid":"k1"}`, ring(), 1, jwt.KeysUnavailable},
		{"no kid, rotated", `{"alg":"ES256"}`, &keyring{now: []jwt.Key{key("", "", "p256-other")}, next: [][]jwt.Key{{key("", "", "p256")}}}, 1, ""},
		{"no kid, wrong", `{"alg":"ES256"}`, ring(key("", "", "p256-other")), 1, jwt.BadSignature},
		{"known kid, wrong", `{"alg":"ES256","kid":"k1"}`, ring(key("k1", "", "p256-other")), 0, jwt.BadSignature},
		{"known kid, right", `{"alg":"ES256","kid":"k1"}`, ring(key("k1", "", "p256")), 0, ""},
		{"one kid twice", `{"alg":"ES256","kid":"k1"}`, ring(key("k1", "", "p256-other"), key("k1", "", "p256")), 0, ""},
	} {
		_, err := jwt.Verify(t.Context(), mint(t, "ES256", "p256", c.header, payload()), []jwt.Rule{{Issuer: issuer, Keys: c.keys}}, epoch)
		reason := ""
		if err != nil {
			reason = err.Reason
		}
		if reason != c.reason || c.keys.refreshed != c.asked {
			t.Errorf("%s: reason %q, want %q; asked %d times, want %d", c.name, reason, c.reason, c.keys.refreshed, c.asked)
		}
	}
	// A token that is refused by its claims asks nobody.
	keys := ring()
	if _, err := jwt.Verify(t.Context(), good(t), []jwt.Rule{{Issuer: issuer, Audiences: []string{"x"}, Keys: keys}}, epoch); err == nil || keys.refreshed != 0 {
		t.Errorf("%v, asked %d times", err, keys.refreshed)
	}
	if _, err := jwt.Verify(t.Context(), good(t), []jwt.Rule{{Issuer: issuer}}, epoch); err == nil || err.Reason != jwt.KeysUnavailable {
		t.Errorf("a rule without keys: %v", err)
	}
}

// FuzzVerify wants no panic, and nothing accepted but what the key signed.
func FuzzVerify(f *testing.F) {
	signed := mint(f, "ES256", "p256", `{"alg":"ES256","kid":"k1"}`, payload())
	f.Add(signed)
	f.Add(mint(f, "RS256", "rsa", `{"alg":"RS256"}`, payload()))
	f.Add(seal(f, "HS256", []byte("secret"), b64(`{"alg":"HS256"}`)+"."+b64(payload())))
	f.Add(b64(`{"alg":"none"}`) + "." + b64(payload()) + ".")
	f.Add(strings.Repeat("a.", 30))
	f.Add(b64(strings.Repeat(`{"a":`, 99)) + ".e30.AA")
	rule := jwt.Rule{Issuer: issuer, Keys: ring(key("k1", "", "p384"), key("", "", "rsa-other"), key("k3", "", "ed25519"))}
	own := jwt.Rule{Issuer: issuer, Keys: ring(key("k1", "", "p256"))}
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := jwt.Verify(t.Context(), token, []jwt.Rule{rule}, epoch); err == nil {
			t.Fatalf("accepted without the key: %+v", got)
		}
		// ECDSA has a second signature for each; what is signed must be ours.
		if _, err := jwt.Verify(t.Context(), token, []jwt.Rule{own}, epoch); err == nil &&
			!bytes.Equal([]byte(token[:strings.LastIndex(token, ".")]), []byte(signed[:strings.LastIndex(signed, ".")])) {
			t.Fatalf("accepted another token: %q", token)
		}
	})
}
