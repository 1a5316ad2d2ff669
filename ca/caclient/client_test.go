package caclient_test

import (
	"crypto"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/ca/catest"
	"github.com/signet-mesh/signet/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, opts caclient.Options) *caclient.Client {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	c, err := caclient.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func plane(t *testing.T) *catest.Plane {
	t.Helper()
	p := catest.Start(t, catest.Options{})
	p.Workloads.Set("shop/cart-1", "cart")
	return p
}

// snapshot is what certs/rotate would hold after that answer.
func snapshot(t *testing.T, issued *certs.Issued, key crypto.Signer) *certs.Snapshot {
	t.Helper()
	svid, err := certs.NewSVID(issued.Chain, key)
	if err != nil {
		t.Fatal(err)
	}
	td := svid.ID.TrustDomain()
	b, err := certs.NewBundle(td, issued.Roots)
	if err != nil {
		t.Fatal(err)
	}
	return &certs.Snapshot{SVID: svid, Bundles: map[string]*certs.Bundle{td: b}, Generation: 1}
}

// TestJoinThenRenew is the life of a workload: the token once, then its own certificate, as long as it exists.
func TestJoinThenRenew(t *testing.T) {
	p := plane(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(p.Token(t, "shop", "cart-1")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, caclient.Options{Addr: p.Addr, Token: caclient.FileToken(file), TrustDomain: p.TrustDomain, Workload: "shop/cart-1"})
	key, csr := catest.NewCSR(t)
	first, err := c.Issue(t.Context(), csr, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Issue(t.Context(), csr, time.Hour, &certs.Snapshot{}); err != nil || again.Chain[0].Equal(first.Chain[0]) {
		t.Fatalf("same key again: %v", err)
	}
	if len(first.Roots) != 1 || !first.Roots[0].Equal(p.Authority.Roots()[0]) || len(first.Chain) != 2 {
		t.Fatalf("chain of %d, roots of %d", len(first.Chain), len(first.Roots))
	}
	current := snapshot(t, first, key)
	if err := os.Remove(file); err != nil { // from now on it must not be needed
		t.Fatal(err)
	}
	for range 2 {
		key, csr = catest.NewCSR(t)
		issued, err := c.Issue(t.Context(), csr, time.Minute, current)
		if err != nil {
			t.Fatal(err)
		}
		if current = snapshot(t, issued, key); current.SVID.ID.String() != "spiffe://mesh.test/ns/shop/sa/cart" {
			t.Fatalf("renewed as %q", current.SVID.ID)
		}
	}
	p.Workloads.Set("shop/cart-2", "cart")
	p.Workloads.Set("shop/cart-1", "other")
	_, csr = catest.NewCSR(t)
	if _, err := c.Issue(t.Context(), csr, time.Minute, current); err == nil || !strings.Contains(err.Error(), "request authenticate failure") {
		t.Fatalf("another service account now: %v", err)
	}
}

func TestShortLifetimeIsNotNone(t *testing.T) {
	p := plane(t)
	c := client(t, caclient.Options{Addr: p.Addr, Token: caclient.StaticToken(p.Token(t, "shop", "cart-1"))})
	_, csr := catest.NewCSR(t)
	issued, err := c.Issue(t.Context(), csr, 1500*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(issued.Chain[0].NotAfter); left > 3*time.Second {
		t.Fatalf("lives %v", left)
	}
}

func TestExpiredCertificateTakesTheToken(t *testing.T) {
	p := plane(t)
	old := p.Snapshot(t, "shop", "cart", time.Minute)
	c := client(t, caclient.Options{Addr: p.Addr, Token: caclient.StaticToken(p.Token(t, "shop", "cart-1"))})
	old.SVID.Chain[0].NotAfter = time.Now().Add(-time.Second) // as the client sees it
	_, csr := catest.NewCSR(t)
	if _, err := c.Issue(t.Context(), csr, time.Minute, old); err != nil {
		t.Fatal(err)
	}
	none := client(t, caclient.Options{Addr: p.Addr})
	if _, err := none.Issue(t.Context(), csr, time.Minute, old); err == nil || !strings.Contains(err.Error(), "no join token") {
		t.Fatalf("without a token: %v", err)
	}
}

// TestNewCA: when the CA was set up anew, the old certificate proves nothing and the old bundle neither; a new token
// does both.
func TestNewCA(t *testing.T) {
	before, now := plane(t), plane(t)
	current := before.Snapshot(t, "shop", "cart", time.Hour)
	_, csr := catest.NewCSR(t)
	none := client(t, caclient.Options{Addr: now.Addr})
	if _, err := none.Issue(t.Context(), csr, 0, current); err == nil || !strings.Contains(err.Error(), "verifying control plane") {
		t.Fatalf("without a token: %v", err)
	}
	stale := client(t, caclient.Options{Addr: now.Addr, Token: caclient.StaticToken(before.Token(t, "shop", "cart-1"))})
	if _, err := stale.Issue(t.Context(), csr, 0, current); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Fatalf("with a token of the old CA: %v", err)
	}
	c := client(t, caclient.Options{Addr: now.Addr, Token: caclient.StaticToken(now.Token(t, "shop", "cart-1"))})
	issued, err := c.Issue(t.Context(), csr, 0, current)
	if err != nil || !issued.Roots[0].Equal(now.Authority.Roots()[0]) {
		t.Fatal(err)
	}
}

// TestNotTheControlPlane: whoever can't prove the control plane's own ID gets neither token nor request, in either way.
func TestNotTheControlPlane(t *testing.T) {
	p, foreign := plane(t), plane(t)
	elsewhere := catest.Start(t, catest.Options{TrustDomain: "other.test"})
	token := p.Token(t, "shop", "cart-1")
	current := p.Snapshot(t, "shop", "cart", time.Hour)
	_, csr := catest.NewCSR(t)

	workload := &certs.Cell{} // a man in the middle with a certificate of the same CA
	middle := p.Snapshot(t, "shop", "mallory", time.Hour)
	workload.Set(middle.SVID, middle.Bundles)
	impostor := impostorOn(t, caserver.TLSConfig(workload, p.Authority.Roots))
	for name, tc := range map[string]struct {
		addr    string
		current *certs.Snapshot
		want    string
	}{
		"token, another CA":               {foreign.Addr, nil, "no root with the SHA-256"},
		"token, another trust domain":     {elsewhere.Addr, nil, "no root with the SHA-256"},
		"token, workload's certificate":   {impostor.addr, nil, `it is "spiffe://mesh.test/ns/shop/sa/mallory"`},
		"renewal, another CA":             {foreign.Addr, current, "untrusted_ca"},
		"renewal, workload's certificate": {impostor.addr, current, `it is "spiffe://mesh.test/ns/shop/sa/mallory"`},
	} {
		t.Run(name, func(t *testing.T) {
			opts := caclient.Options{Addr: tc.addr, Token: caclient.StaticToken(token)}
			if tc.current != nil {
				opts.Token = nil
			}
			_, err := client(t, opts).Issue(t.Context(), csr, 0, tc.current)
			if err == nil || !strings.Contains(err.Error(), "verifying control plane") || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), token[len(token)-43:]) {
				t.Fatal("the error quotes the token")
			}
		})
	}
	if n := impostor.calls.Load(); n != 0 {
		t.Errorf("the impostor got %d requests", n)
	}
	strict := client(t, caclient.Options{Addr: p.Addr, Token: caclient.StaticToken(token), TrustDomain: "other.test"})
	if _, err := strict.Issue(t.Context(), csr, 0, nil); err == nil || !strings.Contains(err.Error(), `expected "other.test"`) {
		t.Errorf("trust domain that was not asked for: %v", err)
	}
}

// TestBadAnswers lets a server with the control plane's certificate answer wrongly.
func TestBadAnswers(t *testing.T) {
	p := plane(t)
	token := caclient.StaticToken(p.Token(t, "shop", "cart-1"))
	_, csr := catest.NewCSR(t)
	good, err := client(t, caclient.Options{Addr: p.Addr, Token: token}).Issue(t.Context(), csr, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, signing, root := pemOf(good.Chain[0]), pemOf(good.Chain[1]), pemOf(good.Roots[0])
	otherKey := pemOf(p.Snapshot(t, "shop", "cart", time.Hour).SVID.Leaf())
	foreignRoot := pemOf(plane(t).Authority.Roots()[0])
	for name, tc := range map[string]struct {
		chain []string
		want  string
	}{
		"nothing":             {nil, "has 0 elements"},
		"leaf alone":          {[]string{leaf}, "has 1 elements"},
		"too many":            {[]string{leaf, signing, signing, signing, signing, signing, signing, signing, root}, "has 9 elements"},
		"another's key":       {[]string{otherKey, signing, root}, "key is not the request's"},
		"no intermediate":     {[]string{leaf, root}, "untrusted_ca"},
		"roots of another CA": {[]string{leaf, signing, foreignRoot}, "untrusted_ca"},
		"garbage leaf":        {[]string{"x", signing, root}, "cert_chain[0]"},
		"empty roots":         {[]string{leaf, signing, "\n"}, "roots"},
		"two in one string":   {[]string{leaf + signing, signing, root}, "more than 1"},
		"huge":                {[]string{leaf, signing, strings.Repeat("x", 1<<20)}, "larger than max"},
	} {
		t.Run(name, func(t *testing.T) {
			s := impostorOn(t, caserver.TLSConfig(p.Source, p.Authority.Roots))
			s.answer = tc.chain
			_, err := client(t, caclient.Options{Addr: s.addr, Token: token}).Issue(t.Context(), csr, 0, nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestDeadline: a server that accepts and says nothing costs no more than the timeout.
func TestDeadline(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := plane(t)
	c := client(t, caclient.Options{Addr: ln.Addr().String(), Timeout: 300 * time.Millisecond, Token: caclient.StaticToken(p.Token(t, "shop", "cart-1"))})
	_, csr := catest.NewCSR(t)
	start := time.Now()
	if _, err := c.Issue(t.Context(), csr, 0, nil); err == nil || time.Since(start) > 3*time.Second {
		t.Fatalf("%v after %v", err, time.Since(start))
	}
}

func TestBackAfterRestart(t *testing.T) {
	p := plane(t)
	current := p.Snapshot(t, "shop", "cart", time.Hour)
	p.Stop()
	_, csr := catest.NewCSR(t)
	c := client(t, caclient.Options{Addr: p.Addr, Timeout: time.Second})
	if _, err := c.Issue(t.Context(), csr, 0, current); err == nil {
		t.Fatal("issued by nobody")
	}
	if err := p.Authority.Close(); err != nil {
		t.Fatal(err)
	}
	again := catest.Start(t, catest.Options{Dir: p.Dir})
	again.Workloads.Set("shop/cart-1", "cart")
	if _, err := client(t, caclient.Options{Addr: again.Addr}).Issue(t.Context(), csr, 0, current); err != nil {
		t.Fatalf("same state directory, new process: %v", err)
	}
}

func TestFileTokenErrors(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, csr := catest.NewCSR(t)
	for _, path := range []string{filepath.Join(dir, "none"), long} {
		c := client(t, caclient.Options{Addr: "127.0.0.1:1", Token: caclient.FileToken(path)})
		if _, err := c.Issue(t.Context(), csr, 0, nil); err == nil || !strings.Contains(err.Error(), "join token") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
