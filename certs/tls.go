package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// verifiedLeaves is how many chains each tls.Config remembers as verified.
const verifiedLeaves = 1024

// ErrNoSVID is why a handshake fails at our own end: the source holds no certificate yet.
var ErrNoSVID = errors.New("no certificate was issued to this workload yet")

// ServerOptions is what ServerTLS leaves to the listener.
type ServerOptions struct {
	// ALPN are the protocols taken, preferred first. A client that offers others only is refused, one that offers none
	// is taken.
	ALPN []string
	// Accept judges a proven ID: nil error lets it in. A *VerifyError of its own keeps its Reason, any other error counts
	// as UnexpectedIdentity. Without an Accept nobody is let in. SameTrustDomain is the usual one.
	Accept func(identity.ID) error
	// AllowNoCertificate lets a client in that presents nothing (PeerOf then says NoCertificate). One that presents a
	// certificate is judged all the same. For doors with another proof, such as the CA's.
	AllowNoCertificate bool
}

// ClientOptions is what ClientTLS leaves to the dialler.
type ClientOptions struct {
	// ALPN are the protocols offered, preferred first.
	ALPN []string
	// ServerName is sent as SNI, "" for none. It plays no part in verification.
	ServerName string
	// Expect judges the server's proven ID: nil error goes on (secure naming). Errors count as in ServerOptions.Accept.
	// Without an Expect no server is accepted.
	Expect func(identity.ID) error
}

// ServerTLS is the configuration of a listener that proves itself with the source's SVID and wants one of every client.
// TLS 1.3 only, Go's default key exchanges (X25519MLKEM768 first), no resumption. Certificate and roots are those of the
// source at the moment of each handshake, so the configuration is made once and outlives rotations.
func ServerTLS(src Source, opts ServerOptions) *tls.Config {
	v := newVerifier(src, opts.Accept)
	cfg := baseTLS(opts.ALPN)
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ownCertificate(src) }
	cfg.VerifyConnection = v.verifyConnection
	if opts.AllowNoCertificate {
		cfg.ClientAuth = tls.RequestClientCert
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return v.verifyConnection(cs)
		}
	}
	return cfg
}

// ClientTLS is the configuration of a dialler that proves itself with the source's SVID and accepts only the servers it
// expects. The rest is as in ServerTLS. One configuration is one cache of verified servers: make it once an endpoint
// or once an expectation, not once a connection.
func ClientTLS(src Source, opts ClientOptions) *tls.Config {
	cfg := baseTLS(opts.ALPN)
	cfg.ServerName = opts.ServerName
	cfg.InsecureSkipVerify = true // names are not what we verify: VerifyConnection does all of it, on every connection
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return ownCertificate(src) }
	cfg.VerifyConnection = newVerifier(src, opts.Expect).verifyConnection
	return cfg
}

func baseTLS(alpn []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             alpn,
		SessionTicketsDisabled: true,
	}
}

func ownCertificate(src Source) (*tls.Certificate, error) {
	s := src.Current().SVID
	if s == nil {
		return nil, ErrNoSVID
	}
	return s.TLS(), nil
}

// SameTrustDomain accepts the IDs of the trust domain that the source's own SVID is of, as it is at that moment.
func SameTrustDomain(src Source) func(identity.ID) error {
	return func(id identity.ID) error {
		own := src.Current().SVID
		if own == nil {
			return &VerifyError{TrustDomain, id.String(), ErrNoSVID}
		}
		if td := own.ID.TrustDomain(); id.TrustDomain() != td {
			return &VerifyError{TrustDomain, id.String(), fmt.Errorf("only trust domain %q is accepted", td)}
		}
		return nil
	}
}

// ExpectIDs accepts exactly the IDs given; with none it accepts nobody. A refusal names them and the one seen.
func ExpectIDs(ids ...identity.ID) func(identity.ID) error {
	want := make(map[identity.ID]struct{}, len(ids))
	for _, id := range ids {
		if !id.IsZero() {
			want[id] = struct{}{}
		}
	}
	return func(id identity.ID) error {
		if _, ok := want[id]; ok {
			return nil
		}
		return &VerifyError{UnexpectedIdentity, id.String(), fmt.Errorf("expected %q", ids)}
	}
}

// PeerOf says who is at the other end of a connection made with ServerTLS or ClientTLS, after its handshake. The error
// is a *VerifyError.
func PeerOf(cs tls.ConnectionState) (identity.Peer, error) {
	id, err := leafID(cs.PeerCertificates)
	if err != nil {
		return identity.Peer{}, err
	}
	if !cs.HandshakeComplete {
		return identity.Peer{}, &VerifyError{NoCertificate, id.String(), errors.New("handshake is not complete")}
	}
	return identity.Peer{ID: id, LeafHash: sha256.Sum256(cs.PeerCertificates[0].Raw)}, nil
}

// verifier is the VerifyConnection of one tls.Config.
type verifier struct {
	src    Source
	accept func(identity.ID) error
	cache  *verifiedCache
}

func newVerifier(src Source, accept func(identity.ID) error) *verifier {
	return &verifier{src: src, accept: accept, cache: newVerifiedCache(verifiedLeaves)}
}

// verifyConnection runs on every connection, resumed ones too, as VerifyPeerCertificate would not.
func (v *verifier) verifyConnection(cs tls.ConnectionState) error {
	snapshot, now := v.src.Current(), time.Now()
	key := keyOf(cs.PeerCertificates, snapshot.Generation)
	id, ok := v.cache.get(key, snapshot, now)
	if !ok {
		outcome, err := verify(cs.PeerCertificates, snapshot.Bundles, now)
		if err != nil {
			return err
		}
		v.cache.put(key, outcome)
		id = outcome.id
	}
	if v.accept == nil {
		return &VerifyError{UnexpectedIdentity, id.String(), errors.New("nobody is accepted here")}
	}
	if err := v.accept(id); err != nil {
		if ReasonOf(err) != "" {
			return err
		}
		return &VerifyError{UnexpectedIdentity, id.String(), err}
	}
	return nil
}
