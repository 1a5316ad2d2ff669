package rotate

import (
	"crypto"
	"crypto/x509"
)

// Store keeps what a restart must not lose. It is used from one goroutine only.
type Store interface {
	// Load gives what was saved last, nil when nothing was.
	Load() (*Stored, error)
	// Save replaces all of it at once: after a crash Load gives the old or the new, never a mixture. It has reached the
	// disk when Save returns.
	Save(*Stored) error
}

// Stored is a workload's material at rest.
type Stored struct {
	// JoinKey is the key of the first CSR.
	JoinKey crypto.Signer
	// Key belongs to Chain[0]. Key, Chain and Roots are nil as long as no certificate was issued.
	Key          crypto.Signer
	Chain, Roots []*x509.Certificate
}
