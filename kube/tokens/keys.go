package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

// How often the keys are fetched, and how long a fetch is waited for.
const (
	fetchEvery = 5 * time.Minute
	// fetchGap is the least time between the starts of two fetches, whoever asks.
	fetchGap = 5 * time.Second
	// firstRetry and lastRetry bound the wait after a failed fetch, which doubles.
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
	// fetchWait is how long a token waits for one.
	fetchWait = 2 * time.Second
	// keepTime is how long a key or issuer that is not published any more is believed. Several API servers may answer, and
	// while their keys are rotated they don't answer alike.
	keepTime = time.Hour
)

// keys are the API servers' issuers and public keys, fetched with the control plane's own credentials; what was fetched last
// is good until there is something newer, and what that lacks for keepTime more. It is a jwt.Keys.
type keys struct {
	client kubernetes.Interface
	log    *slog.Logger
	last   atomic.Pointer[keySet]
	wake   chan struct{}

	mu      sync.Mutex    // guards what follows
	started time.Time     // of the last fetch
	done    chan struct{} // closed when the fetch that is asked for or under way ends; nil if there is none
}

func newKeys(client kubernetes.Interface, log *slog.Logger) *keys {
	return &keys{client: client, log: log, wake: make(chan struct{}, 1)}
}

// now is the set that is believed now, nil before the first fetch.
func (k *keys) now() *keySet {
	s := k.last.Load()
	if at := s.at(time.Now()); at != s {
		k.last.CompareAndSwap(s, at) // else there is a newer one, for who asks next
		return at
	}
	return s
}

// Keys implements jwt.Keys.
func (k *keys) Keys() []jwt.Key {
	if s := k.now(); s != nil {
		return s.keys
	}
	return nil
}

// Refresh implements jwt.Keys: all who ask share one fetch, at most one in fetchGap begins.
func (k *keys) Refresh(ctx context.Context) bool {
	before := k.last.Load()
	if done := k.ask(); done != nil {
		timer := time.NewTimer(fetchWait)
		defer timer.Stop()
		select {
		case <-done:
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return k.last.Load() != before
}

// issuers waits for the first fetch.
func (k *keys) issuers(ctx context.Context) []string {
	if k.last.Load() == nil {
		k.Refresh(ctx)
	}
	if s := k.now(); s != nil {
		return s.issuers
	}
	return nil
}

// ask gives the end of the fetch under way, or of one that it asks run for; nil if it is too soon for one.
func (k *keys) ask() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done != nil {
		return k.done
	}
	if !k.started.IsZero() && time.Since(k.started) < fetchGap {
		return nil
	}
	k.done = make(chan struct{})
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return k.done
}

// begin is called by run, before a fetch that nobody may have asked for.
func (k *keys) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.started = time.Now()
	if k.done == nil {
		k.done = make(chan struct{})
	}
}

func (k *keys) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.done)
	k.done = nil
}

// run fetches until ctx ends.
func (k *keys) run(ctx context.Context) error {
	retry := firstRetry
	for {
		k.begin()
		err := k.fetch(ctx)
		k.end()
		wait := fetchEvery - fetchEvery/10 + rand.N(fetchEvery/5)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("fetching the API server's token keys failed, the last ones stay", "error", err)
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (k *keys) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rest := k.client.Discovery().RESTClient()
	text, err := rest.Get().AbsPath("/.well-known/openid-configuration").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading /.well-known/openid-configuration: %w", err)
	}
	var document struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("reading /.well-known/openid-configuration: %w", err)
	}
	if document.Issuer == "" {
		return errors.New("reading /.well-known/openid-configuration: it names no issuer")
	}
	// Not the document's jwks_uri: that may be an address for others, outside the cluster.
	if text, err = rest.Get().AbsPath("/openid/v1/jwks").DoRaw(ctx); err != nil {
		return fmt.Errorf("reading /openid/v1/jwks: %w", err)
	}
	old := k.last.Load()
	if old != nil && old.issuer == document.Issuer && bytes.Equal(old.text, text) {
		return nil
	}
	list, err := jwks.Parse(text)
	if err != nil {
		return fmt.Errorf("reading /openid/v1/jwks: %w", err)
	}
	s := old.next(document.Issuer, text, list, time.Now())
	k.last.Store(s)
	k.log.Info("token keys of the API server in use", "issuer", document.Issuer, "keys", len(list), "kept", len(s.keys)-len(list))
	return nil
}
