package rotate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// renew gets one certificate and puts it in use. On any error what is in use stays in use.
func (r *Rotator) renew(ctx context.Context) error {
	current := r.cell.Current()
	key, err := r.requestKey(current)
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout(r.left(current)))
	defer cancel()
	issued, err := r.cfg.Issuer.Issue(ctx, csr, r.cfg.TTL, current)
	if err != nil {
		return fmt.Errorf("asking for a certificate: %w", err)
	}
	svid, bundle, err := r.judge(issued, key)
	if err != nil {
		return fmt.Errorf("judging the certificate issued: %w", err)
	}
	r.save(&Stored{JoinKey: r.joinKey, Key: key, Chain: svid.Chain, Roots: bundle.Roots()})
	r.nextKey = nil
	r.swap(svid, bundle)
	return nil
}

// requestKey is the key to certify: that of the first CSR as long as there is no certificate to renew by (a join token
// may be bound to it), else a new one, kept over retries.
func (r *Rotator) requestKey(current *certs.Snapshot) (crypto.Signer, error) {
	if r.left(current) > 0 {
		if r.nextKey == nil {
			key, err := newKey()
			if err != nil {
				return nil, err
			}
			r.nextKey = key
		}
		return r.nextKey, nil
	}
	if r.joinKey == nil {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		r.joinKey = key
		r.save(&Stored{JoinKey: key}) // before it is shown to anybody
	}
	return r.joinKey, nil
}

func newKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making workload key: %w", err)
	}
	return key, nil
}

// request is a CSR that says nothing but the key: names come from what the CA knows of the caller.
func request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// judge checks an answer as a peer would, before anything depends on it.
func (r *Rotator) judge(issued *certs.Issued, key crypto.Signer) (*certs.SVID, *certs.Bundle, error) {
	if issued == nil {
		return nil, nil, errors.New("no answer")
	}
	svid, err := certs.NewSVID(withoutRoots(issued), key)
	if err != nil {
		return nil, nil, err
	}
	want := r.cfg.ID
	if before := r.cell.Current().SVID; want.IsZero() && before != nil {
		want = before.ID
	}
	if !want.IsZero() && svid.ID != want {
		return nil, nil, &certs.VerifyError{Reason: certs.UnexpectedIdentity, Seen: svid.ID.String(), Cause: fmt.Errorf("expected %q", want)}
	}
	td := svid.ID.TrustDomain()
	bundle, err := certs.NewBundle(td, issued.Roots)
	if err != nil {
		return nil, nil, err
	}
	if _, err := certs.Verify(svid.Chain, map[string]*certs.Bundle{td: bundle}, r.now()); err != nil {
		return nil, nil, err
	}
	return svid, bundle, nil
}

// withoutRoots drops the roots from the end of a chain: peers hold them already.
func withoutRoots(issued *certs.Issued) []*x509.Certificate {
	chain := issued.Chain
	for len(chain) > 1 && isRoot(chain[len(chain)-1], issued.Roots) {
		chain = chain[:len(chain)-1]
	}
	return chain
}

func isRoot(c *x509.Certificate, roots []*x509.Certificate) bool {
	for _, root := range roots {
		if c != nil && root != nil && bytes.Equal(c.Raw, root.Raw) {
			return true
		}
	}
	return false
}

// swap puts an SVID in use. Unchanged roots stay the same *Bundle, so that verifications remembered for it stay good.
func (r *Rotator) swap(svid *certs.SVID, bundle *certs.Bundle) {
	r.trust.Lock()
	defer r.trust.Unlock()
	r.issued = bundle
	if len(r.told) > 0 {
		all, err := certs.NewBundle(bundle.TrustDomain(), slices.Concat(bundle.Roots(), r.told))
		if err != nil {
			r.cfg.Log.Error("the roots that the control plane told are not trusted", "error", err)
		} else {
			bundle = all
		}
	}
	bundles := maps.Clone(r.cell.Current().Bundles)
	if bundles == nil {
		bundles = map[string]*certs.Bundle{}
	}
	if old := bundles[bundle.TrustDomain()]; !old.Equal(bundle) {
		bundles[bundle.TrustDomain()] = bundle
	}
	snapshot := r.cell.Set(svid, bundles)
	leaf := svid.Leaf()
	r.update(func(s *Status) { s.NotBefore, s.NotAfter = leaf.NotBefore, leaf.NotAfter })
	r.cfg.Log.Info("certificate in use", "id", svid.ID.String(), "serial", leaf.SerialNumber.Text(16),
		"not_before", leaf.NotBefore, "not_after", leaf.NotAfter, "generation", snapshot.Generation)
	if r.cfg.OnChange != nil {
		r.cfg.OnChange(snapshot)
	}
}

// left is how long the certificate in use is still good, 0 when it isn't.
func (r *Rotator) left(current *certs.Snapshot) time.Duration {
	if current.SVID == nil {
		return 0
	}
	return max(0, current.SVID.Leaf().NotAfter.Sub(r.now()))
}
