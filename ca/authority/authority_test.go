package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const td = "mesh.test"

func mustOpen(t *testing.T, dir string, opts Options) *Authority {
	t.Helper()
	a, err := Open(dir, td, opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustClose(t *testing.T, a *Authority) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// filled is a state directory after a first start.
func filled(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	mustClose(t, mustOpen(t, dir, Options{}))
	return dir
}

func TestFirstStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	a := mustOpen(t, dir, Options{})
	defer mustClose(t, a)
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info.Mode(), err)
	}
	for _, f := range []string{trustDomainFile, rootKeyFile, ca.RootCertFile, caKeyFile, caCertFile, lockFile} {
		info, err := os.Stat(filepath.Join(dir, f))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info, err)
		}
	}
	root, signing := a.Roots()[0], a.Chain()[0]
	if err := checkIntermediate(signingPair(a), root, td); err != nil {
		t.Error(err)
	}
	if got := root.NotAfter.Sub(root.NotBefore); got < DefaultRootTTL || got > DefaultRootTTL+3*time.Minute {
		t.Errorf("root lives %v", got)
	}
	if got := signing.NotAfter.Sub(signing.NotBefore); got < DefaultIntermediateTTL || got > DefaultIntermediateTTL+3*time.Minute {
		t.Errorf("signing certificate lives %v", got)
	}
	if root.MaxPathLen != -1 || root.SerialNumber.BitLen() > 129 || sha256.Sum256(root.Raw) != a.RootSHA256() {
		t.Errorf("root: %+v", root)
	}
	for _, c := range []*x509.Certificate{root, signing} {
		if c.SignatureAlgorithm != x509.ECDSAWithSHA256 || len(c.DNSNames)+len(c.EmailAddresses)+len(c.IPAddresses) != 0 {
			t.Errorf("%v: %v", c.Subject, c.SignatureAlgorithm)
		}
	}
}

func TestSecondStartReuses(t *testing.T) {
	dir := filled(t)
	a := mustOpen(t, dir, Options{})
	root, signing := a.RootSHA256(), a.Chain()[0]
	mustClose(t, a)
	b := mustOpen(t, dir, Options{})
	defer mustClose(t, b)
	if b.RootSHA256() != root || !b.Chain()[0].Equal(signing) {
		t.Fatal("other certificates than before")
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	dir := filled(t)
	a := mustOpen(t, dir, Options{})
	_, err := Open(dir, td, Options{})
	if err == nil || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("got %v, want an error with process %d", err, os.Getpid())
	}
	mustClose(t, a)
	mustClose(t, mustOpen(t, dir, Options{}))
}

func TestOtherTrustDomain(t *testing.T) {
	dir := filled(t)
	_, err := Open(dir, "other.test", Options{})
	if err == nil || !strings.Contains(err.Error(), `"mesh.test"`) || !strings.Contains(err.Error(), `"other.test"`) {
		t.Fatalf("got %v, want both names", err)
	}
	for _, bad := range []string{"", "UPPER", "a/b", "spiffe://x", "a b"} {
		if _, err := Open(t.TempDir(), bad, Options{}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// fault is one thing broken in a good directory, and a part of the error it must give; want "" is a directory that opens
// with its root kept.
type fault struct {
	fault func(dir string) error
	want  string
}

func faults(other string) map[string]fault {
	write := func(name, data string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	chmod := func(name string, mode os.FileMode) func(string) error {
		return func(dir string) error { return os.Chmod(filepath.Join(dir, name), mode) }
	}
	foreign := func(name string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
	}
	return map[string]fault{
		"nothing":                  {func(string) error { return nil }, ""},
		"left-over temporary file": {write(ca.TempPrefix+"123", "x"), ""},
		"trust-domain missing":     {remove(trustDomainFile), `"trust-domain" is missing`},
		"trust-domain empty":       {write(trustDomainFile, ""), `belongs to trust domain ""`},
		"root-key missing":         {remove(rootKeyFile), `"root-key.pem" is missing`},
		"root-key corrupt":         {write(rootKeyFile, "x"), `"root-key.pem": it is not one PEM block`},
		"root-key no key":          {write(rootKeyFile, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "no key that can be read"},
		"root-key foreign":         {foreign(rootKeyFile), "the key is not the certificate's"},
		"root-key readable":        {chmod(rootKeyFile, 0o644), `"root-key.pem": it has mode 0644`},
		"root-cert missing":        {remove(ca.RootCertFile), `"root-cert.pem" is missing`},
		"root-cert corrupt":        {write(ca.RootCertFile, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), `"root-cert.pem"`},
		"root-cert foreign":        {foreign(ca.RootCertFile), "the key is not the certificate's"},
		"root-cert writable":       {chmod(ca.RootCertFile, 0o666), `"root-cert.pem": it has mode 0666`},
		"root-cert readable":       {chmod(ca.RootCertFile, 0o644), ""},
		"ca-key missing":           {remove(caKeyFile), `"ca-key.pem" is missing`},
		"ca-key corrupt":           {write(caKeyFile, ""), `"ca-key.pem": it is not one PEM block`},
		"ca-key foreign":           {foreign(caKeyFile), "the key is not the certificate's"},
		"ca-key readable":          {chmod(caKeyFile, 0o640), `"ca-key.pem": it has mode 0640`},
		"ca-cert missing":          {remove(caCertFile), `"ca-cert.pem" is missing`},
		"ca-cert corrupt":          {write(caCertFile, "hello"), `"ca-cert.pem": it is not one PEM block`},
		"ca-cert is a directory": {func(dir string) error {
			p := filepath.Join(dir, caCertFile)
			_ = os.Remove(p)
			return os.Mkdir(p, 0o700)
		}, `"ca-cert.pem": it is no plain file`},
		"ca pair foreign":           {func(dir string) error { _ = foreign(caKeyFile)(dir); return foreign(caCertFile)(dir) }, "not signed by the root"},
		"ca-cert too long":          {write(caCertFile, strings.Repeat("x", maxFileBytes+1)), "at most"},
		"directory writable":        {func(dir string) error { return os.Chmod(dir, 0o777) }, "mode 0777"},
		"directory readable":        {func(dir string) error { return os.Chmod(dir, 0o755) }, ""},
		"next key of a cut renewal": {foreignKeyAs(other, caNextKeyFile), ""},
		"pair gone (root remains)":  {func(dir string) error { _ = os.Remove(filepath.Join(dir, caKeyFile)); return remove(caCertFile)(dir) }, ""},
	}
}

// TestFaults breaks one thing of a good directory at a time.
func TestFaults(t *testing.T) {
	for name, tc := range faults(filled(t)) {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			before, err := os.ReadFile(filepath.Join(dir, ca.RootCertFile))
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.fault(dir); err != nil {
				t.Fatal(err)
			}
			a, err := Open(dir, td, Options{})
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, want an error with %s", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, a)
			after, err := os.ReadFile(filepath.Join(dir, ca.RootCertFile))
			if err != nil || !bytes.Equal(before, after) {
				t.Fatalf("the root was changed: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(left) > 0 {
				t.Fatalf("left: %v", left)
			}
		})
	}
}

func foreignKeyAs(other, name string) func(string) error {
	return func(dir string) error {
		b, err := os.ReadFile(filepath.Join(other, caKeyFile))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), b, 0o600)
	}
}

// TestCrashAnywhere rebuilds what is on disk after each write of a first start and of a renewal, and starts from there.
func TestCrashAnywhere(t *testing.T) {
	full, renewed := filled(t), filled(t)
	a := mustOpen(t, renewed, Options{})
	old := read(t, renewed, caKeyFile)
	if err := a.renew(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, a)

	type file struct{ name, data string }
	first := []file{
		{trustDomainFile, read(t, full, trustDomainFile)},
		{rootKeyFile, read(t, full, rootKeyFile)},
		{ca.RootCertFile, read(t, full, ca.RootCertFile)},
		{caNextKeyFile, read(t, full, caKeyFile)},
		{caCertFile, read(t, full, caCertFile)},
	}
	for n := range len(first) + 1 {
		t.Run("first start, after write "+strconv.Itoa(n), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range first[:n] {
				put(t, dir, f.name, f.data)
			}
			reopenAndCheck(t, dir)
			if n >= 2 && read(t, dir, rootKeyFile) != first[1].data {
				t.Error("another root key")
			}
			if n == len(first) && read(t, dir, caKeyFile) != first[3].data {
				t.Error("another signing key")
			}
		})
	}
	t.Run("renewal, certificate in place, key still next", func(t *testing.T) {
		next := read(t, renewed, caKeyFile)
		put(t, renewed, caNextKeyFile, next)
		put(t, renewed, caKeyFile, old)
		reopenAndCheck(t, renewed)
		if read(t, renewed, caKeyFile) != next {
			t.Error("the key was not put in place")
		}
	})
}

func reopenAndCheck(t *testing.T, dir string) {
	t.Helper()
	a := mustOpen(t, dir, Options{})
	root := a.RootSHA256()
	if err := checkIntermediate(signingPair(a), a.Roots()[0], td); err != nil {
		t.Error(err)
	}
	mustClose(t, a)
	b := mustOpen(t, dir, Options{})
	defer mustClose(t, b)
	if b.RootSHA256() != root {
		t.Error("another root at the second start")
	}
	if _, err := os.Stat(filepath.Join(dir, caNextKeyFile)); !os.IsNotExist(err) {
		t.Errorf("%s is still there", caNextKeyFile)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func put(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRenewsWhenOpenedLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	now := time.Now()
	clock := Options{IntermediateTTL: 30 * 24 * time.Hour, Now: func() time.Time { return now }}
	a := mustOpen(t, dir, clock)
	first, root := a.Chain()[0], a.RootSHA256()
	mustClose(t, a)
	now = now.Add(21 * 24 * time.Hour)
	b := mustOpen(t, dir, clock)
	defer mustClose(t, b)
	if b.Chain()[0].Equal(first) || b.RootSHA256() != root || !b.Chain()[0].NotAfter.After(first.NotAfter) {
		t.Fatalf("not renewed: %v", b.Chain()[0].NotAfter)
	}
}

func TestRunRenews(t *testing.T) {
	a := mustOpen(t, filepath.Join(t.TempDir(), "state"), Options{IntermediateTTL: 3 * time.Second, Log: slog.New(slog.DiscardHandler)})
	defer mustClose(t, a)
	first := a.Chain()[0]
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- a.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); a.Chain()[0].Equal(first); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
	}
	if !first.NotAfter.After(time.Now().Add(-time.Second)) {
		t.Fatal("renewed only after its end")
	}
	t.Cleanup(func() { // the test's context has ended here
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestExpiredRoot(t *testing.T) {
	dir := filled(t)
	_, err := Open(dir, td, Options{Now: func() time.Time { return time.Now().Add(DefaultRootTTL + time.Hour) }})
	if err == nil || !strings.Contains(err.Error(), "the root") || !strings.Contains(err.Error(), "ended") {
		t.Fatalf("got %v", err)
	}
}

func signingPair(a *Authority) pair {
	by := a.signing.Load().by
	return pair{cert: by.cert, key: by.key.(*ecdsa.PrivateKey)}
}
