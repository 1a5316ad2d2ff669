package sds

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/certs"
)

// NewSet maps a snapshot to its secrets. The error is ErrNoCertificate before the first certificate.
func NewSet(snapshot *certs.Snapshot) (*Set, error) {
	if snapshot == nil || snapshot.SVID == nil {
		return nil, ErrNoCertificate
	}
	svid := snapshot.SVID
	chain, key, err := svid.PEM()
	if err != nil {
		return nil, fmt.Errorf("preparing secrets of %q: %w", svid.ID, err)
	}
	own := Secret{Kind: Certificate, Version: digest("certificate", chain), Chain: chain, Key: key}
	s := &Set{secrets: []Secret{own.named(DefaultName), own.named(svid.ID.String())}}
	td := svid.ID.TrustDomain()
	if bundle := snapshot.Bundles[td]; bundle != nil {
		roots := bundle.PEM()
		validation := Secret{Kind: Validation, Version: digest("validation", roots), Roots: roots}
		s.secrets = append(s.secrets, validation.named(RootCAName), validation.named("spiffe://"+td))
	}
	slices.SortFunc(s.secrets, byName)
	return s, nil
}

func (s Secret) named(name string) Secret {
	s.Name = name
	return s
}

func byName(a, b Secret) int { return strings.Compare(a.Name, b.Name) }

// Get gives one secret by its name.
func (s *Set) Get(name string) (Secret, bool) {
	i, ok := slices.BinarySearchFunc(s.secrets, Secret{Name: name}, byName)
	if !ok {
		return Secret{}, false
	}
	return s.secrets[i], true
}

// Select gives the secrets of the names asked for, each once, in order of name; no names at all means everything. Where
// names don't exist the rest is still given, along with an *UnknownError.
func (s *Set) Select(names []string) ([]Secret, error) {
	if len(names) == 0 {
		return slices.Clone(s.secrets), nil
	}
	var out []Secret
	var unknown UnknownError
	asked := make(map[string]bool, len(names))
	for _, name := range names {
		if asked[name] {
			continue
		}
		asked[name] = true
		if secret, ok := s.Get(name); ok {
			out = append(out, secret)
		} else {
			unknown.Names = append(unknown.Names, name)
		}
	}
	slices.SortFunc(out, byName)
	if len(unknown.Names) > 0 {
		return out, &unknown
	}
	return out, nil
}

// Version is that of a selection: it changes when a name comes or goes or a content changes.
func Version(secrets []Secret) string {
	parts := make([][]byte, 0, 2*len(secrets))
	for _, s := range secrets {
		parts = append(parts, []byte(s.Name), []byte(s.Version))
	}
	return digest("set", parts...)
}

// digest is the version of a content. A certificate stands for its key, which therefore needs no hashing.
func digest(kind string, parts ...[]byte) string {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(kind)}, parts...) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
