package certs_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/identity"
)

// ends are the outcome of one handshake and one byte each way.
type ends struct {
	client, server       error
	clientCS, serverCS   tls.ConnectionState
	clientPeer, servPeer identity.Peer
}

func handshake(t *testing.T, client, server *tls.Config) ends {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(5 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	c, s := tls.Client(a, client), tls.Server(b, server)
	var out ends
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		if out.server = s.Handshake(); out.server == nil {
			_, out.server = s.Write([]byte("x"))
		}
		out.serverCS = s.ConnectionState()
	}()
	if out.client = c.Handshake(); out.client == nil {
		_, out.client = io.ReadFull(c, make([]byte, 1)) // in TLS 1.3 the server's verdict comes after the handshake
	}
	out.clientCS = c.ConnectionState()
	a.Close()
	<-done
	out.clientPeer, _ = certs.PeerOf(out.clientCS)
	out.servPeer, _ = certs.PeerOf(out.serverCS)
	return out
}

func id(t *testing.T, s string) identity.ID {
	t.Helper()
	out, err := identity.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const database = "spiffe://cluster.local/ns/shop/sa/db"

func TestHandshake(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local").Intermediate(t)
	client := certtest.NewSource(ca.SVID(t, workload), ca.Bundle())
	server := certtest.NewSource(ca.SVID(t, database), ca.Bundle())
	serverTLS := certs.ServerTLS(server, certs.ServerOptions{ALPN: []string{"istio-http/1.1", "istio"}, Accept: certs.SameTrustDomain(server)})
	clientTLS := certs.ClientTLS(client, certs.ClientOptions{ALPN: []string{"istio"}, ServerName: "db.shop", Expect: certs.ExpectIDs(id(t, database))})
	for range 2 { // the second time out of the cache of verified leaves
		got := handshake(t, clientTLS, serverTLS)
		if got.client != nil || got.server != nil {
			t.Fatalf("client: %v, server: %v", got.client, got.server)
		}
		if got.clientPeer.ID.String() != database || got.servPeer.ID.String() != workload {
			t.Errorf("peers are %q and %q", got.clientPeer.ID, got.servPeer.ID)
		}
		if want := sha256.Sum256(client.Current().SVID.Leaf().Raw); got.servPeer.LeafHash != want {
			t.Error("leaf hash is another's")
		}
		cs := got.serverCS
		if cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || cs.NegotiatedProtocol != "istio" || cs.ServerName != "db.shop" || cs.DidResume {
			t.Errorf("connection is %x, %v, ALPN %q, SNI %q, resumed %v", cs.Version, cs.CurveID, cs.NegotiatedProtocol, cs.ServerName, cs.DidResume)
		}
	}
	old := clientTLS.Clone()
	old.MinVersion, old.MaxVersion = 0, tls.VersionTLS12
	if got := handshake(t, old, serverTLS); got.server == nil {
		t.Error("TLS 1.2 was taken")
	}
}

func TestServerRefuses(t *testing.T) {
	ca, away, stranger := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "other.test"), certtest.NewCA(t, "cluster.local")
	server := certtest.NewSource(ca.SVID(t, database), ca.Bundle(), away.Bundle())
	serverTLS := certs.ServerTLS(server, certs.ServerOptions{Accept: certs.SameTrustDomain(server)})
	raw := func(ca *certtest.CA, id string, opts ...certtest.Option) *tls.Certificate {
		chain, key := ca.Chain(t, id, opts...)
		out := &tls.Certificate{PrivateKey: key}
		for _, c := range chain {
			out.Certificate = append(out.Certificate, c.Raw)
		}
		return out
	}
	type row struct {
		name   string
		cert   *tls.Certificate
		reason certs.Reason
	}
	rows := []row{
		{"nothing", &tls.Certificate{}, ""}, // refused by crypto/tls itself
		{"another CA", raw(stranger, workload), certs.UntrustedCA},
		{"expired", raw(ca, workload, certtest.Expired()), certs.Expired},
		{"not yet valid", raw(ca, workload, certtest.NotYetValid()), certs.NotYetValid},
		{"a domain that we know and don't accept", raw(away, "spiffe://other.test/ns/a/sa/b"), certs.TrustDomain},
		{"a domain that we don't know", raw(ca, "spiffe://third.test/ns/a/sa/b"), certs.TrustDomain},
	}
	for _, b := range badLeaves() {
		rows = append(rows, row{b.name, raw(ca, b.id, b.opts...), b.reason})
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := handshake(t, bare(r.cert), serverTLS)
			if got.server == nil || got.client == nil {
				t.Fatal("accepted")
			}
			if reason := certs.ReasonOf(got.server); reason != r.reason {
				t.Errorf("got %v, want reason %q", got.server, r.reason)
			}
		})
	}
}

// bare is a client that verifies nothing.
func bare(cert *tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }}
}

func TestAcceptAndExpect(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	client := certtest.NewSource(ca.SVID(t, workload), ca.Bundle())
	server := certtest.NewSource(ca.SVID(t, database), ca.Bundle())
	everybody := func(identity.ID) error { return nil }
	for _, c := range []struct {
		name           string
		accept, expect func(identity.ID) error
		server, client certs.Reason
	}{
		{"both", everybody, everybody, "", ""},
		{"no Accept", nil, everybody, certs.UnexpectedIdentity, ""},
		{"no Expect", everybody, nil, "", certs.UnexpectedIdentity},
		{"another was expected", everybody, certs.ExpectIDs(id(t, workload)), "", certs.UnexpectedIdentity},
		{"nobody was expected", everybody, certs.ExpectIDs(), "", certs.UnexpectedIdentity},
		{"the zero ID was expected", everybody, certs.ExpectIDs(identity.ID{}), "", certs.UnexpectedIdentity},
		{"refused with an error of its own", func(identity.ID) error { return errors.New("no") }, everybody, certs.UnexpectedIdentity, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := handshake(t,
				certs.ClientTLS(client, certs.ClientOptions{Expect: c.expect}),
				certs.ServerTLS(server, certs.ServerOptions{Accept: c.accept}))
			if certs.ReasonOf(got.server) != c.server || certs.ReasonOf(got.client) != c.client {
				t.Fatalf("server: %v, client: %v", got.server, got.client)
			}
			if ok := got.server == nil && got.client == nil; ok != (c.server == "" && c.client == "") {
				t.Errorf("server: %v, client: %v", got.server, got.client)
			}
		})
	}
}

func TestNoSVIDYet(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	full, empty := certtest.NewSource(ca.SVID(t, workload), ca.Bundle()), &certs.Cell{}
	all := func(identity.ID) error { return nil }
	got := handshake(t, certs.ClientTLS(full, certs.ClientOptions{Expect: all}), certs.ServerTLS(empty, certs.ServerOptions{Accept: all}))
	if !errors.Is(got.server, certs.ErrNoSVID) {
		t.Errorf("server without SVID: %v", got.server)
	}
	got = handshake(t, certs.ClientTLS(empty, certs.ClientOptions{Expect: all}), certs.ServerTLS(full, certs.ServerOptions{Accept: all}))
	if got.client == nil || got.server == nil {
		t.Errorf("client without SVID: %v, %v", got.client, got.server)
	}
	if err := certs.SameTrustDomain(empty)(id(t, workload)); certs.ReasonOf(err) != certs.TrustDomain {
		t.Errorf("a source without a domain accepts: %v", err)
	}
}

func TestAllowNoCertificate(t *testing.T) {
	ca, stranger := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "cluster.local")
	server := certtest.NewSource(ca.SVID(t, database), ca.Bundle())
	cfg := certs.ServerTLS(server, certs.ServerOptions{Accept: certs.SameTrustDomain(server), AllowNoCertificate: true})
	got := handshake(t, bare(&tls.Certificate{}), cfg)
	if got.client != nil || got.server != nil {
		t.Fatalf("anonymous: %v, %v", got.client, got.server)
	}
	if peer, err := certs.PeerOf(got.serverCS); certs.ReasonOf(err) != certs.NoCertificate || peer.Proven() {
		t.Errorf("anonymous peer is %v, %v", peer, err)
	}
	got = handshake(t, bare(stranger.SVID(t, workload).TLS()), cfg)
	if certs.ReasonOf(got.server) != certs.UntrustedCA {
		t.Errorf("a bad certificate is better than none: %v", got.server)
	}
	if got = handshake(t, bare(ca.SVID(t, workload).TLS()), cfg); got.server != nil || got.servPeer.ID.String() != workload {
		t.Errorf("good certificate: %v, %q", got.server, got.servPeer.ID)
	}
}

// The configuration outlives rotations of certificate and roots.
func TestRotationUnderOneConfig(t *testing.T) {
	old, next := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "cluster.local")
	client := certtest.NewSource(old.SVID(t, workload), old.Bundle())
	server := certtest.NewSource(old.SVID(t, database), old.Bundle())
	serverTLS := certs.ServerTLS(server, certs.ServerOptions{Accept: certs.SameTrustDomain(server)})
	clientTLS := certs.ClientTLS(client, certs.ClientOptions{Expect: certs.ExpectIDs(id(t, database))})
	if got := handshake(t, clientTLS, serverTLS); got.client != nil || got.server != nil {
		t.Fatal(got.client, got.server)
	}
	first := server.Current()
	server.Replace(next.SVID(t, database), next.Bundle())
	if got := handshake(t, clientTLS, serverTLS); certs.ReasonOf(got.client) != certs.UntrustedCA {
		t.Errorf("client trusts what it can't know: %v", got.client)
	}
	both, err := certs.NewBundle("cluster.local", []*x509.Certificate{old.Cert, next.Cert})
	if err != nil {
		t.Fatal(err)
	}
	client.Replace(client.Current().SVID, both)
	if got := handshake(t, clientTLS, serverTLS); certs.ReasonOf(got.server) != certs.UntrustedCA {
		t.Errorf("server goes on trusting a leaf whose root is gone: %v", got.server)
	}
	client.Replace(next.SVID(t, workload), both)
	got := handshake(t, clientTLS, serverTLS)
	if got.client != nil || got.server != nil {
		t.Fatal(got.client, got.server)
	}
	if got.clientCS.PeerCertificates[0].Equal(first.SVID.Leaf()) {
		t.Error("server still shows its first certificate")
	}
}
