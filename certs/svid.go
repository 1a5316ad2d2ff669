package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/identity"
)

// MaxChain is the most certificates a chain may have, the leaf included.
const MaxChain = 10

// NewSVID makes an SVID of a chain (leaf first) and the leaf's key, after the rules of X509-SVID sections 2 to 4: exactly
// one URI SAN, a SPIFFE ID with a path; not a CA; key usage critical, with digitalSignature and without keyCertSign and
// cRLSign; and the key is the leaf's. A leaf that breaks them gives a *VerifyError. Validity and signatures are not
// looked at: that is Verify's.
func NewSVID(chain []*x509.Certificate, key crypto.Signer) (*SVID, error) {
	id, err := leafID(chain)
	if err != nil {
		return nil, fmt.Errorf("making SVID: %w", err)
	}
	if key == nil {
		return nil, fmt.Errorf("making SVID of %q: no private key", id)
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("making SVID of %q: private key is not the certificate's", id)
	}
	s := &SVID{ID: id, Chain: slices.Clone(chain), Key: key}
	s.tls = &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for i, c := range chain {
		if i > 0 && !c.IsCA {
			return nil, fmt.Errorf("making SVID of %q: certificate %d of the chain is not a CA", id, i)
		}
		s.tls.Certificate = append(s.tls.Certificate, c.Raw)
	}
	return s, nil
}

// PEM is chain and PKCS#8 key as PEM. The second is secret.
func (s *SVID) PEM() (chain, key []byte, err error) {
	key, err = KeyPEM(s.Key)
	if err != nil {
		return nil, nil, err
	}
	return ChainPEM(s.Chain), key, nil
}

// leafID applies the SPIFFE rules to the first certificate of a chain and gives its ID. Its errors are *VerifyError.
func leafID(chain []*x509.Certificate) (identity.ID, error) {
	if len(chain) == 0 || chain[0] == nil {
		return identity.ID{}, &VerifyError{Reason: NoCertificate}
	}
	leaf := chain[0]
	uris, err := uriSANs(leaf)
	seen := strings.Join(uris, ",")
	switch {
	case err != nil:
		return identity.ID{}, &VerifyError{Reason: NoSPIFFEID, Cause: err}
	case len(uris) == 0:
		return identity.ID{}, &VerifyError{Reason: NoSPIFFEID, Cause: errors.New("no URI in its subject alternative names")}
	case len(uris) > 1:
		return identity.ID{}, &VerifyError{Reason: TwoSPIFFEIDs, Seen: seen, Cause: fmt.Errorf("%d URIs in its subject alternative names", len(uris))}
	}
	id, err := identity.Parse(uris[0])
	if err != nil {
		return identity.ID{}, &VerifyError{Reason: NoSPIFFEID, Seen: seen, Cause: err}
	}
	if !strings.Contains(id.Principal(), "/") {
		return identity.ID{}, &VerifyError{Reason: NotALeaf, Seen: seen, Cause: errors.New("its SPIFFE ID has no path")}
	}
	if err := leafUsage(leaf); err != nil {
		return identity.ID{}, &VerifyError{Reason: NotALeaf, Seen: seen, Cause: err}
	}
	return id, nil
}

// leafUsage is X509-SVID sections 4.1 and 4.3 for a leaf.
func leafUsage(leaf *x509.Certificate) error {
	usage, present := extension(leaf, 15)
	switch {
	case leaf.IsCA:
		return errors.New("it is a CA certificate")
	case !present || !usage.Critical:
		return errors.New("its key usage is absent or not critical")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("its key usage allows signing of certificates or revocation lists")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage lacks digitalSignature")
	}
	return nil
}

// uriSANs gives the URIs as they are written: x509's parsed ones are normalised by net/url (a scheme in upper case, for
// example), and identities are compared byte by byte.
func uriSANs(leaf *x509.Certificate) ([]string, error) {
	san, present := extension(leaf, 17)
	if !present {
		return nil, nil
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(san.Value, &names); err != nil || len(rest) > 0 {
		return nil, errors.New("its subject alternative names are malformed")
	}
	var uris []string
	for _, n := range names {
		if n.Class == asn1.ClassContextSpecific && n.Tag == 6 { // RFC 5280 section 4.2.1.6, uniformResourceIdentifier
			uris = append(uris, string(n.Bytes))
		}
	}
	return uris, nil
}

// extension finds the extension 2.5.29.n. x509 refuses a certificate that has one twice.
func extension(c *x509.Certificate, n int) (pkix.Extension, bool) {
	for _, e := range c.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, n}) {
			return e, true
		}
	}
	return pkix.Extension{}, false
}
