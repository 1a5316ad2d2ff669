// Package jwks holds the key sets of token issuers (RFC 7517): inline ones, and ones fetched from the issuer.
package jwks

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-mesh/signet/identity/jwt"
)

// Limits of a set.
const (
	MaxSetBytes = 1 << 20
	MaxKeys     = 100
)

// member is what is read of a JWK (RFC 7517 section 4). What else is in it, a certificate chain for one, is not used.
type member struct {
	Type       string   `json:"kty"`
	Use        string   `json:"use"`
	Operations []string `json:"key_ops"`
	Algorithm  string   `json:"alg"`
	ID         string   `json:"kid"`
	material
}

// material is the public part of a key (RFC 7518 section 6, RFC 8037 section 2).
type material struct {
	Curve    string `json:"crv,omitempty"`
	X        string `json:"x,omitempty"`
	Y        string `json:"y,omitempty"`
	Modulus  string `json:"n,omitempty"`
	Exponent string `json:"e,omitempty"`
}

// Parse reads a JWK set, or a JSON object of PEM certificates by key ID as Google publishes one. A key that can't verify the
// signature of a token is left out, as RFC 7517 section 5 wants: another type (oct), use or key_ops, an algorithm that is not
// supported, an RSA key that is too short, values that make no key. Several keys of one kid are all kept. It is an error if no
// key is left.
func Parse(text []byte) ([]jwt.Key, error) {
	if len(text) > MaxSetBytes {
		return nil, fmt.Errorf("reading key set: %d bytes, limit %d", len(text), MaxSetBytes)
	}
	var all map[string]json.RawMessage
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("reading key set: %w", err)
	}
	if d.More() {
		return nil, errors.New("reading key set: something follows the object")
	}
	list, ok := all["keys"]
	if !ok {
		return certificates(all)
	}
	var keys []json.RawMessage
	if err := json.Unmarshal(list, &keys); err != nil {
		return nil, fmt.Errorf(`reading key set: "keys": %w`, err)
	}
	if len(keys) > MaxKeys {
		return nil, fmt.Errorf("reading key set: %d keys, limit %d", len(keys), MaxKeys)
	}
	var out []jwt.Key
	var why []error
	for i, raw := range keys {
		k, err := parseKey(raw)
		if err != nil {
			why = append(why, fmt.Errorf("key %d: %w", i, err))
			continue
		}
		out = append(out, k)
	}
	return usable(out, why)
}

func usable(keys []jwt.Key, why []error) ([]jwt.Key, error) {
	if len(keys) > 0 {
		return keys, nil
	}
	if len(why) == 0 {
		return nil, errors.New("reading key set: it has no keys")
	}
	return nil, fmt.Errorf("reading key set: no key in it verifies tokens: %w", errors.Join(why[:min(len(why), 4)]...))
}

func parseKey(raw []byte) (jwt.Key, error) {
	var m member
	if err := json.Unmarshal(raw, &m); err != nil {
		return jwt.Key{}, errors.New("reading key: members of the wrong types")
	}
	switch {
	case m.Type != "RSA" && m.Type != "EC" && m.Type != "OKP":
		return jwt.Key{}, fmt.Errorf("reading key: kty %q is not supported", m.Type)
	case m.Use != "" && m.Use != "sig":
		return jwt.Key{}, fmt.Errorf("reading key: use %q is not for signatures", m.Use)
	case m.Operations != nil && !slices.Contains(m.Operations, "verify"):
		return jwt.Key{}, errors.New("reading key: key_ops lacks verify")
	}
	// Only these members reach the parser: a private part or a broken certificate chain beside them changes nothing.
	public, err := json.Marshal(struct {
		Type string `json:"kty"`
		material
	}{m.Type, m.material})
	if err != nil {
		return jwt.Key{}, fmt.Errorf("reading key: %w", err)
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(public); err != nil {
		return jwt.Key{}, fmt.Errorf("reading key: %w", err)
	}
	return check(jwt.Key{ID: m.ID, Algorithm: m.Algorithm, Public: parsed.Key})
}

// check wants a key that fits some algorithm.
func check(k jwt.Key) (jwt.Key, error) {
	for _, algorithm := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		if k.Fits(algorithm) {
			return k, nil
		}
	}
	return jwt.Key{}, fmt.Errorf("reading key: no supported algorithm fits its type, size and alg %q", k.Algorithm)
}

// certificates reads a JSON object of PEM certificates by key ID, in the order of the IDs.
func certificates(all map[string]json.RawMessage) ([]jwt.Key, error) {
	if len(all) > MaxKeys {
		return nil, fmt.Errorf("reading key set: %d keys, limit %d", len(all), MaxKeys)
	}
	var out []jwt.Key
	var why []error
	for _, id := range slices.Sorted(maps.Keys(all)) {
		public, err := certificateKey(all[id])
		if err == nil {
			var k jwt.Key
			if k, err = check(jwt.Key{ID: id, Public: public}); err == nil {
				out = append(out, k)
			}
		}
		if err != nil {
			why = append(why, fmt.Errorf("key %q: %w", id, err))
		}
	}
	return usable(out, why)
}

func certificateKey(raw []byte) (crypto.PublicKey, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil || !strings.HasPrefix(text, "-----BEGIN CERTIFICATE-----") {
		return nil, errors.New(`reading key: neither a set with "keys" nor a PEM certificate`)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("reading key: no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	return cert.PublicKey, nil
}

// Static reads an inline set (jwks of a rule), which never changes. Its errors are those of Parse.
func Static(text []byte) (jwt.Keys, error) {
	keys, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return fixed(keys), nil
}

type fixed []jwt.Key

func (f fixed) Keys() []jwt.Key              { return f }
func (f fixed) Refresh(context.Context) bool { return false }
