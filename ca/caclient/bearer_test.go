package caclient_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
)

func TestNewWantsAllOfABearer(t *testing.T) {
	roots := func() ([]*x509.Certificate, error) { return nil, nil }
	token := caclient.StaticToken("x")
	for name, opts := range map[string]caclient.Options{
		"no roots":         {Bearer: token, TrustDomain: "mesh.test"},
		"no trust domain":  {Bearer: token, Roots: roots},
		"a join token too": {Bearer: token, Roots: roots, TrustDomain: "mesh.test", Token: token},
	} {
		opts.Addr = "127.0.0.1:1"
		if _, err := caclient.New(opts); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// Without roots, or with an empty token, nobody is asked.
	c := client(t, caclient.Options{Addr: "127.0.0.1:1", Bearer: token, Roots: roots, TrustDomain: "mesh.test"})
	if _, err := c.Issue(t.Context(), nil, 0, nil); err == nil || !strings.Contains(err.Error(), "reading roots") {
		t.Errorf("no roots: %v", err)
	}
	made := certtest.NewCA(t, "mesh.test")
	c = client(t, caclient.Options{Addr: "127.0.0.1:1", Bearer: caclient.StaticToken(""), TrustDomain: "mesh.test",
		Roots: func() ([]*x509.Certificate, error) { return []*x509.Certificate{made.Cert}, nil }})
	if _, err := c.Issue(t.Context(), nil, 0, nil); err == nil || !strings.Contains(err.Error(), "it is empty") {
		t.Errorf("empty token: %v", err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	token, roots := filepath.Join(dir, "token"), filepath.Join(dir, "roots")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(token, " \n"+strings.Repeat("a", 3000)+"\n")
	if got, err := caclient.FileToken(token)(); err != nil || len(got) != 3000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	write(token, strings.Repeat("a", 17<<10))
	if _, err := caclient.FileToken(token)(); err == nil || strings.Contains(err.Error(), "aaaa") {
		t.Errorf("too long: %v", err)
	}
	if _, err := caclient.FileToken(filepath.Join(dir, "none"))(); err == nil {
		t.Error("no file")
	}
	a, b := certtest.NewCA(t, "mesh.test").Cert, certtest.NewCA(t, "mesh.test").Cert
	write(roots, string(certs.ChainPEM([]*x509.Certificate{a, b})))
	if got, err := caclient.FileRoots(roots)(); err != nil || len(got) != 2 || !got[1].Equal(b) {
		t.Errorf("%d roots, %v", len(got), err)
	}
	write(roots, "hello")
	if _, err := caclient.FileRoots(roots)(); err == nil || !strings.Contains(err.Error(), roots) {
		t.Errorf("no PEM: %v", err)
	}
}
