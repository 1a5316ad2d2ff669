package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"
)

// Limits of a certificate request.
const (
	MaxCSRBytes = 64 << 10
	MinRSABits  = 2048
	MaxRSABits  = 8192
)

// Request is a certificate request that can be served: key and lifetime are such as we give. Only Judge makes one.
// That the requester holds the key is not known yet; it is checked once, by the key that signs.
type Request struct {
	pem     []byte
	key     crypto.PublicKey
	keyHash [sha256.Size]byte
	ttl     time.Duration
}

// KeyHash is the SHA-256 of the DER SubjectPublicKeyInfo.
func (r *Request) KeyHash() [sha256.Size]byte { return r.keyHash }

// TTL is the lifetime to give.
func (r *Request) TTL() time.Duration { return r.ttl }

// Judge reads a certificate request: at most MaxCSRBytes of PEM, one block and nothing else, a key of ECDSA P-256 or
// P-384, Ed25519 or RSA of 2048 to 8192 bits, signed with no hash older than SHA-256. A ttl of zero or below means the
// default. Errors are *CSRError or *TTLError.
func (c *CA) Judge(csrPEM []byte, ttl time.Duration) (*Request, error) {
	req, err := readRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	switch {
	case ttl <= 0:
		ttl = c.opts.DefaultTTL
	case ttl > c.opts.MaxTTL:
		return nil, &TTLError{Asked: ttl, Max: c.opts.MaxTTL}
	case ttl < time.Second:
		ttl = time.Second // the resolution of X.509
	}
	req.ttl = ttl
	return req, nil
}

func readRequest(csrPEM []byte) (*Request, error) {
	if len(csrPEM) > MaxCSRBytes {
		return nil, &CSRError{fmt.Sprintf("%d bytes, at most %d are read", len(csrPEM), MaxCSRBytes)}
	}
	if !bytes.HasPrefix(bytes.TrimLeft(csrPEM, " \t\r\n"), []byte("-----BEGIN ")) {
		return nil, &CSRError{"it is not PEM"}
	}
	block, rest := pem.Decode(csrPEM)
	switch {
	case block == nil:
		return nil, &CSRError{"it is not PEM"}
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, &CSRError{fmt.Sprintf("PEM block is %.40q, not a certificate request", block.Type)}
	case len(block.Headers) != 0:
		return nil, &CSRError{"PEM block has headers"}
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, &CSRError{"something follows the PEM block"}
	}
	// pem.Decode passes over a broken block to find a good one; what it passed over would be read differently elsewhere.
	if bytes.Count(csrPEM, []byte("-----BEGIN ")) != 1 {
		return nil, &CSRError{"more than one PEM block"}
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, &CSRError{fmt.Sprintf("reading DER: %.200v", err)}
	}
	if err := judgeKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := judgeAlgorithm(csr.SignatureAlgorithm); err != nil {
		return nil, err
	}
	return &Request{
		pem:     bytes.Clone(csrPEM),
		key:     csr.PublicKey,
		keyHash: sha256.Sum256(csr.RawSubjectPublicKeyInfo),
	}, nil
}

func judgeKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return &CSRError{fmt.Sprintf("ECDSA curve %s, P-256 and P-384 are taken", k.Curve.Params().Name)}
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < MinRSABits || n > MaxRSABits {
			return &CSRError{fmt.Sprintf("RSA key of %d bits, %d to %d are taken", n, MinRSABits, MaxRSABits)}
		}
		if k.E < 3 || k.E&1 == 0 {
			return &CSRError{fmt.Sprintf("RSA exponent %d", k.E)}
		}
	default:
		return &CSRError{"key is none of ECDSA, Ed25519, RSA"}
	}
	return nil
}

func judgeAlgorithm(a x509.SignatureAlgorithm) error {
	switch a {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return nil
	}
	return &CSRError{fmt.Sprintf("signature algorithm %s", a)}
}
