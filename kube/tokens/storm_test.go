package tokens_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/kube/keystore"
	"github.com/signet-mesh/signet/kube/tokens"
)

const td = "cluster.test"

// door is a CA as a control plane in a cluster runs it.
type door struct {
	addr, roots string // host:port; the file of the roots
	judge       *tokens.Judge
}

func newDoor(t testing.TB, b *bench) *door {
	t.Helper()
	pods := b.informed(t)
	d := &door{judge: b.judge(t, func(c *tokens.Config) { c.Pods = pods }), roots: filepath.Join(t.TempDir(), "root-cert.pem")}
	store, err := keystore.New(keystore.Config{Client: b.admin, Namespace: b.ns, Name: "signet-ca"})
	must(t, err)
	shared, err := authority.Share(t.Context(), authority.SharedOptions{TrustDomain: td, Store: store, Names: []string{"signetd.x.svc"}})
	must(t, err)
	issuer, err := ca.New(ca.Options{TrustDomain: td, Keys: shared, Log: slog.New(slog.DiscardHandler), ControlPlaneNames: []string{"signetd.x.svc"}})
	must(t, err)
	attestor, err := attest.NewWithBearers(td, d.judge)
	must(t, err)
	server, err := caserver.New(caserver.Options{CA: issuer, Attestor: attestor})
	must(t, err)
	key, csr := newCSR(t)
	issued, err := issuer.ControlPlane().Issue(t.Context(), csr, time.Hour, nil)
	must(t, err)
	svid, err := certs.NewSVID(issued.Chain, key)
	must(t, err)
	bundle, err := certs.NewBundle(td, issued.Roots)
	must(t, err)
	source := &certs.Cell{}
	source.Set(svid, map[string]*certs.Bundle{td: bundle})
	must(t, os.WriteFile(d.roots, bundle.PEM(), 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d.addr = listener.Addr().String()
	grpcServer := grpc.NewServer(append(caserver.ServerOptions(), grpc.Creds(credentials.NewTLS(caserver.TLSConfig(source, shared.Roots))))...)
	server.Register(grpcServer)
	done := make(chan error, 1)
	go func() { done <- grpcServer.Serve(listener) }()
	t.Cleanup(func() {
		grpcServer.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

func newCSR(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// client asks with the token that is in the file now.
func (d *door) client(t testing.TB, token string) *caclient.Client {
	t.Helper()
	c, err := caclient.New(caclient.Options{
		Addr: d.addr, TrustDomain: td, Bearer: caclient.FileToken(token), Roots: caclient.FileRoots(d.roots), Timeout: time.Minute,
	})
	must(t, err)
	return c
}

// TestPodLife: each certificate by the token that the file has then, never by the certificate before it.
func TestPodLife(t *testing.T) {
	b := newBench(t)
	b.account(t, "cart")
	pod := b.pod(t, "cart-1", "cart")
	d := newDoor(t, b)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(b.token(t, "cart", pod, "signet-ca")+"\n"), 0o600))
	c := d.client(t, file)
	key, csr := newCSR(t)
	first, err := c.Issue(t.Context(), csr, time.Hour, nil)
	must(t, err)
	svid, err := certs.NewSVID(first.Chain, key)
	must(t, err)
	if want := "spiffe://" + td + "/ns/" + b.ns + "/sa/cart"; svid.ID.String() != want {
		t.Fatalf("issued to %q, want %q", svid.ID, want)
	}
	bundle, err := certs.NewBundle(td, first.Roots)
	must(t, err)
	snapshot := &certs.Snapshot{SVID: svid, Bundles: map[string]*certs.Bundle{td: bundle}}
	// Renewals take the token as the kubelet has put it there by then.
	must(t, os.WriteFile(file, []byte("hello"), 0o600))
	if _, err := c.Issue(t.Context(), csr, time.Hour, snapshot); err == nil || !strings.Contains(err.Error(), "request authenticate failure") {
		t.Errorf("renewing with a bad token: %v", err)
	}
	must(t, os.Remove(file))
	if _, err := c.Issue(t.Context(), csr, time.Hour, snapshot); err == nil || !strings.Contains(err.Error(), "reading token") {
		t.Errorf("renewing without a token: %v", err)
	}
	must(t, os.WriteFile(file, []byte(b.token(t, "cart", pod, "signet-ca", "later")), 0o600))
	accepted := count(t, d.judge, "signet_ca_tokens_accepted_total", "")
	if _, err := c.Issue(t.Context(), csr, time.Hour, snapshot); err != nil {
		t.Errorf("renewing with a new token: %v", err)
	}
	if n := count(t, d.judge, "signet_ca_tokens_accepted_total", ""); n != accepted+1 {
		t.Error("a renewal did not use the token")
	}
	// Key and certificate that were carried off renew nothing, although the pod lives.
	thief, err := caclient.New(caclient.Options{Addr: d.addr, TrustDomain: td, Workload: b.ns + "/cart-1", Timeout: time.Minute})
	must(t, err)
	if _, err := thief.Issue(t.Context(), csr, time.Hour, snapshot); err == nil || !strings.Contains(err.Error(), "request authenticate failure") {
		t.Errorf("renewing by certificate alone: %v", err)
	}
	// The file's roots verify the control plane, or those of the bundle at hand.
	other, err := authority.Open(t.TempDir(), td, authority.Options{})
	must(t, err)
	defer other.Close()
	stale, err := certs.NewBundle(td, other.Roots())
	must(t, err)
	if _, err := c.Issue(t.Context(), csr, time.Hour, &certs.Snapshot{SVID: svid, Bundles: map[string]*certs.Bundle{td: stale}}); err != nil {
		t.Errorf("renewing with a stale bundle: %v", err)
	}
	must(t, os.WriteFile(d.roots, stale.PEM(), 0o600))
	if _, err := c.Issue(t.Context(), csr, time.Hour, snapshot); err != nil {
		t.Errorf("renewing with a stale file: %v", err)
	}
	// A server that neither verifies never sees the token.
	if _, err := c.Issue(t.Context(), csr, time.Hour, nil); err == nil || !strings.Contains(err.Error(), "verifying control plane") {
		t.Errorf("another's roots: %v", err)
	}
	must(t, os.WriteFile(d.roots, bundle.PEM(), 0o600))
	// A pod that is gone gets nothing more, neither way, and learns nothing.
	b.delete(t, "cart-1")
	time.Sleep(500 * time.Millisecond)
	for _, current := range []*certs.Snapshot{nil, snapshot} {
		if _, err := c.Issue(t.Context(), csr, time.Hour, current); err == nil || !strings.Contains(err.Error(), "request authenticate failure") || strings.Contains(err.Error(), "pod") {
			t.Errorf("a deleted pod: %v", err)
		}
	}
}

// TestSixHundredAtOnce is the restart of a cluster: 600 pods, real tokens, one control plane.
func TestSixHundredAtOnce(t *testing.T) {
	const pods, accounts = 600, 12
	b := newBench(t)
	d := newDoor(t, b)
	for i := range accounts {
		b.account(t, fmt.Sprintf("app-%d", i))
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < pods; i += 8 {
				account := fmt.Sprintf("app-%d", i%accounts)
				pod := b.pod(t, fmt.Sprintf("pod-%d", i), account)
				if err := os.WriteFile(filepath.Join(dir, pod.Name), []byte(b.token(t, account, pod, "signet-ca")), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	clients := make([]*caclient.Client, pods)
	requests := make([][]byte, pods)
	for i := range pods {
		clients[i] = d.client(t, filepath.Join(dir, fmt.Sprintf("pod-%d", i)))
		_, requests[i] = newCSR(t)
	}
	began := time.Now()
	for i := range pods {
		wg.Go(func() {
			issued, err := clients[i].Issue(t.Context(), requests[i], time.Hour, nil)
			if err != nil {
				t.Errorf("pod %d: %v", i, err)
				return
			}
			if got, want := issued.Chain[0].URIs[0].String(), fmt.Sprintf("spiffe://%s/ns/%s/sa/app-%d", td, b.ns, i%accounts); got != want {
				t.Errorf("pod %d got %q, want %q", i, got, want)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	asked := count(t, d.judge, "signet_ca_token_pods_asked_total", "")
	t.Logf("%d certificates in %v; %d TokenReviews, %d fetches of keys, %v pods asked for", pods, took.Round(time.Millisecond), b.reviews.Load(), b.fetches.Load(), asked)
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if b.reviews.Load() != 0 || b.fetches.Load() > 3 || asked > 5+5*took.Seconds()+1 {
		t.Error("the API server was asked too often")
	}
}
