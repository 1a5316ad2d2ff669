// Package authority holds a trust domain's signing keys: a self-signed root and the intermediate that signs leaves, in
// a state directory on disk. Both are made and used through cfssl's signer.
//
// The directory, which is 0700 and locked by the process that has it open:
//
//	lock            flock; holds the process id of its owner
//	trust-domain    the trust domain's name
//	root-key.pem    root-cert.pem    ECDSA P-256, 10 years
//	ca-key.pem      ca-cert.pem      the signing intermediate, ECDSA P-256, 1 year, renewed by itself at two thirds
//	ca-key-next.pem                  the key of an intermediate that is being put in place
//	tokens/                          ca/attest's
//
// All files are 0600 and written at once or not at all. The order of writing is trust-domain, root-key, root-cert,
// ca-key-next, ca-cert, and last ca-key-next renamed to ca-key, so that whatever is there after a crash says where to go
// on; anything that no crash leaves behind is an error that names the file.
package authority

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/identity"
)

// Lifetimes of signing certificates.
const (
	DefaultRootTTL         = 10 * 365 * 24 * time.Hour
	DefaultIntermediateTTL = 365 * 24 * time.Hour
)

// Options of Open. The zero value is fine but for Log.
type Options struct {
	// IntermediateTTL is the signing intermediate's lifetime; zero means DefaultIntermediateTTL, more than that is refused.
	IntermediateTTL time.Duration
	// RootTTL is the root's lifetime, used on first start only; zero means DefaultRootTTL.
	RootTTL time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log is told of keys that are made and renewals that fail; nil means nobody is.
	Log *slog.Logger
}

// Authority is an open state directory. Safe for concurrent use.
type Authority struct {
	dir     directory
	td      string
	opts    Options
	lock    *os.File
	root    pair
	signing atomic.Pointer[slot]
}

// Open locks the state directory, makes what a first start must make, finishes what a crash cut short, and checks all
// that is there. It is refused when another process has the directory, and when it belongs to another trust domain.
// Close must be called to give the lock back.
func Open(dir, trustDomain string, opts Options) (*Authority, error) {
	if err := checkOptions(trustDomain, &opts); err != nil {
		return nil, fmt.Errorf("opening CA state %q: %w", dir, err)
	}
	quiet()
	d := directory(dir)
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("opening CA state %q: %w", dir, err)
	}
	lock, err := d.lock()
	if err != nil {
		return nil, fmt.Errorf("opening CA state %q: %w", dir, err)
	}
	a := &Authority{dir: d, td: trustDomain, opts: opts, lock: lock}
	if err := a.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening CA state %q: %w", dir, err), lock.Close())
	}
	return a, nil
}

func checkOptions(trustDomain string, opts *Options) error {
	if id, err := identity.ControlPlane(trustDomain); err != nil || id.TrustDomain() != trustDomain {
		return fmt.Errorf("%q is no trust domain's name", trustDomain)
	}
	if opts.IntermediateTTL == 0 {
		opts.IntermediateTTL = DefaultIntermediateTTL
	}
	if opts.RootTTL == 0 {
		opts.RootTTL = DefaultRootTTL
	}
	if opts.IntermediateTTL < time.Second || opts.IntermediateTTL > DefaultIntermediateTTL {
		return fmt.Errorf("lifetime %v of the intermediate must be 1s to %v", opts.IntermediateTTL, DefaultIntermediateTTL)
	}
	if opts.RootTTL < opts.IntermediateTTL {
		return fmt.Errorf("lifetime %v of the root is less than the intermediate's %v", opts.RootTTL, opts.IntermediateTTL)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Close gives the directory back. The Authority signs on until it is dropped; it renews no more.
func (a *Authority) Close() error {
	if err := a.lock.Close(); err != nil {
		return fmt.Errorf("closing CA state %q: %w", string(a.dir), err)
	}
	return nil
}

// TrustDomain is the domain that the root belongs to.
func (a *Authority) TrustDomain() string { return a.td }

// RootSHA256 is the hash of the root's DER, as join tokens carry it.
func (a *Authority) RootSHA256() [sha256.Size]byte { return sha256.Sum256(a.root.cert.Raw) }

// Roots are the certificates that relying parties trust.
func (a *Authority) Roots() []*x509.Certificate { return []*x509.Certificate{a.root.cert} }

// Chain is the signing certificate and what is between it and the root, without the root.
func (a *Authority) Chain() []*x509.Certificate { return slices.Clone(a.signing.Load().chain) }

// Current is the key that signs now. It makes an Authority the ca.Keys that ca.New wants.
func (a *Authority) Current() ca.Key { return a.signing.Load() }

// Run renews the intermediate at two thirds of its life, so that a leaf can always be given the lifetime that is asked
// for (a third of a year is more than ca.MaxTTL). A renewal that fails is logged and tried again. It returns when ctx
// ends, with nil.
func (a *Authority) Run(ctx context.Context) error {
	for {
		cert := a.signing.Load().by.cert
		wait := renewAt(cert).Sub(a.opts.Now())
		if wait <= 0 {
			if err := a.renew(); err != nil {
				a.opts.Log.Error("renewing signing certificate failed", "err", err, "not_after", cert.NotAfter)
				wait = min(time.Minute, a.opts.IntermediateTTL/20)
			}
		}
		timer := time.NewTimer(min(max(wait, 0), time.Hour)) // an hour, since clocks are set
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// renewAt is two thirds into the life of a certificate.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// renew puts a new intermediate, with a new key, in the place of the present one.
func (a *Authority) renew() error {
	p, err := a.makeIntermediate()
	if err != nil {
		return fmt.Errorf("renewing signing certificate: %w", err)
	}
	if err := a.dir.saveIntermediate(p); err != nil {
		return fmt.Errorf("renewing signing certificate: %w", err)
	}
	return a.activate(p)
}

func (a *Authority) activate(p pair) error {
	s, err := newSlot(p.issuer(), nil, a.Roots())
	if err != nil {
		return err
	}
	a.signing.Store(s)
	return nil
}
