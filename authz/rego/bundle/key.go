package bundle

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/signet-mesh/signet/mesh/policy"
)

const (
	defaultAlgorithm = "RS256" // as in OPA
	defaultKeyID     = "default"
	minRSABits       = 2048
	maxKey           = 16 << 10 // bytes of PEM
)

// curves are the sizes in bits that RFC 7518, section 3.4, ties to the algorithms.
func curves(algorithm string) int {
	switch algorithm {
	case "ES256":
		return 256
	case "ES384":
		return 384
	case "ES512":
		return 521
	}
	return 0
}

// verification is what a spec demands of signatures; nil, which accepts unsigned bundles only, where it has none. The error
// begins with the field of signing. Secrets shared with the signer (HS256 and the like) are refused: who can read the
// policy could sign.
func verification(spec *policy.BundleSigning) (*opabundle.VerificationConfig, error) {
	if spec == nil {
		return nil, nil
	}
	algorithm := spec.GetAlgorithm()
	if algorithm == "" {
		algorithm = defaultAlgorithm
	}
	key, err := publicKey(spec.GetPublicKey())
	if err != nil {
		return nil, fmt.Errorf("publicKey: %w", err)
	}
	rsaAlgorithm := slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, algorithm)
	bits := curves(algorithm)
	if !rsaAlgorithm && bits == 0 {
		return nil, fmt.Errorf("algorithm: %q is none of RS, PS and ES with 256, 384 and 512", algorithm)
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if !rsaAlgorithm {
			return nil, fmt.Errorf("publicKey: an RSA key is not for %q", algorithm)
		}
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("publicKey: an RSA key of %d bits; at least %d", k.N.BitLen(), minRSABits)
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize != bits {
			return nil, fmt.Errorf("publicKey: a key on curve %s is not for %q", k.Curve.Params().Name, algorithm)
		}
	default:
		return nil, fmt.Errorf("publicKey: a %T is not for %q", key, algorithm)
	}
	id := spec.GetKeyId()
	if id == "" {
		id = defaultKeyID
	}
	keys := map[string]*opabundle.KeyConfig{id: {Key: spec.GetPublicKey(), Algorithm: algorithm, Scope: spec.GetScope()}}
	return opabundle.NewVerificationConfig(keys, id, spec.GetScope(), nil), nil
}

// publicKey reads the forms that OPA's verifier reads, save private keys.
func publicKey(text string) (any, error) {
	if len(text) > maxKey {
		return nil, fmt.Errorf("more than %d bytes", maxKey)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM block in it")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block of type %q is no public key", block.Type)
}
