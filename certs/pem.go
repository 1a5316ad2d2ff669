package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxPEM is the most bytes of PEM that are read at once.
const MaxPEM = 1 << 20

const (
	certificateBlock = "CERTIFICATE"
	privateKeyBlock  = "PRIVATE KEY" // PKCS#8, RFC 7468 section 10
)

// ChainPEM writes certificates as PEM, in their order, each with its newline.
func ChainPEM(chain []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range chain {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c.Raw}))
	}
	return out.Bytes()
}

// ParseChainPEM reads at least one certificate from PEM of at most MaxPEM bytes. Any other block is an error, and so is
// text between or after the blocks that is not white space.
func ParseChainPEM(b []byte) ([]*x509.Certificate, error) {
	if len(b) > MaxPEM {
		return nil, fmt.Errorf("reading certificates: %d bytes of PEM, the limit is %d", len(b), MaxPEM)
	}
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(b); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, fmt.Errorf("reading certificates: block %d is preceded by something that is not PEM", len(out)+1)
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("reading certificates: block %d is not well-formed PEM", len(out)+1)
		}
		if block.Type != certificateBlock {
			return nil, fmt.Errorf("reading certificates: block %d is a %q", len(out)+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: block %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("reading certificates: no certificate in PEM")
	}
	return out, nil
}

// KeyPEM writes a private key as PKCS#8 PEM. The result is secret.
func KeyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateKeyBlock, Bytes: der}), nil
}

// ParseKeyPEM reads exactly one PKCS#8 private key. Its errors say nothing of the content.
func ParseKeyPEM(b []byte) (crypto.Signer, error) {
	if len(b) > MaxPEM {
		return nil, fmt.Errorf("reading private key: %d bytes of PEM, the limit is %d", len(b), MaxPEM)
	}
	block, rest := pem.Decode(b)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("reading private key: want exactly one PEM block")
	}
	if block.Type != privateKeyBlock {
		return nil, fmt.Errorf("reading private key: block is a %q, want %q", block.Type, privateKeyBlock)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("reading private key: not a PKCS#8 key")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading private key: a %T can't sign", key)
	}
	return signer, nil
}
