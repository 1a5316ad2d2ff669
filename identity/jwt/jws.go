package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Limits of what is verified.
const (
	// MaxToken is the longest token in bytes.
	MaxToken = 16 << 10
	// MaxKeyID is the longest kid of a token in bytes.
	MaxKeyID = 512
	// MinRSABits and MaxRSABits bound the moduli of RSA keys (RFC 7518 section 3.3; the upper bound is that of the work).
	MinRSABits = 2048
	MaxRSABits = 8192
)

// compact is a JWS in compact serialization (RFC 7515 section 7.1) that is well formed. Nothing in it is verified.
type compact struct {
	text      string // all of it
	segment   string // the payload as it was sent
	payload   []byte
	algorithm string
	keyID     string
	hasKeyID  bool
}

var (
	errSegments = errors.New("reading JWS: not three segments of base64url without padding")
	errLength   = fmt.Errorf("reading JWS: longer than %d bytes", MaxToken)
)

// parseCompact reads a JWS. The payload may be anything. Keys and certificates that come with a token (jwk, jku, x5c, x5u)
// prove nothing and are never used.
func parseCompact(text string) (*compact, error) {
	if len(text) > MaxToken {
		return nil, errLength
	}
	head, rest, one := strings.Cut(text, ".")
	segment, signature, two := strings.Cut(rest, ".")
	if !one || !two || !base64url(head) || !base64url(segment) || !base64url(signature) {
		return nil, errSegments
	}
	header, err := decode(head)
	if err != nil {
		return nil, err
	}
	payload, err := decode(segment)
	if err != nil {
		return nil, err
	}
	if _, err := decode(signature); err != nil {
		return nil, err
	}
	c := &compact{text: text, segment: segment, payload: payload}
	return c, c.readHeader(header)
}

// base64url says that a segment has letters of the alphabet only: Go's decoders skip line ends.
func base64url(segment string) bool {
	for i := range len(segment) {
		switch b := segment[i]; {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_':
		default:
			return false
		}
	}
	return true
}

// decode is strict: of the spellings of a segment that differ in bits that no byte holds, only one is right.
func decode(segment string) ([]byte, error) {
	out, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return nil, errSegments
	}
	return out, nil
}

func (c *compact) readHeader(text []byte) error {
	header, err := object(text)
	if err != nil {
		return err
	}
	// No extension is understood, so none may be critical (RFC 7515 section 4.1.11); b64 (RFC 7797) changes what is signed.
	for _, name := range []string{"crit", "b64"} {
		if _, ok := header[name]; ok {
			return fmt.Errorf("reading JWS: header %q is not supported", name)
		}
	}
	var ok bool
	if c.algorithm, ok = header["alg"].(string); !ok {
		return errors.New(`reading JWS: header "alg" is not a string`)
	}
	if id, has := header["kid"]; has {
		if c.keyID, c.hasKeyID = id.(string); !c.hasKeyID || len(c.keyID) > MaxKeyID {
			return fmt.Errorf(`reading JWS: header "kid" is not a string of at most %d bytes`, MaxKeyID)
		}
	}
	return nil
}

// Supported reports whether tokens signed by an algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1) are verified at all.
func Supported(algorithm string) bool {
	switch jose.SignatureAlgorithm(algorithm) {
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA:
		return true
	}
	return false
}

// Fits reports whether a key may verify signatures of an algorithm: the algorithm is supported, the key's type, size and curve
// are those of the algorithm, and the key names no other one.
func (k *Key) Fits(algorithm string) bool {
	if !Supported(algorithm) || k.Algorithm != "" && k.Algorithm != algorithm {
		return false
	}
	return fits(k.Public, jose.SignatureAlgorithm(algorithm))
}

func fits(key crypto.PublicKey, algorithm jose.SignatureAlgorithm) bool {
	switch public := key.(type) {
	case *rsa.PublicKey:
		if public == nil || public.N == nil {
			return false
		}
		bits := public.N.BitLen()
		return bits >= MinRSABits && bits <= MaxRSABits && (algorithm[:2] == "RS" || algorithm[:2] == "PS")
	case *ecdsa.PublicKey:
		if public == nil || public.Curve == nil {
			return false
		}
		switch public.Params().BitSize {
		case 256:
			return algorithm == jose.ES256
		case 384:
			return algorithm == jose.ES384
		case 521:
			return algorithm == jose.ES512
		}
	case ed25519.PublicKey:
		return len(public) == ed25519.PublicKeySize && algorithm == jose.EdDSA
	}
	return false
}

// outcome is what trying keys came to.
type outcome uint8

const (
	noKey    outcome = iota // no key has the token's kid, or fits its algorithm
	noMatch                 // keys were tried, and none made the signature
	verified                // one of them did
)

// verify tries the keys of the token's kid, or without one all that fit.
func (c *compact) verify(keys []Key) outcome {
	result := noKey
	var signed *jose.JSONWebSignature
	for i := range keys {
		k := &keys[i]
		if c.hasKeyID && k.ID != c.keyID || !k.Fits(c.algorithm) {
			continue
		}
		if signed == nil {
			var err error
			if signed, err = jose.ParseSignedCompact(c.text, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(c.algorithm)}); err != nil {
				return noMatch
			}
		}
		// The payload that was judged is the one whose signature is checked.
		if err := signed.DetachedVerify(c.payload, k.Public); err == nil {
			return verified
		}
		result = noMatch
	}
	return result
}
