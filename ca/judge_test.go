package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// noKeys is for tests that never sign.
type noKeys struct{}

func (noKeys) Current() Key { return nil }

func newCA(t testing.TB, keys Keys) *CA {
	t.Helper()
	c, err := New(Options{TrustDomain: "mesh.test", Keys: keys, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func csrOf(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return RequestPEM(der)
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestJudgeRefuses(t *testing.T) {
	good := string(csrOf(t, ecKey(t, elliptic.P256()), &x509.CertificateRequest{}))
	block, _ := pem.Decode([]byte(good))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	withHeader := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes, Headers: map[string]string{"A": "b"}}))
	trailing := string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: append(block.Bytes[:len(block.Bytes):len(block.Bytes)], 0)}))
	for name, tc := range map[string]struct{ csr, want string }{
		"empty":            {"", "not PEM"},
		"der":              {string(block.Bytes), "not PEM"},
		"garbage":          {"-----BEGIN garbage", "not PEM"},
		"text before":      {"hello\n" + good, "not PEM"},
		"text after":       {good + "hello", "follows"},
		"two":              {good + good, "follows"},
		"broken then good": {"-----BEGIN CERTIFICATE REQUEST-----\n!!!\n" + good, "more than one"},
		"certificate":      {strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), "not a certificate request"},
		"private key":      {strings.ReplaceAll(good, "CERTIFICATE REQUEST", "PRIVATE KEY"), "not a certificate request"},
		"headers":          {withHeader, "headers"},
		"trailing DER":     {trailing, "reading DER"},
		"too long":         {good + strings.Repeat("\n", MaxCSRBytes), "at most 65536"},
		"1 MB":             {strings.Repeat("A", 1<<20), "at most 65536"},
		"P-224":            {string(csrOf(t, ecKey(t, elliptic.P224()), &x509.CertificateRequest{})), "P-224"},
		"P-521":            {string(csrOf(t, ecKey(t, elliptic.P521()), &x509.CertificateRequest{})), "P-521"},
		"RSA 1024":         {string(csrOf(t, small, &x509.CertificateRequest{})), "1024 bits"},
		"SHA-1":            {string(csrOf(t, ecKey(t, elliptic.P256()), &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA1})), "SHA1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newCA(t, noKeys{}).Judge([]byte(tc.csr), 0)
			var csrErr *CSRError
			if !errors.As(err, &csrErr) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want a CSRError with %q", err, tc.want)
			}
		})
	}
}

func TestJudgeTTL(t *testing.T) {
	c := newCA(t, noKeys{})
	csr := csrOf(t, ecKey(t, elliptic.P256()), &x509.CertificateRequest{})
	for _, tc := range []struct{ asked, want time.Duration }{
		{0, DefaultTTL},
		{-time.Second, DefaultTTL},
		{time.Millisecond, time.Second},
		{20 * time.Second, 20 * time.Second},
		{MaxTTL, MaxTTL},
		{MaxTTL + 1, 0},
		{1<<63 - 1, 0},
	} {
		req, err := c.Judge(csr, tc.asked)
		if tc.want == 0 {
			var ttl *TTLError
			if !errors.As(err, &ttl) || ttl.Asked != tc.asked || ttl.Max != MaxTTL {
				t.Errorf("%v: got %v, want a TTLError", tc.asked, err)
			}
			continue
		}
		if err != nil || req.TTL() != tc.want {
			t.Errorf("%v: got %v, %v, want %v", tc.asked, req, err, tc.want)
		}
	}
}

func TestValidity(t *testing.T) {
	whole := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, frac := range []time.Duration{0, 1, 300 * time.Millisecond, 999 * time.Millisecond} {
		for _, ttl := range []time.Duration{time.Second, 5 * time.Second, 19 * time.Second, 20 * time.Second, time.Hour, DefaultTTL, MaxTTL} {
			now := whole.Add(frac)
			notBefore, notAfter := validity(now, ttl)
			bound := max(min(MaxBackdate, ttl/10), frac) // a part of a second can't be told
			if back := now.Sub(notBefore); back < 0 || back > bound {
				t.Errorf("now %v ttl %v: NotBefore is %v back, bound %v", now, ttl, back, bound)
			}
			if notBefore.Nanosecond() != 0 || !notAfter.Equal(whole.Add(ttl)) {
				t.Errorf("now %v ttl %v: validity %v to %v", now, ttl, notBefore, notAfter)
			}
		}
	}
}

func FuzzJudge(f *testing.F) {
	seeds, err := filepath.Glob("testdata/csr/*.pem")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	c := newCA(f, noKeys{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		req, err := c.Judge(csr, 0)
		if err != nil {
			var csrErr *CSRError
			if !errors.As(err, &csrErr) {
				t.Fatalf("error is %T: %v", err, err)
			}
			return
		}
		// What is taken reads the same for everybody who reads PEM and DER.
		block, _ := pem.Decode(csr)
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || judgeKey(parsed.PublicKey) != nil || len(csr) > MaxCSRBytes {
			t.Fatalf("taken, but %v", err)
		}
		if again, err := c.Judge(RequestPEM(block.Bytes), 0); err != nil || again.KeyHash() != req.KeyHash() {
			t.Fatalf("its canonical form is judged otherwise: %v", err)
		}
	})
}

func TestSerialIs128RandomBits(t *testing.T) {
	c := newCA(t, noKeys{})
	union := new(big.Int)
	for range 200 {
		n, err := c.serial()
		if err != nil || n.Sign() <= 0 || n.BitLen() > 128 {
			t.Fatalf("%x, %v", n, err)
		}
		union.Or(union, n)
	}
	if want := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)); union.Cmp(want) != 0 {
		t.Fatalf("bits never set: %x", new(big.Int).Xor(union, want))
	}
}
