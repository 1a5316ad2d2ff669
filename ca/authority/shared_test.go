package authority

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

// memory is a Store whose faults a test pushes.
type memory struct {
	mu      sync.Mutex // guards what follows
	version int
	files   map[string][]byte
	// fault is what the next Swap returns; stored says whether it stores all the same.
	fault  error
	stored bool
	// away is what Load returns.
	away    error
	watches []chan<- struct{}
}

func (m *memory) Load(context.Context) (Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return Stored{}, m.away
	}
	if m.files == nil {
		return Stored{}, nil
	}
	return Stored{fmt.Sprint(m.version), maps.Clone(m.files)}, nil
}

func (m *memory) Swap(_ context.Context, old string, files map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := ""
	if m.files != nil {
		have = fmt.Sprint(m.version)
	}
	if have != old {
		return ErrConflict
	}
	fault := m.fault
	m.fault = nil
	if fault == nil || m.stored {
		m.put(files)
	}
	return fault
}

// put wants mu.
func (m *memory) put(files map[string][]byte) {
	m.version++
	m.files = files
	for _, w := range m.watches {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (m *memory) set(files map[string][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(files)
}

func (m *memory) Watch(ctx context.Context, changed chan<- struct{}) error {
	m.mu.Lock()
	m.watches = append(m.watches, changed)
	m.mu.Unlock()
	<-ctx.Done()
	return nil
}

// made is a certificate made by a test, with its key.
type made struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newECKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// make signs a CA certificate by by, or by itself; change is the template's.
func makeCA(t testing.TB, name string, by *made, key crypto.Signer, change func(*x509.Certificate)) made {
	t.Helper()
	if key == nil {
		key = newECKey(t, elliptic.P256())
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made{cert, key}
}

func (m made) pem() []byte { return certs.ChainPEM([]*x509.Certificate{m.cert}) }

func (m made) keyPEM(t testing.TB) []byte {
	out, err := certs.KeyPEM(m.key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// istio is a set of Istio's file names.
func istio(t testing.TB, signing made, roots ...made) map[string][]byte {
	var all []byte
	for _, r := range roots {
		all = append(all, r.pem()...)
	}
	return map[string][]byte{
		PluggedCert: signing.pem(), PluggedKey: signing.keyPEM(t), PluggedRoot: all,
		PluggedChain: append(signing.pem(), all...), // as Istio's Makefile writes it
	}
}

func share(t testing.TB, store Store, operator Source, change func(*SharedOptions)) (*Shared, error) {
	opts := SharedOptions{TrustDomain: td, Store: store, Names: []string{"signetd.signet-system.svc"}, Announce: time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	if operator != nil {
		opts.Plugged = operator
	}
	if change != nil {
		change(&opts)
	}
	return Share(t.Context(), opts)
}

// issue lets a whole CA issue a certificate, and verifies it against the roots.
func issue(t testing.TB, s *Shared, roots []*x509.Certificate) *ca.Certificate {
	t.Helper()
	issuer, err := ca.New(ca.Options{TrustDomain: td, Keys: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := requestOf(newECKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	req, err := issuer.Judge(csr, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.New(td, "shop", "cart")
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := issuer.Prepare(ca.Caller{ID: id}, req)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := issuer.Issue(prepared)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := certs.NewBundle(td, roots)
	if err != nil {
		t.Fatal(err)
	}
	chain := append([]*x509.Certificate{cert.Leaf}, cert.Intermediates...)
	if got, err := certs.Verify(chain, map[string]*certs.Bundle{td: bundle}, time.Now()); err != nil || got != id {
		t.Fatalf("verified %q, %v", got, err)
	}
	return cert
}

func TestShareAgreesOnOneRoot(t *testing.T) {
	store := &memory{}
	var wg sync.WaitGroup
	replicas := make([]*Shared, 8)
	for i := range replicas {
		wg.Go(func() {
			s, err := share(t, store, nil, nil)
			if err != nil {
				t.Error(err)
				return
			}
			replicas[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	signing := map[string]bool{}
	for _, s := range replicas {
		if !sameCerts(s.Roots(), replicas[0].Roots()) || len(s.Roots()) != 1 {
			t.Fatal("replicas have other roots")
		}
		signing[string(s.Current().Chain()[0].Raw)] = true
		issue(t, s, replicas[0].Roots())
	}
	if len(signing) != len(replicas) {
		t.Errorf("%d signing certificates for %d replicas", len(signing), len(replicas))
	}
	stored := string(store.files[SlotsFile])
	if strings.Count(stored, "PRIVATE KEY-----") != 2 || !strings.Contains(stored, `"format": "signet-ca/1"`) {
		t.Error("stored is not one key in the format signet-ca/1")
	}
}

// TestShareStoreFaults: whatever becomes of the first write, the next start has one root, and nobody signed under another.
func TestShareStoreFaults(t *testing.T) {
	for _, stored := range []bool{false, true} {
		store := &memory{fault: errors.New("connection reset"), stored: stored}
		if _, err := share(t, store, nil, nil); err == nil || !strings.Contains(err.Error(), "connection reset") {
			t.Fatalf("stored %v: %v", stored, err)
		}
		first := store.files
		s, err := share(t, store, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if stored && !slices.Equal(first[SlotsFile], store.files[SlotsFile]) {
			t.Error("a root that was stored was replaced")
		}
		issue(t, s, s.Roots())
	}
}

func TestSlotsRefused(t *testing.T) {
	store := &memory{}
	if _, err := share(t, store, nil, nil); err != nil {
		t.Fatal(err)
	}
	good := string(store.files[SlotsFile])
	tests := map[string]struct{ old, new, want string }{
		"newer format":      {"signet-ca/1", "signet-ca/2", `format "signet-ca/2" is not known here`},
		"unknown field":     {`"origin"`, `"source"`, "a field is not known here"},
		"other domain":      {`"trustDomain": "` + td, `"trustDomain": "other.` + td, "belong to trust domain"},
		"no current":        {`"current"`, `"next"`, `0 are "current"`},
		"unknown word":      {`"current"`, `"previous"`, "none of next, current, retiring"},
		"unknown origin":    {`"own"`, `"found"`, "neither"},
		"retiring for ever": {`"current"`, `"retiring"`, "until when"},
		"no key":            {`"key": "-----BEGIN`, `"key": "-----`, "private key"},
		"not JSON":          {`{`, `[`, "not JSON"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, tt.old, tt.new, 1)
			if bad == good {
				t.Fatal("nothing was broken")
			}
			broken := &memory{files: map[string][]byte{SlotsFile: []byte(bad)}, version: 1}
			_, err := share(t, broken, nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "MIG") {
				t.Error("the error quotes the key")
			}
			if string(broken.files[SlotsFile]) != bad {
				t.Error("the stored state was written over")
			}
		})
	}
	if _, err := share(t, &memory{files: map[string][]byte{"other": nil}, version: 1}, nil, nil); err == nil {
		t.Error("a Secret without slots was taken for none")
	}
}

func TestPluggedBreakages(t *testing.T) {
	root := makeCA(t, "root", nil, nil, nil)
	other := makeCA(t, "other", nil, nil, nil)
	good := makeCA(t, "signing", &root, nil, nil)
	ed := func(change func(*x509.Certificate)) map[string][]byte {
		return istio(t, makeCA(t, "signing", &root, nil, change), root)
	}
	without := func(name string) map[string][]byte {
		set := istio(t, good, root)
		delete(set, name)
		return set
	}
	with := func(name string, data []byte) map[string][]byte {
		set := istio(t, good, root)
		set[name] = data
		return set
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	expiredRoot := makeCA(t, "root", nil, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	middle := makeCA(t, "middle", &root, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	below := makeCA(t, "below", &middle, nil, nil)
	chained := istio(t, below, root)
	chained[PluggedChain] = append(below.pem(), middle.pem()...)
	short := makeCA(t, "short", nil, nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	tests := map[string]struct {
		files  map[string][]byte
		reason string
	}{
		"no certificate":        {without(PluggedCert), ReasonIncomplete},
		"no key":                {without(PluggedKey), ReasonIncomplete},
		"no chain":              {without(PluggedChain), ReasonIncomplete},
		"no root":               {without(PluggedRoot), ReasonIncomplete},
		"empty Secret":          {map[string][]byte{"x": nil}, ReasonIncomplete},
		"cert-manager, no root": {map[string][]byte{PluggedTLSCert: good.pem(), PluggedTLSKey: good.keyPEM(t)}, ReasonIncomplete},
		"empty key":             {with(PluggedKey, []byte(" \n")), ReasonIncomplete},
		"key is none":           {with(PluggedKey, good.pem()), ReasonMalformed},
		"two keys":              {with(PluggedKey, append(good.keyPEM(t), good.keyPEM(t)...)), ReasonMalformed},
		"root is none":          {with(PluggedRoot, []byte("hello")), ReasonMalformed},
		"too long":              {with(PluggedRoot, slices.Repeat(root.pem(), 200)), ReasonMalformed},
		"another's key":         {with(PluggedKey, root.keyPEM(t)), ReasonKeyMismatch},
		"weak key":              {istio(t, makeCA(t, "signing", &root, weak, nil), root), ReasonKeyKind},
		"not a CA":              {ed(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), ReasonNotCA},
		"no basic constraints":  {ed(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }), ReasonNotCA},
		"root not a CA":         {istio(t, good, makeCA(t, "x", nil, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 })), ReasonNotCA},
		"no keyCertSign":        {ed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), ReasonConstraints},
		"expired":               {ed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), ReasonExpired},
		"expired root":          {istio(t, makeCA(t, "signing", &expiredRoot, nil, nil), expiredRoot), ReasonExpired},
		"expired between":       {chained, ReasonExpired},
		"not yet":               {ed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), ReasonNotYetValid},
		"another root":          {istio(t, good, other), ReasonChain},
		"gap":                   {istio(t, makeCA(t, "below", &middle, nil, nil), root), ReasonChain},
		"root by another":       {istio(t, good, good), ReasonChain},
		"root allows none":      {istio(t, makeCA(t, "signing", &short, nil, nil), short), ReasonConstraints},
		"server only":           {ed(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), ReasonConstraints},
		"other URIs only":       {ed(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.example"} }), ReasonConstraints},
		"other names only":      {ed(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }), ReasonConstraints},
		"our domain excluded":   {ed(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{td} }), ReasonConstraints},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			store := &memory{}
			_, err := share(t, store, &memory{files: tt.files, version: 1}, nil)
			var bad *PluggedError
			if !errors.As(err, &bad) || bad.Reason != tt.reason {
				t.Fatalf("refused with %v, want reason %q", err, tt.reason)
			}
			if store.files != nil {
				t.Error("a root was stored all the same")
			}
		})
	}
}

func TestPluggedKinds(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := makeCA(t, "root", nil, nil, nil)
	rsaRoot := makeCA(t, "rsa root", nil, rsaKey, nil)
	middle := makeCA(t, "middle", &root, nil, nil)
	below := makeCA(t, "below", &middle, nil, nil)
	zero := func(c *x509.Certificate) { c.MaxPathLenZero = true }
	chained := istio(t, below, root)
	chained[PluggedChain] = append(append(root.pem(), middle.pem()...), below.pem()...) // in whatever order
	manager := map[string][]byte{PluggedTLSCert: append(below.pem(), middle.pem()...), PluggedTLSKey: below.keyPEM(t), PluggedTLSRoot: root.pem()}
	bare := istio(t, makeCA(t, "signing", &root, nil, nil), root)
	bare[PluggedChain] = []byte{}
	one := makeCA(t, "one", nil, nil, func(c *x509.Certificate) { c.MaxPathLen = 1 })
	tests := map[string]struct {
		files map[string][]byte
		chain int // certificates between leaf and root
	}{
		"root that signs":      {istio(t, root, root), 1},
		"intermediate":         {bare, 2},
		"chain":                {chained, 3},
		"cert-manager":         {manager, 3},
		"RSA":                  {istio(t, rsaRoot, rsaRoot), 1},
		"path length 0":        {istio(t, makeCA(t, "signing", &root, nil, zero), root), 1},
		"path length 0, RSA":   {istio(t, makeCA(t, "signing", &root, rsaKey, zero), root), 1},
		"path length 0, P-384": {istio(t, makeCA(t, "signing", &root, newECKey(t, elliptic.P384()), zero), root), 1},
		"path length 0, P-521": {istio(t, makeCA(t, "signing", &root, newECKey(t, elliptic.P521()), zero), root), 1},
		"root's path length 1": {istio(t, makeCA(t, "signing", &one, nil, nil), one), 1},
		"our domain permitted": {istio(t, makeCA(t, "signing", &root, nil, func(c *x509.Certificate) { c.PermittedURIDomains = []string{td} }), root), 2},
		"two roots":            {istio(t, makeCA(t, "signing", &root, nil, nil), rsaRoot, root), 2},
		"both usages": {istio(t, makeCA(t, "signing", &root, nil, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}), root), 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			store := &memory{}
			s, err := share(t, store, &memory{files: tt.files, version: 1}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if cert := issue(t, s, s.Roots()); len(cert.Intermediates) != tt.chain {
				t.Errorf("%d certificates between leaf and root, want %d", len(cert.Intermediates), tt.chain)
			}
			if strings.Contains(string(store.files[SlotsFile]), "KEY") {
				t.Error("the operator's key was stored")
			}
		})
	}
}
