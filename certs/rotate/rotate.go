// Package rotate keeps one workload's certificate fresh: it makes the keys, asks an Issuer, judges what comes back, and
// is the certs.Source of everything in the process that proves itself with it.
package rotate

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

// Issuer gets a certificate for a CSR (PEM) from a CA; ca/caclient is one. ttl is the lifetime wished for, 0 for the CA's
// default. current is the snapshot in use: its SVID is nil before the first certificate and may have expired, and the
// Issuer decides what it proves itself with. Issue is never called twice at once and honours ctx.
type Issuer interface {
	Issue(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error)
}

// Config is what a Rotator needs.
type Config struct {
	Issuer Issuer
	// Log gets every renewal and failure; never a key. Required.
	Log *slog.Logger
	// TTL is the lifetime to ask for, 0 for the CA's default.
	TTL time.Duration
	// ID is who the certificate must name, the first and a stored one included. Zero: the first one decides.
	ID identity.ID
	// Store keeps key and certificates over restarts; nil keeps them in memory only.
	Store Store
	// Now is the clock, nil for time.Now.
	Now func() time.Time
	// OnChange is called after each swap, from Run's goroutine; nil for none. It must not block for long.
	OnChange func(*certs.Snapshot)
}

// Status is how renewal goes, for metrics and status pages.
type Status struct {
	// NotBefore and NotAfter are those of the certificate in use, zero while there is none.
	NotBefore, NotAfter time.Time
	// NextAttempt is when the Issuer will be asked next, zero while it is being asked.
	NextAttempt time.Time
	// LastError is that of the latest attempt, nil when it succeeded.
	LastError error
	// Failures counts failed attempts since the last success, Renewals the certificates obtained since the start.
	Failures, Renewals int
}

// Rotator is a certs.Source that renews itself while Run runs.
type Rotator struct {
	cfg  Config
	cell certs.Cell

	// Of Run's goroutine alone.
	joinKey crypto.Signer // of the first CSR ever: a join token is bound to it
	nextKey crypto.Signer // of the CSR under way; one certificate, one key

	mu     sync.Mutex // guards status
	status Status

	trust  sync.Mutex // guards what follows, and holds off other changes of cell
	issued *certs.Bundle
	told   []*x509.Certificate
}

// New checks the configuration; nothing is read, made or asked before Run.
func New(cfg Config) (*Rotator, error) {
	switch {
	case cfg.Issuer == nil:
		return nil, errors.New("making rotator: no issuer")
	case cfg.Log == nil:
		return nil, errors.New("making rotator: no log")
	case cfg.TTL < 0:
		return nil, errors.New("making rotator: TTL is negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Rotator{cfg: cfg}, nil
}

// Current implements certs.Source.
func (r *Rotator) Current() *certs.Snapshot { return r.cell.Current() }

// Watch implements certs.Source.
func (r *Rotator) Watch() (*certs.Snapshot, <-chan struct{}) { return r.cell.Watch() }

// Status is how renewal goes at this moment. Safe for concurrent use.
func (r *Rotator) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Trust adds the roots that the control plane says the trust domain is verified by now: a root that will sign is trusted before
// the certificate at hand is renewed. They replace those of the call before; those that came with the certificate stay. Safe
// for concurrent use.
func (r *Rotator) Trust(roots []*x509.Certificate) error {
	r.trust.Lock()
	defer r.trust.Unlock()
	if slices.EqualFunc(roots, r.told, (*x509.Certificate).Equal) {
		return nil
	}
	if r.issued == nil {
		r.told = roots
		return nil
	}
	bundle, err := certs.NewBundle(r.issued.TrustDomain(), slices.Concat(r.issued.Roots(), roots))
	if err != nil {
		return err
	}
	r.told = roots
	current := r.cell.Current()
	if current.Bundles[bundle.TrustDomain()].Equal(bundle) {
		return nil
	}
	bundles := maps.Clone(current.Bundles)
	bundles[bundle.TrustDomain()] = bundle
	snapshot := r.cell.Set(current.SVID, bundles)
	r.cfg.Log.Info("roots in use", "trust_domain", bundle.TrustDomain(), "roots", len(bundle.Roots()), "generation", snapshot.Generation)
	return nil
}

func (r *Rotator) update(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.status)
}

// now is the wall clock: without its monotonic part a certificate also ages while a machine sleeps.
func (r *Rotator) now() time.Time { return r.cfg.Now().Round(0) }
