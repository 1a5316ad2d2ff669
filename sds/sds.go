// Package sds says which secrets exist under which resource name for one workload, from its certificate source. It knows
// nothing of the wire.
package sds

import (
	"errors"
	"strings"

	"github.com/signet-mesh/signet/certs"
)

// The names that need no knowledge of the workload, as Istio's and SPIRE's agents serve them.
const (
	DefaultName = "default" // the workload's own certificate and key
	RootCAName  = "ROOTCA"  // the roots of its own trust domain
)

// Kind is what a secret is.
type Kind uint8

// The kinds.
const (
	Certificate Kind = iota + 1 // Chain and Key
	Validation                  // Roots
)

// Secret is one named piece of material, all PEM. Immutable.
type Secret struct {
	Name string
	Kind Kind
	// Version changes when, and only when, the content does.
	Version string
	// Chain is leaf first; Key is PKCS#8 and secret.
	Chain, Key []byte
	// Roots are those of the trust domain.
	Roots []byte
}

// ErrNoCertificate says that nothing exists yet under any name: the workload has no certificate.
var ErrNoCertificate = errors.New("workload has no certificate yet")

// UnknownError names what was asked for and doesn't exist.
type UnknownError struct {
	// Names in the order asked for, each once.
	Names []string
}

// Error implements error.
func (e *UnknownError) Error() string {
	return "no secret of name \"" + strings.Join(e.Names, "\", \"") + "\""
}

// Set is every secret of one snapshot. Immutable.
type Set struct {
	secrets []Secret // in order of name
}

// NewSet maps a snapshot to its secrets. The error is ErrNoCertificate before the first certificate.
func NewSet(snapshot *certs.Snapshot) (*Set, error) {
	return newSet(snapshot)
}

// Select gives the secrets of the names asked for, each once, in order of name; no names at all means everything. Where
// names don't exist the rest is still given, along with an *UnknownError.
func (s *Set) Select(names []string) ([]Secret, error) { return s.pick(names) }

// Version is that of a selection: it changes when a name comes or goes or a content changes.
func Version(secrets []Secret) string { return combined(secrets) }
