package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
)

const issuer = "https://id.example.com"

var epoch = time.Unix(1_800_000_000, 0)

// pairs are the key pairs of all tests: RSA keys are slow to make.
var pairs = sync.OnceValue(func() map[string]crypto.Signer {
	out := map[string]crypto.Signer{}
	for name, bits := range map[string]int{"rsa": 2048, "rsa-other": 2048, "rsa-short": 1024} {
		out[name], _ = rsa.GenerateKey(rand.Reader, bits)
	}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p256-other": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521(), "p224": elliptic.P224()} {
		out[name], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	_, out["ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return out
})

func key(id, algorithm, pair string) jwt.Key {
	return jwt.Key{ID: id, Algorithm: algorithm, Public: pairs()[pair].Public()}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// seal signs what stands before the signature, by code that shares nothing with the verifier.
func seal(t testing.TB, algorithm string, k any, head string) string {
	t.Helper()
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	h := hashes[algorithm[2:]]
	var digest []byte
	if h != 0 {
		d := h.New()
		d.Write([]byte(head))
		digest = d.Sum(nil)
	}
	var sig []byte
	var err error
	switch algorithm[:2] {
	case "HS":
		m := hmac.New(h.New, k.([]byte))
		m.Write([]byte(head))
		sig = m.Sum(nil)
	case "RS":
		sig, err = rsa.SignPKCS1v15(rand.Reader, k.(*rsa.PrivateKey), h, digest)
	case "PS":
		sig, err = rsa.SignPSS(rand.Reader, k.(*rsa.PrivateKey), h, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		private := k.(*ecdsa.PrivateKey)
		r, s, e := ecdsa.Sign(rand.Reader, private, digest)
		n := (private.Params().BitSize + 7) / 8
		sig, err = append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...), e
	case "Ed":
		sig = ed25519.Sign(k.(ed25519.PrivateKey), []byte(head))
	}
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + b64(string(sig))
}

// mint makes a token of a header and a payload that may be anything.
func mint(t testing.TB, algorithm, pair, header, payload string) string {
	t.Helper()
	return seal(t, algorithm, pairs()[pair], b64(header)+"."+b64(payload))
}

// good is a token of ES256 by key k1, with more claims.
func good(t testing.TB, more ...string) string {
	t.Helper()
	return mint(t, "ES256", "p256", `{"alg":"ES256","kid":"k1"}`, payload(more...))
}

func payload(more ...string) string {
	return `{` + strings.Join(append([]string{`"iss":"` + issuer + `"`, `"sub":"alice"`, `"exp":1800003600`}, more...), ",") + `}`
}

// keyring is a Keys whose sets come one after the other.
type keyring struct {
	mu        sync.Mutex
	now       []jwt.Key   // mu
	next      [][]jwt.Key // mu
	refreshed int         // mu
}

func ring(keys ...jwt.Key) *keyring { return &keyring{now: keys} }

func (k *keyring) Keys() []jwt.Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *keyring) Refresh(context.Context) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshed++
	if len(k.next) == 0 {
		return false
	}
	k.now, k.next = k.next[0], k.next[1:]
	return true
}

// fields is a request's header.
type fields []jwt.Field

func (f fields) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i < len(f); i++ {
		if f[i].Name == name {
			return f[i].Value, i + 1, true
		}
	}
	return "", 0, false
}

func bearer(token string) fields { return fields{{"authorization", "Bearer " + token}} }

func authenticator(rules ...jwt.Rule) *jwt.Authenticator {
	a := jwt.New(rules)
	a.SetClock(func() time.Time { return epoch })
	return a
}
