// Package bundle fetches one policy's bundle by OPA's bundle API: polled over HTTP with ETags, its signature verified, and
// the last good one kept on disk, so that a restart goes on while the server is away. What is in a bundle is read by OPA's
// own reader.
//
// https://www.openpolicyagent.org/docs/management-bundles
package bundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/signet-mesh/signet/authz/rego/service"
	"github.com/signet-mesh/signet/mesh/policy"
)

// OPA's defaults for the time between two successful polls.
const (
	minDelay = time.Minute
	maxDelay = 2 * time.Minute
)

// Config is what a Source needs.
type Config struct {
	// Spec says where the bundle is and who signs it. Required.
	Spec *policy.RegoBundle
	// Name is the policy's, NAMESPACE/NAME: it labels the log and finds the bundle in StateDir. Required.
	Name string
	// StateDir is where the last good bundle is kept; "" keeps none.
	StateDir string
	// Log gets changes of revision, and failures when they begin and end. Required.
	Log *slog.Logger
	// Activate puts a bundle to use, or says why it cannot be: then the one before stays in use and the server is asked again.
	// It is called from Run's goroutine, one call at a time, and owns the bundle. Required.
	Activate func(*opabundle.Bundle) error
}

// Status is how fetching goes, for status pages.
type Status struct {
	// Active says that a bundle is in use; Revision is its manifest's, and ETag the server's name for it ("" for one that was
	// read from StateDir).
	Active         bool
	Revision, ETag string
	// LastSuccess is when the server last gave a bundle that is in use, or said that it is still current.
	LastSuccess time.Time
	// LastError is that of the latest attempt, "" when it succeeded.
	LastError string
	// Failures counts failed attempts since the last success.
	Failures int
}

// Source keeps one bundle fresh while Run runs. Safe for concurrent use.
type Source struct {
	cfg    Config
	client *service.Client
	url    string
	key    *opabundle.VerificationConfig // nil: unsigned bundles, and only those
	delays service.Delays
	file   string // of the last good bundle, "" for none

	// Of Run's goroutine alone.
	sum  [sha256.Size]byte // of the bundle in use
	etag string            // of the bundle in use, once it is kept

	mu     sync.Mutex // guards status
	status Status
}

// New checks the configuration; nothing is read or fetched before Run. The error names the field of the spec.
func New(c Config) (*Source, error) {
	if c.Spec == nil || c.Log == nil || c.Activate == nil || c.Name == "" {
		return nil, errors.New("making bundle source: incomplete configuration")
	}
	s := &Source{cfg: c}
	var err error
	if s.client, err = service.New(c.Spec.GetUrl(), c.Spec.GetCaCertificates(), true); err != nil {
		return nil, err
	}
	if s.url, err = s.client.URL(c.Spec.GetPath()); err != nil {
		return nil, err
	}
	if s.key, err = verification(c.Spec.GetSigning()); err != nil {
		return nil, fmt.Errorf("signing.%w", err)
	}
	polling := c.Spec.GetPolling()
	if s.delays, err = service.DelaysOf(polling.GetMinDelay(), polling.GetMaxDelay(), minDelay, maxDelay); err != nil {
		return nil, fmt.Errorf("polling.%w", err)
	}
	if c.StateDir != "" {
		s.file = fileName(c.StateDir, c.Name, s.url)
	}
	return s, nil
}

// Run activates the kept bundle, if there is one, and then polls the server until ctx ends; it returns nil then. The
// kept bundle is active, or known to be unusable, before the server is first asked.
func (s *Source) Run(ctx context.Context) error {
	defer s.client.Close()
	s.restore()
	for {
		err := s.poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !service.Sleep(ctx, s.record(err)) {
			return nil
		}
	}
}

// Status says how it goes.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// record notes how an attempt went, and answers the time until the next.
func (s *Source) record(err error) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.LastError
	if err == nil {
		s.status.LastError = ""
		if before != "" {
			s.cfg.Log.Info("bundle is fetched again", "policy", s.cfg.Name, "revision", s.status.Revision)
		}
		s.status.LastSuccess, s.status.Failures = time.Now(), 0
		return s.delays.Next()
	}
	s.status.LastError = err.Error()
	if before != s.status.LastError {
		s.cfg.Log.Warn("bundle is not fetched", "policy", s.cfg.Name, "active", s.status.Active, "revision", s.status.Revision, "error", err)
	}
	s.status.Failures++
	return service.Backoff(s.status.Failures, s.delays.Max)
}

// use activates what a server or a file held, unless it is in use already.
func (s *Source) use(raw []byte, etag string) error {
	sum := sha256.Sum256(raw)
	if sum != s.sum {
		b, err := Read(raw, etag, s.key)
		if err != nil {
			return fmt.Errorf("reading bundle: %w", err)
		}
		revision := b.Manifest.Revision
		if err := s.cfg.Activate(b); err != nil {
			return fmt.Errorf("activating bundle of revision %q: %w", revision, err)
		}
		s.sum = sum
		s.cfg.Log.Info("bundle is active", "policy", s.cfg.Name, "revision", revision, "bytes", len(raw))
		s.mu.Lock()
		s.status.Active, s.status.Revision = true, revision
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.status.ETag = etag
	s.mu.Unlock()
	return nil
}
