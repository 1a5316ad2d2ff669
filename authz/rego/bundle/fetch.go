package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/signet-mesh/signet/authz/rego/service"
)

// Limits of fetching.
const (
	// FetchTime is how long one poll may take, redirects and body included.
	FetchTime = 2 * time.Minute
	// maxETag is the longest ETag that is remembered; a bundle with a longer one is fetched whole at each poll.
	maxETag = 1 << 10
)

// poll asks the server once. A bundle that is refused, here or by Activate, leaves the ETag of the one in use, so that the
// server is asked for it again.
func (s *Source) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, FetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Prefer", "modes=snapshot")
	if s.etag != "" {
		req.Header.Set("If-None-Match", s.etag)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer service.Discard(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotModified && s.etag != "":
		return nil
	case resp.StatusCode == http.StatusOK:
		return s.take(resp)
	}
	return fmt.Errorf("fetching bundle: server answered %q", resp.Status)
}

// take puts an answer to use and keeps it. Its ETag is remembered only then: a server that says later that nothing changed
// must mean a bundle that a restart finds.
func (s *Source) take(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxCompressed+1)) // one too many is refused when it is read
	switch {
	case err != nil:
		return fmt.Errorf("fetching bundle: %w", err)
	case len(raw) == 0:
		return errors.New("fetching bundle: empty answer")
	}
	etag := resp.Header.Get("ETag")
	if len(etag) > maxETag {
		etag = ""
	}
	if err := s.use(raw, etag); err != nil {
		return err
	}
	if err := s.keep(raw); err != nil {
		s.etag = ""
		return err
	}
	s.etag = etag
	return nil
}
