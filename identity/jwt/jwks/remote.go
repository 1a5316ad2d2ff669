package jwks

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/identity/jwt"
)

// How often, and how long.
const (
	// DefaultTimeout bounds one fetch, discovery included (timeout of a JWTRule, whose default it is).
	DefaultTimeout = 5 * time.Second
	// DefaultInterval is how often a set is fetched whose answer has no Cache-Control max-age; max-age counts within
	// MinInterval and MaxInterval.
	DefaultInterval = 20 * time.Minute
	MinInterval     = time.Minute
	MaxInterval     = time.Hour
	// RefreshGap is the least time between the start of a fetch and of one that a token with an unknown key asks for.
	RefreshGap = 10 * time.Second
	// RefreshWait is how long after the start of a fetch requests wait for its end, the very first one included.
	RefreshWait = 2 * time.Second
	// firstRetry and lastRetry bound the wait after a failed fetch, which doubles.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Config says where an issuer's keys are.
type Config struct {
	// Issuer is the rule's issuer.
	Issuer string
	// URL is jwksUri; "" finds it by OpenID Connect discovery from the issuer.
	URL string
	// Timeout bounds one fetch; 0 is DefaultTimeout.
	Timeout time.Duration
	// StateDir is where the last good set is kept over restarts; "" keeps it in memory only.
	StateDir string
	// Roots are the CAs of https servers; nil are the system's.
	Roots *x509.CertPool
	// Log hears of sets that change, and of fetches that begin or cease to fail; nil says nothing.
	Log *slog.Logger
}

// Remote is a set that is fetched from its issuer. Each has a goroutine and connections of its own, so that an issuer that hangs
// holds up nobody who asks for another one's keys. Safe for concurrent use.
type Remote struct {
	issuer, url string
	timeout     time.Duration
	gap, wait   time.Duration // RefreshGap and RefreshWait
	client      *http.Client
	state       store
	log         *slog.Logger

	current atomic.Pointer[set]
	wake    chan struct{}

	mu       sync.Mutex
	running  *attempt  // mu; the fetch that is asked for or under way
	started  time.Time // mu; of the last one
	failure  error     // mu; of the last one
	fetched  time.Time // mu; of the last good one
	resolved string    // mu; where it was
}

// set is what was fetched. Immutable.
type set struct {
	text []byte
	keys []jwt.Key
}

// attempt is one fetch.
type attempt struct {
	until time.Time     // requests wait no longer
	done  chan struct{} // closed at its end
}

// NewRemote builds a Remote that has no keys before Run runs.
func NewRemote(c Config) (*Remote, error) {
	if c.URL == "" && c.Issuer == "" {
		return nil, fmt.Errorf("finding keys: neither issuer nor jwksUri is set")
	}
	from := c.URL
	if from == "" {
		from = c.Issuer
	}
	if _, err := parseURL(from); err != nil {
		return nil, fmt.Errorf("finding keys of issuer %q: %w", c.Issuer, err)
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	return &Remote{
		issuer: c.Issuer, url: c.URL, timeout: c.Timeout, gap: RefreshGap, wait: RefreshWait, client: newClient(c.Roots), log: log,
		state: newStore(c.StateDir, c.Issuer, c.URL), wake: make(chan struct{}, 1),
	}, nil
}

// Keys implements jwt.Keys: what was fetched last, however long ago. It is one atomic load.
func (r *Remote) Keys() []jwt.Key {
	if s := r.current.Load(); s != nil {
		return s.keys
	}
	return nil
}

// Refresh implements jwt.Keys: all who ask share one fetch, which begins no sooner than RefreshGap after the last one began, and
// wait for it no longer than RefreshWait after its beginning.
func (r *Remote) Refresh(ctx context.Context) bool {
	before := r.current.Load()
	if a := r.ask(time.Now()); a != nil {
		timer := time.NewTimer(time.Until(a.until))
		defer timer.Stop()
		select {
		case <-a.done:
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return r.current.Load() != before
}

// ask gives the fetch under way, or one that it asks Run for; nil if it is too soon for another one.
func (r *Remote) ask(now time.Time) *attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running != nil {
		return r.running
	}
	if !r.started.IsZero() && now.Sub(r.started) < r.gap {
		return nil
	}
	r.begin(now)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return r.running
}

// begin wants mu.
func (r *Remote) begin(now time.Time) {
	r.running = &attempt{until: now.Add(r.wait), done: make(chan struct{})}
	r.started = now
}

// Run reads the set kept from before, then fetches until ctx ends.
func (r *Remote) Run(ctx context.Context) error {
	defer r.client.CloseIdleConnections()
	r.recall()
	retry := firstRetry
	for {
		next, err := r.fetchOnce(ctx)
		if err != nil {
			next, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		// A tenth more or less, so that many sidecars that began together don't ask together for ever.
		timer := time.NewTimer(next - next/10 + rand.N(next/5))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// recall takes the set of an earlier run, if there is one that is still good.
func (r *Remote) recall() {
	text, at, err := r.state.load()
	if err == nil && text == nil {
		return
	}
	var keys []jwt.Key
	if err == nil {
		keys, err = Parse(text)
	}
	if err != nil {
		r.log.Warn("reading kept keys of token issuer", "issuer", r.issuer, "error", err)
		return
	}
	r.mu.Lock()
	r.fetched = at
	r.mu.Unlock()
	r.current.Store(&set{text, keys})
}

// keep is for the next run; without it there is only no head start.
func (r *Remote) keep(text []byte) {
	if err := r.state.save(text, time.Now()); err != nil {
		r.log.Warn("keeping keys of token issuer", "issuer", r.issuer, "error", err)
	}
}

// fetchOnce is one fetch, asked for or not. It gives the time until the next one.
func (r *Remote) fetchOnce(ctx context.Context) (time.Duration, error) {
	r.mu.Lock()
	if r.running == nil {
		r.begin(time.Now())
	}
	a := r.running
	select {
	case <-r.wake: // it is answered now, if the timer was first
	default:
	}
	r.mu.Unlock()

	bound, cancel := context.WithTimeout(ctx, r.timeout)
	got, err := r.fetch(bound)
	cancel()
	if err == nil {
		err = r.take(got)
	}

	r.mu.Lock()
	failed := r.failure != nil
	r.running, r.failure = nil, err
	if got.url != "" {
		r.resolved = got.url
	}
	if err == nil {
		r.fetched = time.Now()
	}
	r.mu.Unlock()
	close(a.done)

	switch {
	case err != nil && !failed && ctx.Err() == nil:
		r.log.Warn("fetching keys of token issuer; the last good ones go on", "issuer", r.issuer, "keys", len(r.Keys()), "error", err)
	case err == nil && failed:
		r.log.Info("keys of token issuer can be fetched again", "issuer", r.issuer)
	}
	if err == nil {
		r.keep(got.text)
	}
	return got.interval, err
}

// take puts a set in force, if it is another one.
func (r *Remote) take(got answer) error {
	old := r.current.Load()
	if old == nil || !bytes.Equal(old.text, got.text) {
		keys, err := Parse(got.text)
		if err != nil {
			return err
		}
		r.current.Store(&set{got.text, keys})
		r.log.Info("keys of token issuer", "issuer", r.issuer, "url", shown(got.url), "keys", len(keys))
	}
	return nil
}

// Status is what the admin page shows of a Remote.
type Status struct {
	Issuer string
	URL    string // where the keys are, without query; "" before discovery
	KeyIDs []string
	// Fetched is when the set in force was last confirmed by its issuer; zero if it never was.
	Fetched time.Time
	// Attempted is when the last fetch began, Error why it failed.
	Attempted time.Time
	Error     string
}

// Status tells how the set is.
func (r *Remote) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Status{Issuer: r.issuer, URL: shown(r.url), Fetched: r.fetched, Attempted: r.started}
	if r.url == "" {
		out.URL = shown(r.resolved)
	}
	if r.failure != nil {
		out.Error = r.failure.Error()
	}
	for _, k := range r.Keys() {
		out.KeyIDs = append(out.KeyIDs, k.ID)
	}
	return out
}

// shown is a URL without what may be secret in it.
func shown(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
