package authority

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca"
)

// ErrConflict is what Store.Swap returns, wrapped or not, when what is stored has another version than the caller knew.
var ErrConflict = errors.New("the stored state was changed by somebody else")

// Stored is the content of one Secret, or of what stands for one.
type Stored struct {
	// Version names this content for Swap; "" says that nothing is stored.
	Version string
	Files   map[string][]byte
}

// Source is a set of files that others may change. Safe for concurrent use.
type Source interface {
	// Load returns what is stored now: never what was stored before an earlier Load or Swap of anybody returned.
	Load(ctx context.Context) (Stored, error)
	// Watch sends to changed after each change (one signal may stand for several) and whenever changes may have been
	// missed; it never waits for the receiver. It blocks until ctx ends.
	Watch(ctx context.Context, changed chan<- struct{}) error
}

// Store is a Source that is written by compare and swap. Once Swap returned nil the files outlive any crash; after any
// other error than ErrConflict they may or may not have been stored.
type Store interface {
	Source
	// Swap stores files in place of the version old, "" to create; ErrConflict when that is not what is stored.
	Swap(ctx context.Context, old string, files map[string][]byte) error
}

// Recorder tells people what became of the CA, beside the log: kube/keystore writes Events. It must not block for long.
type Recorder interface {
	Record(ctx context.Context, warning bool, reason, message string)
}

// SharedOptions are what Share needs. TrustDomain and Store are required.
type SharedOptions struct {
	TrustDomain string
	// Store holds the root slots. The private key of a root of our own is there and nowhere else.
	Store Store
	// Plugged is where an operator's own CA is; nil, or one with nothing stored, means a root of our own.
	Plugged Source
	// Names are DNS names that the CA must be able to certify, for the control plane's own certificate.
	Names []string
	// LeafTTL is the longest lifetime of leaves: so long a root that is replaced goes on being trusted. Zero means ca.MaxTTL.
	LeafTTL time.Duration
	// Announce is how long the roots of a plugged-in CA are published, as next, before it signs: so long everybody has to learn of
	// them. Zero means 5 s.
	Announce time.Duration
	// IntermediateTTL and RootTTL are as in Options.
	IntermediateTTL, RootTTL time.Duration
	// Recorder is told what the log is told; nil tells nobody.
	Recorder Recorder
	Now      func() time.Time
	Log      *slog.Logger
}

// Shared is a signing authority that several processes share: they agree on the roots through a Store, and each signs
// with an intermediate of its own, whose key is in its memory only (or with an operator's own CA, where its path length
// forbids that). It is a ca.Keys and a prometheus.Collector. Safe for concurrent use.
type Shared struct {
	opts  SharedOptions
	inUse atomic.Pointer[inUse]

	// Of Share, and then of Run's goroutine.
	refused string // what was last said of a refused CA

	mu      sync.Mutex    // guards what follows
	changed chan struct{} // closed when the roots changed
	tally   tally
}

// inUse is all that signs and is trusted at one moment. Immutable.
type inUse struct {
	slot  *slot
	slots slots
	// operator is the plugged-in CA, nil for a root of our own.
	operator *plugged
	// issuer is the certificate that the intermediate was made under, or that signs leaves itself.
	issuer *x509.Certificate
	// renew is when to make a new intermediate, zero if that would not live longer.
	renew time.Time
}

// announceFor is some times what it takes until every sidecar that is connected has a root: slots, replicas and ADS follow within a
// second. Who was not connected learns of it when it connects.
const announceFor = 5 * time.Second

// conflicts is how often a lost race is run again before it is an error.
const conflicts = 16

// Share reads the slots, makes the root if there is none, and makes this process's intermediate. A plugged-in CA that
// can't be used is a *PluggedError: nothing is signed by anything else then.
func Share(ctx context.Context, opts SharedOptions) (*Shared, error) {
	if opts.Store == nil {
		return nil, errors.New("sharing CA: a store must be given")
	}
	local := Options{IntermediateTTL: opts.IntermediateTTL, RootTTL: opts.RootTTL, Now: opts.Now, Log: opts.Log}
	if err := checkOptions(opts.TrustDomain, &local); err != nil {
		return nil, fmt.Errorf("sharing CA: %w", err)
	}
	opts.IntermediateTTL, opts.RootTTL, opts.Now, opts.Log = local.IntermediateTTL, local.RootTTL, local.Now, local.Log
	opts.LeafTTL, opts.Announce = cmp.Or(opts.LeafTTL, ca.MaxTTL), cmp.Or(opts.Announce, announceFor)
	quiet()
	s := &Shared{opts: opts, changed: make(chan struct{})}
	if err := s.reload(ctx); err != nil {
		var bad *PluggedError
		if errors.As(err, &bad) {
			s.tell(ctx, true, "PluggedCARefused", err.Error()+"; the control plane does not start without it")
		}
		return nil, fmt.Errorf("sharing CA: %w", err)
	}
	return s, nil
}

// Current implements ca.Keys.
func (s *Shared) Current() ca.Key { return s.inUse.Load().slot }

// Roots are all certificates that relying parties trust.
func (s *Shared) Roots() []*x509.Certificate { return s.inUse.Load().slot.roots }

// Watch returns the roots and a channel that is closed when they have been replaced.
func (s *Shared) Watch() ([]*x509.Certificate, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Roots(), s.changed
}

// Run follows changes of the slots and of the plugged-in CA, renews the intermediate at two thirds of its life, and drops
// roots that have retired, until ctx ends. What can't be read or used is logged and tried again; what is in use stays.
func (s *Shared) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.opts.Store.Watch(ctx, changed) })
	if s.opts.Plugged != nil {
		g.Go(func() error { return s.opts.Plugged.Watch(ctx, changed) })
	}
	g.Go(func() error {
		s.follow(ctx, changed)
		return nil
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("following the CA's state: %w", err)
	}
	return nil
}

// Bounds of the wait after a reload that failed; it doubles.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

func (s *Shared) follow(ctx context.Context, changed <-chan struct{}) {
	retry := firstRetry
	for {
		err := s.reload(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := retry
		if err == nil {
			wait, retry = s.wait(), firstRetry
			s.refused = ""
			s.count(func(t *tally) { t.refused = "" })
		} else {
			s.failed(ctx, err)
			retry = min(2*retry, lastRetry)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// wait is how long nothing is due: an hour at most, since clocks are set.
func (s *Shared) wait() time.Duration {
	use, wait := s.inUse.Load(), time.Hour
	for _, at := range []time.Time{use.renew, use.slots.nextEnd()} {
		if !at.IsZero() {
			wait = min(wait, max(at.Sub(s.opts.Now()), 100*time.Millisecond))
		}
	}
	return wait
}

// failed says once what is wrong with a plugged-in CA, and every time what else went wrong.
func (s *Shared) failed(ctx context.Context, err error) {
	var bad *PluggedError
	if !errors.As(err, &bad) {
		s.opts.Log.Warn("reading the CA's state failed, the one in use goes on", "error", err)
		s.count(func(t *tally) { t.failures++ })
		return
	}
	if s.refused == bad.Error() {
		return
	}
	s.refused = bad.Error()
	s.count(func(t *tally) { t.refuse(bad.Reason) })
	s.tell(ctx, true, "PluggedCARefused", bad.Error()+"; the one in use goes on")
}

func (s *Shared) tell(ctx context.Context, warning bool, reason, message string) {
	if warning {
		s.opts.Log.Error(message, "reason", reason)
	} else {
		s.opts.Log.Info(message, "reason", reason)
	}
	if s.opts.Recorder != nil {
		s.opts.Recorder.Record(ctx, warning, reason, message)
	}
}
