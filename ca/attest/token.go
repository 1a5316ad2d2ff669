package attest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MaxTokenBytes bounds a join token's text.
const MaxTokenBytes = 1024

const tokenPrefix = "st1."

// Token is a join token: st1.NAMESPACE/WORKLOAD.ROOTHASH.SECRET. It is read from the right, since names may hold dots;
// ROOTHASH and SECRET are 32 bytes each in unpadded base64url (RFC 4648 section 5).
type Token struct {
	// Namespace and Workload name the workload that it was minted for.
	Namespace, Workload string
	// RootSHA256 is the hash of the DER of the root that its bearer shall trust.
	RootSHA256 [sha256.Size]byte

	secret [32]byte
}

// ParseToken reads a token strictly. Errors never quote it.
func ParseToken(text string) (Token, error) {
	var t Token
	if len(text) > MaxTokenBytes {
		return t, fmt.Errorf("parsing join token: %d bytes, at most %d are read", len(text), MaxTokenBytes)
	}
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return t, fmt.Errorf("parsing join token: it does not begin with %q", tokenPrefix)
	}
	rest, secret, ok := cutLast(rest, ".")
	if !ok || !decode32(secret, &t.secret) {
		return t, errors.New("parsing join token: its last part is not 32 bytes in base64url")
	}
	rest, hash, ok := cutLast(rest, ".")
	if !ok || !decode32(hash, &t.RootSHA256) {
		return t, errors.New("parsing join token: its last part but one is not a SHA-256 in base64url")
	}
	if t.Namespace, t.Workload, ok = strings.Cut(rest, "/"); !ok || !isName(t.Namespace) || !isName(t.Workload) {
		return Token{}, errors.New("parsing join token: it does not name NAMESPACE/WORKLOAD")
	}
	return t, nil
}

// text is the token as it is handed out. It is secret.
func (t Token) text() string {
	enc := base64.RawURLEncoding
	return tokenPrefix + t.Namespace + "/" + t.Workload + "." + enc.EncodeToString(t.RootSHA256[:]) + "." + enc.EncodeToString(t.secret[:])
}

// String hides the secret.
func (t Token) String() string { return tokenPrefix + t.Namespace + "/" + t.Workload + ".…" }

// GoString hides the secret.
func (t Token) GoString() string { return t.String() }

// id is what the token is stored under: nobody who reads the store can redeem it.
func (t Token) id() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }

func newToken(namespace, workload string, root [sha256.Size]byte) (Token, error) {
	if !isName(namespace) || !isName(workload) {
		return Token{}, fmt.Errorf("minting join token: %q is not NAMESPACE/WORKLOAD", namespace+"/"+workload)
	}
	t := Token{Namespace: namespace, Workload: workload, RootSHA256: root}
	if _, err := rand.Read(t.secret[:]); err != nil {
		return Token{}, fmt.Errorf("minting join token: drawing secret: %w", err)
	}
	return t, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func decode32(s string, out *[32]byte) bool {
	enc := base64.RawURLEncoding.Strict()
	if len(s) != enc.EncodedLen(len(out)) { // the decoder passes over newlines
		return false
	}
	b, err := enc.DecodeString(s)
	return err == nil && len(b) == len(out) && copy(out[:], b) == len(out)
}

// isName takes Kubernetes object names: lower case letters, digits, '-' and '.', at most 253 (RFC 1123 subdomains).
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
