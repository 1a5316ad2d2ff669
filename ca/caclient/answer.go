package caclient

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// Limits of an answer.
const (
	maxChain = 8 // strings, the roots' included
	maxRoots = 16
)

// readAnswer takes a cert_chain of Istio's form (leaf, intermediates, last all roots in one string) and holds it against
// the request and the trust domain.
func readAnswer(chain []string, csrPEM []byte, td string, now time.Time) (*certs.Issued, error) {
	if len(chain) < 2 || len(chain) > maxChain {
		return nil, fmt.Errorf("cert_chain has %d elements, not 2 to %d", len(chain), maxChain)
	}
	out := &certs.Issued{}
	for i, text := range chain[:len(chain)-1] {
		list, err := readPEM(text, 1)
		if err != nil {
			return nil, fmt.Errorf("reading cert_chain[%d]: %w", i, err)
		}
		out.Chain = append(out.Chain, list[0])
	}
	var err error
	if out.Roots, err = readPEM(chain[len(chain)-1], maxRoots); err != nil {
		return nil, fmt.Errorf("reading roots: %w", err)
	}
	if err := checkKey(out.Chain[0], csrPEM); err != nil {
		return nil, err
	}
	bundle, err := certs.NewBundle(td, out.Roots)
	if err != nil {
		return nil, err
	}
	id, err := certs.Verify(out.Chain, map[string]*certs.Bundle{td: bundle}, now)
	if err != nil {
		return nil, err
	}
	if id.IsControlPlane() || id.Namespace() == "" {
		return nil, fmt.Errorf("identity %q is no workload's", id)
	}
	return out, nil
}

// readPEM reads one to limit certificates and nothing else.
func readPEM(text string, limit int) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	rest := []byte(text)
	for strings.TrimSpace(string(rest)) != "" {
		if len(out) == limit {
			return nil, fmt.Errorf("more than %d certificates", limit)
		}
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is not PEM of certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out, rest = append(out, cert), after
	}
	if len(out) == 0 {
		return nil, errors.New("it is empty")
	}
	return out, nil
}

func checkKey(leaf *x509.Certificate, csrPEM []byte) error {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return errors.New("certificate request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("reading certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(leaf.PublicKey) {
		return errors.New("the leaf's key is not the request's")
	}
	return nil
}
