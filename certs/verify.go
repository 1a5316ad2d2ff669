package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// Reason names why a peer was refused. Logs and metrics show it as it is.
type Reason string

// The reasons.
const (
	UntrustedCA        Reason = "untrusted_ca"        // no valid path to a root of the leaf's own trust domain
	Expired            Reason = "expired"             // the path was good once
	NotYetValid        Reason = "not_yet_valid"       // the path will be good later
	TrustDomain        Reason = "trust_domain"        // of a trust domain that isn't accepted, or that we hold no roots of
	NoSPIFFEID         Reason = "no_spiffe_id"        // no URI SAN, or one that is not a SPIFFE ID
	TwoSPIFFEIDs       Reason = "two_spiffe_ids"      // more than one URI SAN
	NotALeaf           Reason = "not_a_leaf"          // a CA, a root-path ID, or a key usage that a leaf must not have
	NoCertificate      Reason = "no_certificate"      // none was presented
	UnexpectedIdentity Reason = "unexpected_identity" // proven, but not who was expected here
)

// VerifyError says why a peer's certificates were refused.
type VerifyError struct {
	Reason Reason
	// Seen is the URI SAN or the SPIFFE ID presented, "" where there was none.
	Seen string
	// Cause may be nil.
	Cause error
}

// Error implements error.
func (e *VerifyError) Error() string {
	s := "verifying peer certificate"
	if e.Seen != "" {
		s += fmt.Sprintf(" of %q", e.Seen)
	}
	s += ": " + string(e.Reason)
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *VerifyError) Unwrap() error { return e.Cause }

// ReasonOf gives the reason of the first *VerifyError in err's tree, "" when there is none.
func ReasonOf(err error) Reason {
	if v := (*VerifyError)(nil); errors.As(err, &v) {
		return v.Reason
	}
	return ""
}

// Verify judges a peer's chain (leaf first) at a moment: SPIFFE's rules for a leaf, and RFC 5280 path validation, any
// extended key usage, against the bundle of the leaf's own trust domain and no other. Every failure is a *VerifyError.
func Verify(chain []*x509.Certificate, bundles map[string]*Bundle, now time.Time) (identity.ID, error) {
	v, err := verify(chain, bundles, now)
	return v.id, err
}

// verified is the outcome of one path validation: it holds as long as bundle is the trust domain's, from notBefore to
// notAfter, both included (x509 counts the last instant in).
type verified struct {
	id                  identity.ID
	bundle              *Bundle
	notBefore, notAfter time.Time
}

func verify(chain []*x509.Certificate, bundles map[string]*Bundle, now time.Time) (verified, error) {
	id, err := leafID(chain)
	if err != nil {
		return verified{}, err
	}
	if len(chain) > MaxChain {
		return verified{}, &VerifyError{UntrustedCA, id.String(), fmt.Errorf("%d certificates presented, the limit is %d", len(chain), MaxChain)}
	}
	bundle := bundles[id.TrustDomain()]
	if bundle == nil || bundle.trustDomain != id.TrustDomain() {
		return verified{}, &VerifyError{TrustDomain, id.String(), errNoBundle}
	}
	paths, err := buildPaths(chain, bundle, now)
	if err != nil {
		return verified{}, &VerifyError{failedPath(chain, bundle, now), id.String(), err}
	}
	v := verified{id: id, bundle: bundle}
	v.notBefore, v.notAfter = window(paths[0])
	return v, nil
}

func buildPaths(chain []*x509.Certificate, bundle *Bundle, now time.Time) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	return chain[0].Verify(x509.VerifyOptions{
		Roots:         bundle.pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
}

// failedPath tells a matter of time from a matter of trust: the path is judged again at a moment when everything that
// was presented is valid.
func failedPath(chain []*x509.Certificate, bundle *Bundle, now time.Time) Reason {
	start, end := window(chain)
	if start.After(end) {
		return UntrustedCA
	}
	if _, err := buildPaths(chain, bundle, start); err != nil {
		if _, err = buildPaths(chain, bundle, end); err != nil {
			return UntrustedCA
		}
	}
	if now.Before(start) {
		return NotYetValid
	}
	return Expired
}

// window is when all certificates are valid.
func window(chain []*x509.Certificate) (notBefore, notAfter time.Time) {
	notBefore, notAfter = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(notBefore) {
			notBefore = c.NotBefore
		}
		if c.NotAfter.Before(notAfter) {
			notAfter = c.NotAfter
		}
	}
	return notBefore, notAfter
}
