// Package sds says which secrets exist under which resource name for one workload, from its certificate source. It knows
// nothing of the wire.
package sds

import (
	"errors"
	"strings"
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
