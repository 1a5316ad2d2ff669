package jwks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ec is a JWK of P-256 with more members.
func ec(t *testing.T, k *ecdsa.PrivateKey, more string) string {
	t.Helper()
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q%s}`, b64(point[1:33]), b64(point[33:]), more)
}

func rsaKey(bits uint, more string) string {
	n := new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1)
	return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":"AQAB"%s}`, b64(n.Bytes()), more)
}

func certificate(t *testing.T, k *ecdsa.PrivateKey) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return string(text)
}

func TestParse(t *testing.T) {
	k := newKey(t)
	good := ec(t, k, `,"kid":"good"`)
	for _, c := range []struct{ name, text, want string }{
		{"one", `{"keys":[` + good + `]}`, "good"},
		{"all that fits", `{"keys":[` + ec(t, k, `,"kid":"a","use":"sig","alg":"ES256","key_ops":["verify"],"x5t":7`) + `,` + rsaKey(2048, `,"kid":"b","alg":"PS512"`) +
			`,{"kty":"OKP","crv":"Ed25519","kid":"c","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, "a b c"},
		{"one kid twice, and none", `{"keys":[` + good + `,` + good + `,` + ec(t, k, "") + `]}`, "good good "},
		{"a private part is not read", `{"keys":[` + ec(t, k, `,"d":"AAAA","kid":"p"`) + `]}`, "p"},
		{"a broken chain is not read", `{"keys":[` + ec(t, k, `,"x5c":["!"],"kid":"x"`) + `]}`, "x"},
		{"what does not fit is left out", `{"keys":[` + strings.Join([]string{good, `{"kty":"oct","k":"AAAA"}`, `{"kty":"AKP","alg":"ML-DSA-44","pub":"AA"}`, `{}`, `7`,
			ec(t, k, `,"use":"enc"`), ec(t, k, `,"key_ops":["sign"]`), ec(t, k, `,"key_ops":[]`), ec(t, k, `,"alg":"ES384"`), ec(t, k, `,"alg":"HS256"`), ec(t, k, `,"kid":7`),
			rsaKey(1024, ""), rsaKey(9000, ""), rsaKey(2048, `,"alg":"RSA-OAEP"`), rsaKey(2048, `,"alg":"ES256"`),
			`{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}`, `{"kty":"EC","crv":"secp256k1","x":"AAAA","y":"AAAA"}`, `{"kty":"OKP","crv":"X25519","x":"AAAA"}`,
			`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`}, ",") + `]}`, "good"},
		{"certificates", `{"c2":` + certificate(t, k) + `,"c1":` + certificate(t, newKey(t)) + `,"c3":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}`, "c1 c2"},
		{"nothing usable", `{"keys":[{"kty":"oct","k":"AAAA"}]}`, "! no key in it verifies tokens"},
		{"no keys", `{"keys":[]}`, "! it has no keys"},
		{"empty object", `{}`, "! it has no keys"},
		{"another object", `{"a":"b"}`, "! PEM certificate"},
		{"keys an object", `{"keys":{}}`, `! "keys"`},
		{"an array", `[]`, "! reading key set"},
		{"text", `hello`, "! reading key set"},
		{"empty", ``, "! reading key set"},
		{"two objects", `{"keys":[` + good + `]}{}`, "! something follows"},
		{"too many", `{"keys":[` + strings.Repeat(good+",", jwks.MaxKeys) + good + `]}`, "! limit 100"},
		{"too long", `{"keys":[` + good + `]}` + strings.Repeat(" ", jwks.MaxSetBytes), "! limit 1048576"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, err := jwks.Parse([]byte(c.text))
			if want, bad := strings.CutPrefix(c.want, "! "); bad {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want an error with %q", err, want)
				}
				if static, err := jwks.Static([]byte(c.text)); err == nil {
					t.Errorf("Static: %v", static)
				}
				return
			}
			var ids []string
			for _, k := range keys {
				ids = append(ids, k.ID)
			}
			if got := strings.Join(ids, " "); err != nil || got != c.want {
				t.Errorf("%q, want %q (%v)", got, c.want, err)
			}
			static, err := jwks.Static([]byte(c.text))
			if err != nil || len(static.Keys()) != len(keys) || static.Refresh(t.Context()) {
				t.Errorf("Static: %v, %v", static, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[` + rsaKey(2048, "") + `,{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"a":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := jwks.Parse(text)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if k.Public == nil {
				t.Fatalf("%+v", k)
			}
		}
	})
}
