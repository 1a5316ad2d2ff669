package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/csr"
	cferr "github.com/cloudflare/cfssl/errors"
	cflog "github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"

	"github.com/signet-mesh/signet/ca"
)

// pair is a signing certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issuer signs certificates: a signing certificate of ours or an operator's, with its key.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (p pair) issuer() issuer { return issuer{p.cert, p.key} }

// quiet stops cfssl from writing a line to standard error for each certificate: ca writes the audit record.
var quiet = sync.OnceFunc(func() { cflog.Level = cflog.LevelFatal })

// Names of profiles.
const (
	leafProfile    = "leaf"
	rsaLeafProfile = "leaf-rsa"
	rootProfile    = "root"
	caProfile      = "intermediate"
)

// policy is all that cfssl may do. Of a certificate request only the public key is copied: without a whitelist cfssl
// would copy subject, SANs and some extensions. Serial and validity are always ours: its own serials have 160 bits and
// its NotBefore is rounded to a minute, with NotAfter counted from there.
func policy() *config.Signing {
	profile := func(usages ...string) *config.SigningProfile {
		return &config.SigningProfile{
			Usage:                       usages,
			Expiry:                      time.Second, // must be set, is never used
			CSRWhitelist:                &config.CSRWhitelist{PublicKey: true, PublicKeyAlgorithm: true},
			ClientProvidesSerialNumbers: true,
		}
	}
	signing := func(constraint config.CAConstraint) *config.SigningProfile {
		p := profile("cert sign", "crl sign")
		p.CAConstraint = constraint
		p.ExtensionWhitelist = map[string]bool{sanOID().String(): true}
		return p
	}
	leaf := profile("digital signature", "server auth", "client auth")
	return &config.Signing{
		Default: leaf,
		Profiles: map[string]*config.SigningProfile{
			leafProfile:    leaf,
			rsaLeafProfile: profile("digital signature", "key encipherment", "server auth", "client auth"),
			rootProfile:    signing(config.CAConstraint{IsCA: true}),
			caProfile:      signing(config.CAConstraint{IsCA: true, MaxPathLen: 0, MaxPathLenZero: true}),
		},
	}
}

// sanOID is subjectAltName (RFC 5280 section 4.2.1.6).
func sanOID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// slot is a signing key in use: a ca.Key. Immutable.
type slot struct {
	by     issuer
	chain  []*x509.Certificate
	roots  []*x509.Certificate
	signer *local.Signer
}

// newSlot signs with by; above is what is between its certificate and the root.
func newSlot(by issuer, above, roots []*x509.Certificate) (*slot, error) {
	s, err := newSigner(by)
	if err != nil {
		return nil, err
	}
	return &slot{by: by, chain: append([]*x509.Certificate{by.cert}, above...), roots: roots, signer: s}, nil
}

func newSigner(by issuer) (*local.Signer, error) {
	algorithm := algorithmOf(by.key.Public())
	if algorithm == x509.UnknownSignatureAlgorithm {
		return nil, fmt.Errorf("setting up signer: a key of type %T does not sign here", by.key.Public())
	}
	s, err := local.NewSigner(by.key, by.cert, algorithm, policy())
	if err != nil {
		return nil, fmt.Errorf("setting up signer: %w", err)
	}
	return s, nil
}

// Chain is part of ca.Key.
func (s *slot) Chain() []*x509.Certificate { return s.chain }

// Roots is part of ca.Key.
func (s *slot) Roots() []*x509.Certificate { return s.roots }

// SignLeaf is part of ca.Key.
func (s *slot) SignLeaf(leaf ca.Leaf) ([]byte, error) {
	profile := leafProfile
	if leaf.KeyEncipherment {
		profile = rsaLeafProfile
	}
	return sign(s.signer, signer.SignRequest{
		Profile:   profile,
		Request:   string(leaf.CSR),
		Hosts:     append(slices.Clone(leaf.DNS), leaf.ID.String()),
		Serial:    leaf.Serial,
		NotBefore: leaf.NotBefore,
		NotAfter:  leaf.NotAfter,
	})
}

// sign returns DER. Of cfssl's errors, those about the request become *ca.CSRError.
func sign(s *local.Signer, req signer.SignRequest) ([]byte, error) {
	out, err := s.Sign(req)
	var cf *cferr.Error
	if errors.As(err, &cf) && cferr.Category(cf.ErrorCode/1000*1000) == cferr.CSRError {
		return nil, &ca.CSRError{Reason: "its signature does not verify with its own key, or an extension can't be read"}
	}
	if err != nil {
		return nil, fmt.Errorf("signing with cfssl: %w", err)
	}
	block, _ := pem.Decode(out)
	if block == nil {
		return nil, errors.New("signing with cfssl: it returned no PEM")
	}
	return block.Bytes, nil
}

// newKey makes a signing key.
func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making signing key: %w", err)
	}
	return key, nil
}

// order is what a signing certificate is made from.
type order struct {
	profile, name, trustDomain string
	key                        *ecdsa.PrivateKey
	now                        time.Time
	ttl                        time.Duration
	// issuer signs; nil for a root, which signs itself.
	issuer *issuer
	// until bounds the end of life, beside the issuer's own; zero does not.
	until time.Time
}

// signAuthority makes a root or an intermediate. cfssl drops the SANs of CA certificates, so ours goes in as an
// extension.
func signAuthority(o order) (*x509.Certificate, error) {
	request, err := csr.Generate(o.key, &csr.CertificateRequest{CN: o.name})
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("spiffe://" + o.trustDomain)}})
	if err != nil {
		return nil, fmt.Errorf("encoding SAN: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("drawing serial: %w", err)
	}
	by := issuer{key: o.key}
	notAfter := o.now.Add(o.ttl).UTC().Truncate(time.Second)
	if o.issuer != nil {
		by = *o.issuer
		if by.cert.NotAfter.Before(notAfter) {
			notAfter = by.cert.NotAfter
		}
	}
	if !o.until.IsZero() && o.until.Before(notAfter) {
		notAfter = o.until
	}
	s, err := newSigner(by)
	if err != nil {
		return nil, err
	}
	der, err := sign(s, signer.SignRequest{
		Profile:    o.profile,
		Request:    string(request),
		Subject:    &signer.Subject{CN: o.name},
		Serial:     serial.Add(serial, big.NewInt(1)),
		Extensions: []signer.Extension{{ID: config.OID(sanOID()), Value: hex.EncodeToString(san)}},
		NotBefore:  o.now.Add(-min(ca.MaxBackdate, o.ttl/10)).UTC().Truncate(time.Second),
		NotAfter:   notAfter,
	})
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading what was signed: %w", err)
	}
	return cert, nil
}

// requestOf is a certificate request that says nothing but the key.
func requestOf(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func (a *Authority) makeIntermediate() (pair, error) {
	key, err := newKey()
	if err != nil {
		return pair{}, err
	}
	now := a.opts.Now()
	if !a.root.cert.NotAfter.After(now) {
		return pair{}, fmt.Errorf("the root ended at %v", a.root.cert.NotAfter)
	}
	by := a.root.issuer()
	cert, err := signAuthority(order{
		profile: caProfile, name: "Signet signing CA", trustDomain: a.td,
		key: key, now: now, ttl: a.opts.IntermediateTTL, issuer: &by,
	})
	if err != nil {
		return pair{}, fmt.Errorf("making signing certificate: %w", err)
	}
	p := pair{cert: cert, key: key}
	if err := checkIntermediate(p, a.root.cert, a.td); err != nil {
		return pair{}, fmt.Errorf("checking new signing certificate: %w", err)
	}
	a.opts.Log.Info("signing certificate made", "not_after", cert.NotAfter, "serial", fmt.Sprintf("%032x", cert.SerialNumber))
	return p, nil
}

func publicEqual(cert *x509.Certificate, key crypto.Signer) bool {
	pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(key.Public())
}

// algorithmOf is how a signing key signs. Ours are ECDSA P-256; an operator's may be others.
func algorithmOf(key crypto.PublicKey) x509.SignatureAlgorithm {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return x509.ECDSAWithSHA256
		case elliptic.P384():
			return x509.ECDSAWithSHA384
		case elliptic.P521():
			return x509.ECDSAWithSHA512
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= ca.MinRSABits && n <= ca.MaxRSABits {
			return x509.SHA256WithRSA
		}
	}
	return x509.UnknownSignatureAlgorithm
}
