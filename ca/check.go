package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // crypto.Hash.New wants them linked
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// expected is what a signed certificate is held against.
type expected struct {
	id                  identity.ID
	dns                 []string
	key                 crypto.PublicKey
	serial              *big.Int
	notBefore, notAfter time.Time
	issuer              *x509.Certificate
}

// checkSigned judges a certificate before it leaves, by its bytes alone: it shares no template and no profile with the
// signer, only the decisions of Prepare. The rules are those of X509-SVID sections 2 to 4 and of the profile in
// docs/architecture.md.
func checkSigned(der []byte, want expected) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading DER: %w", err)
	}
	if err := checkFields(leaf, want); err != nil {
		return nil, err
	}
	if err := checkExtensions(leaf, want); err != nil {
		return nil, err
	}
	if err := checkSignature(leaf, want.issuer); err != nil {
		return nil, err
	}
	return leaf, nil
}

func checkFields(leaf *x509.Certificate, want expected) error {
	emptyName := []byte{0x30, 0x00}
	key, ok := want.key.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case leaf.Version != 3:
		return fmt.Errorf("version %d, not 3", leaf.Version)
	case leaf.SerialNumber.Cmp(want.serial) != 0 || leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 128:
		return fmt.Errorf("serial %x, not the positive 128-bit one that was drawn", leaf.SerialNumber)
	case !bytes.Equal(leaf.RawSubject, emptyName):
		return fmt.Errorf("subject %q, not empty", leaf.Subject)
	case !bytes.Equal(leaf.RawIssuer, want.issuer.RawSubject):
		return fmt.Errorf("issuer %q, not %q", leaf.Issuer, want.issuer.Subject)
	case !ok || !key.Equal(leaf.PublicKey):
		return errors.New("public key is not the request's")
	case !leaf.NotBefore.Equal(want.notBefore) || !leaf.NotAfter.Equal(want.notAfter):
		return fmt.Errorf("validity %v to %v, not %v to %v", leaf.NotBefore, leaf.NotAfter, want.notBefore, want.notAfter)
	case !leaf.NotAfter.After(leaf.NotBefore) || leaf.NotAfter.After(want.issuer.NotAfter):
		return fmt.Errorf("validity %v to %v is empty or ends after the issuer's %v", leaf.NotBefore, leaf.NotAfter, want.issuer.NotAfter)
	}
	return nil
}

// extension is one that a leaf must carry; value, where set, is its whole DER.
type extension struct {
	oid      asn1.ObjectIdentifier
	critical bool
	value    []byte
}

func checkExtensions(leaf *x509.Certificate, want expected) error {
	keyUsage := []byte{0x03, 0x02, 0x07, 0x80} // BIT STRING: digitalSignature
	if leaf.PublicKeyAlgorithm == x509.RSA {
		keyUsage = []byte{0x03, 0x02, 0x05, 0xa0} // digitalSignature, keyEncipherment
	}
	extKeyUsage := [][]byte{ // serverAuth and clientAuth in either order
		{0x30, 0x14, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 1, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2},
		{0x30, 0x14, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 1},
	}
	var names []asn1.RawValue // RFC 5280 section 4.2.1.6: dNSName is 2, uniformResourceIdentifier 6
	for _, d := range want.dns {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(d)})
	}
	san, err := asn1.Marshal(append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(want.id.String())}))
	if err != nil {
		return fmt.Errorf("encoding expected SAN: %w", err)
	}
	required := []extension{
		{asn1.ObjectIdentifier{2, 5, 29, 15}, true, keyUsage},
		{asn1.ObjectIdentifier{2, 5, 29, 37}, false, nil},
		{asn1.ObjectIdentifier{2, 5, 29, 19}, true, []byte{0x30, 0x00}}, // cA is FALSE by default
		{asn1.ObjectIdentifier{2, 5, 29, 17}, true, san},
		{asn1.ObjectIdentifier{2, 5, 29, 14}, false, nil}, // subject key identifier
		{asn1.ObjectIdentifier{2, 5, 29, 35}, false, nil}, // authority key identifier
	}
	for _, r := range required {
		at := slices.IndexFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(r.oid) })
		if at < 0 {
			return fmt.Errorf("extension %s is missing", r.oid)
		}
		got := leaf.Extensions[at]
		if got.Critical != r.critical {
			return fmt.Errorf("extension %s has critical %v, not %v", r.oid, got.Critical, r.critical)
		}
		if r.value != nil && !bytes.Equal(got.Value, r.value) {
			return fmt.Errorf("extension %s is %x, not %x", r.oid, got.Value, r.value)
		}
		if r.oid[3] == 37 && !bytes.Equal(got.Value, extKeyUsage[0]) && !bytes.Equal(got.Value, extKeyUsage[1]) {
			return fmt.Errorf("extended key usage is %x, not server and client authentication", got.Value)
		}
	}
	if len(leaf.Extensions) != len(required) {
		return fmt.Errorf("%d extensions, not %d", len(leaf.Extensions), len(required))
	}
	if !bytes.Equal(leaf.AuthorityKeyId, want.issuer.SubjectKeyId) || len(leaf.AuthorityKeyId) == 0 {
		return fmt.Errorf("authority key identifier %x, not the issuer's %x", leaf.AuthorityKeyId, want.issuer.SubjectKeyId)
	}
	return nil
}

// checkSignature takes what our signing keys make: ECDSA P-256 with SHA-256, and of an operator's own CA that signs leaves
// itself also P-384, P-521 and RSA. Anything else is a fault.
func checkSignature(leaf, issuer *x509.Certificate) error {
	var hash crypto.Hash
	switch leaf.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.SHA256WithRSA:
		hash = crypto.SHA256
	case x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return fmt.Errorf("signed with %s, none of ours", leaf.SignatureAlgorithm)
	}
	h := hash.New()
	h.Write(leaf.RawTBSCertificate)
	good := false
	switch key := issuer.PublicKey.(type) {
	case *ecdsa.PublicKey:
		good = leaf.SignatureAlgorithm == ecdsaAlgorithm(key) && ecdsa.VerifyASN1(key, h.Sum(nil), leaf.Signature)
	case *rsa.PublicKey:
		good = leaf.SignatureAlgorithm == x509.SHA256WithRSA && rsa.VerifyPKCS1v15(key, hash, h.Sum(nil), leaf.Signature) == nil
	}
	if !good {
		return errors.New("the issuer's signature does not verify")
	}
	return nil
}

// ecdsaAlgorithm is the one that goes with a key's curve.
func ecdsaAlgorithm(key *ecdsa.PublicKey) x509.SignatureAlgorithm {
	switch key.Curve {
	case elliptic.P256():
		return x509.ECDSAWithSHA256
	case elliptic.P384():
		return x509.ECDSAWithSHA384
	case elliptic.P521():
		return x509.ECDSAWithSHA512
	}
	return x509.UnknownSignatureAlgorithm
}
