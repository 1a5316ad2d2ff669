package caclient

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

// serverError says that the other end could not prove that it is the control plane.
type serverError struct{ error }

func (e *serverError) Error() string { return "verifying control plane: " + e.error.Error() }

func (e *serverError) Unwrap() error { return e.error }

// pin decides whether the other end of one call's connection is the control plane.
type pin struct {
	now func() time.Time
	// bundles returns what to verify the chain against, and the trust domain whose control plane is expected.
	bundles func(chain []*x509.Certificate) (map[string]*certs.Bundle, string, error)

	mu  sync.Mutex // guards what verify leaves for the caller
	td  string
	err error
}

// pinBundles trusts the bundle of one trust domain.
func (c *Client) pinBundles(td string, bundles map[string]*certs.Bundle) (*pin, error) {
	if err := c.checkTrustDomain(td); err != nil {
		return nil, err
	}
	return &pin{now: c.opts.Now, bundles: func([]*x509.Certificate) (map[string]*certs.Bundle, string, error) {
		return bundles, td, nil
	}}, nil
}

// pinRoot trusts the root with that hash, which the server must send, and the trust domain that this root is of.
func (c *Client) pinRoot(hash [sha256.Size]byte) *pin {
	return &pin{now: c.opts.Now, bundles: func(chain []*x509.Certificate) (map[string]*certs.Bundle, string, error) {
		for _, cert := range chain {
			if sha256.Sum256(cert.Raw) != hash {
				continue
			}
			td, err := rootDomain(cert)
			if err != nil {
				return nil, "", err
			}
			if err := c.checkTrustDomain(td); err != nil {
				return nil, "", err
			}
			bundle, err := certs.NewBundle(td, []*x509.Certificate{cert})
			if err != nil {
				return nil, "", err
			}
			return map[string]*certs.Bundle{td: bundle}, td, nil
		}
		return nil, "", fmt.Errorf("it sent no root with the SHA-256 %x that the join token carries", hash)
	}}
}

func (c *Client) checkTrustDomain(td string) error {
	if want := c.opts.TrustDomain; want != "" && td != want {
		return &serverError{fmt.Errorf("its trust domain is %q, expected %q", td, want)}
	}
	return nil
}

// rootDomain is the trust domain that a root names in its URI SAN.
func rootDomain(root *x509.Certificate) (string, error) {
	if !root.IsCA || len(root.URIs) != 1 {
		return "", errors.New("the root is no CA certificate with one URI SAN")
	}
	uri := root.URIs[0]
	cp, err := identity.ControlPlane(uri.Host)
	if err != nil || uri.String() != "spiffe://"+cp.TrustDomain() {
		return "", errors.Join(fmt.Errorf("the root's SAN %q is no trust domain", uri), err)
	}
	return cp.TrustDomain(), nil
}

func (p *pin) tlsConfig(cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // verification is by SPIFFE ID, in VerifyConnection
		VerifyConnection:   p.verify,
	}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func (p *pin) verify(cs tls.ConnectionState) error {
	td, err := p.judge(cs.PeerCertificates)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.td, p.err = td, err
	return err
}

func (p *pin) judge(chain []*x509.Certificate) (string, error) {
	bundles, td, err := p.bundles(chain)
	if err != nil {
		return "", err
	}
	want, err := identity.ControlPlane(td)
	if err != nil {
		return "", err
	}
	got, err := certs.Verify(chain, bundles, p.now())
	if err != nil {
		return "", err
	}
	if got != want {
		return "", fmt.Errorf("it is %q, expected %q", got, want)
	}
	return td, nil
}

// refusal is why the server was refused, nil if it was not (or never reached).
func (p *pin) refusal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// trustDomain is that of the control plane that was verified.
func (p *pin) trustDomain() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.td
}
