// Package ca issues X509-SVIDs. It knows what a certificate of ours looks like, who may have one, and what is written
// down about it; it holds no key (ca/authority does) and does not know how a caller proved itself (ca/attest does).
//
// Issuance is a row of proofs, each the only thing that the next step takes:
//
//	Judge(csr, ttl) -> *Request    the key and the lifetime asked for can be served at all
//	Prepare(caller, request) -> *Prepared    this caller may have that, under this identity
//	Issue(prepared) -> *Certificate    signed, and judged again by code that shares nothing with the signer
package ca

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// Lifetimes of a workload's certificate.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 90 * 24 * time.Hour
	// MaxBackdate bounds how far before the present NotBefore is put, for clocks that are slow. A tenth of the lifetime
	// bounds it too.
	MaxBackdate = 2 * time.Minute
)

// Caller is somebody who has proven an identity. The zero value is nobody, and gets nothing.
type Caller struct {
	ID identity.ID
	// Proof says how, for the audit record: "join-token", "service-account-token", "client-certificate".
	Proof string
	// From is the network address that the request came from, for the audit record; may be "".
	From string
}

// Leaf is what a Key is asked to sign. Nothing of the CSR but its public key may reach the certificate.
type Leaf struct {
	ID identity.ID
	// DNS are further subject alternative names; only the control plane's own certificate has any.
	DNS []string
	// CSR is the PEM that Judge took. Its signature has not been checked yet: the Key does that, once.
	CSR                 []byte
	Serial              *big.Int
	NotBefore, NotAfter time.Time
	// KeyEncipherment is asked for RSA keys only.
	KeyEncipherment bool
}

// Key is a signing key with the certificates that go with it. Immutable, and safe for concurrent use.
type Key interface {
	// Chain is the issuing certificate and whatever is between it and the root, without the root. Never empty.
	Chain() []*x509.Certificate
	// Roots are all roots that a relying party shall trust at the moment.
	Roots() []*x509.Certificate
	// SignLeaf checks the CSR's signature and signs; it returns DER. A CSR that isn't signed by its own key is a
	// *CSRError.
	SignLeaf(leaf Leaf) ([]byte, error)
}

// Keys says which key signs now. Safe for concurrent use.
type Keys interface {
	Current() Key
}

// Options are what New needs. TrustDomain, Keys and Log are required.
type Options struct {
	TrustDomain string
	Keys        Keys
	// Log receives the audit records.
	Log *slog.Logger
	// ControlPlaneNames are the DNS names that the control plane's own certificate carries beside its SPIFFE ID, for clients
	// that verify names (the API server that calls webhooks). No other certificate has a DNS name.
	ControlPlaneNames []string
	// DefaultTTL is given where none was asked for; zero means the constant DefaultTTL.
	DefaultTTL time.Duration
	// MaxTTL is the longest that may be asked for; zero means the constant MaxTTL.
	MaxTTL time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Rand is where serials come from; nil means crypto/rand.
	Rand io.Reader
}

// CA issues certificates of one trust domain. Safe for concurrent use.
type CA struct {
	opts         Options
	controlPlane identity.ID
}

// New checks the options and builds a CA.
func New(opts Options) (*CA, error) {
	if opts.Keys == nil || opts.Log == nil {
		return nil, errors.New("building CA: keys and log must be given")
	}
	cp, err := identity.ControlPlane(opts.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("building CA: %w", err)
	}
	if opts.DefaultTTL == 0 {
		opts.DefaultTTL = DefaultTTL
	}
	if opts.MaxTTL == 0 {
		opts.MaxTTL = MaxTTL
	}
	if opts.DefaultTTL < 0 || opts.MaxTTL < opts.DefaultTTL {
		return nil, fmt.Errorf("building CA: default lifetime %v must be positive and at most the maximum %v", opts.DefaultTTL, opts.MaxTTL)
	}
	if err := checkNames(opts.ControlPlaneNames); err != nil {
		return nil, fmt.Errorf("building CA: %w", err)
	}
	opts.ControlPlaneNames = slices.Clone(opts.ControlPlaneNames)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	return &CA{opts: opts, controlPlane: cp}, nil
}

// maxNames bounds Options.ControlPlaneNames.
const maxNames = 16

// checkNames wants DNS names in lower case (RFC 1123 labels, at most 253 bytes), each once.
func checkNames(names []string) error {
	if len(names) > maxNames {
		return fmt.Errorf("%d names of the control plane, at most %d are taken", len(names), maxNames)
	}
	for i, name := range names {
		ok := len(name) <= 253
		for label := range strings.SplitSeq(name, ".") {
			ok = ok && len(label) > 0 && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-' &&
				strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
		}
		last := name[strings.LastIndexByte(name, '.')+1:]
		if !ok || strings.Trim(last, "0123456789") == "" || slices.Contains(names[:i], name) {
			return fmt.Errorf("name %q of the control plane is no DNS name in lower case, or is there twice", name)
		}
	}
	return nil
}

// TrustDomain is the domain whose certificates are issued here.
func (c *CA) TrustDomain() string { return c.opts.TrustDomain }

// Key is the key that signs at the moment.
func (c *CA) Key() Key { return c.opts.Keys.Current() }

// CSRError says what is wrong with a certificate request. Its text may be told to the caller.
type CSRError struct{ Reason string }

func (e *CSRError) Error() string { return "judging certificate request: " + e.Reason }

// TTLError says that a lifetime was asked for that is not given. Its text may be told to the caller.
type TTLError struct{ Asked, Max time.Duration }

func (e *TTLError) Error() string {
	return fmt.Sprintf("judging lifetime: %v asked for, at most %v is given", e.Asked, e.Max)
}

// ErrNotEntitled is wrapped by errors that say that a caller may not have a certificate, whatever it proved.
var ErrNotEntitled = errors.New("caller is not entitled to a certificate")
