// Package service is the HTTP client of OPA's management APIs: what fetching bundles and reporting decisions have in common
// in URLs, TLS, limits and the times between attempts.
package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/util"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Limits on what a server does.
const (
	// DialTime and HandshakeTime are for the connection, HeaderTime for the head of the answer.
	DialTime      = 5 * time.Second
	HandshakeTime = 10 * time.Second
	HeaderTime    = 30 * time.Second
	// MaxHeader is the most bytes of an answer's head.
	MaxHeader = 64 << 10
	// MaxRedirects are followed by a Client that follows any.
	MaxRedirects = 5
	// FirstRetry is about the time before the second attempt; it grows by 1.6 with each (OPA's figures).
	FirstRetry = 100 * time.Millisecond
	// MinDelay is the shortest time between successful requests that a policy may ask for.
	MinDelay = 100 * time.Millisecond
)

// Client asks one service. It uses no proxy of the environment: where policies come from and decisions go to is in the
// policy, and nothing else changes it.
type Client struct {
	http *http.Client
	base string
}

// New makes a Client of the service at base, an http or https URL with a path if it has one, verified by the PEM certificates
// in roots or, where that is "", by the system's. The error begins with the field of the spec, url or caCertificates.
func New(base, roots string, follow bool) (*Client, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("url: malformed") // the parser's error quotes it, with a password if there is one
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("url: scheme %q is neither http nor https", u.Scheme)
	case u.Host == "":
		return nil, errors.New("url: no host")
	case u.User != nil:
		return nil, errors.New("url: holds a user name or a password; an object is no place for secrets")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("url: has a query or a fragment")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(roots)) {
			return nil, errors.New("caCertificates: no PEM certificate in it")
		}
	}
	c := &http.Client{Transport: &http.Transport{
		DialContext:            (&net.Dialer{Timeout: DialTime}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    HandshakeTime,
		ResponseHeaderTimeout:  HeaderTime,
		MaxResponseHeaderBytes: MaxHeader,
		MaxIdleConnsPerHost:    1,
		DisableCompression:     true, // what is gzipped is so by the API, and stays so until its size is bounded
		ForceAttemptHTTP2:      true,
	}}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if follow {
		c.CheckRedirect = checkRedirect
	}
	return &Client{http: c, base: strings.TrimRight(base, "/")}, nil
}

func checkRedirect(next *http.Request, via []*http.Request) error {
	switch {
	case len(via) > MaxRedirects:
		return fmt.Errorf("following more than %d redirects", MaxRedirects)
	case via[0].URL.Scheme == "https" && next.URL.Scheme != "https":
		return errors.New("following a redirect from https to http")
	}
	return nil
}

// URL is the address of a resource of the service. The error begins with the field path.
func (c *Client) URL(path string) (string, error) {
	full := c.base + "/" + strings.TrimLeft(path, "/")
	if _, err := url.Parse(full); err != nil || strings.Trim(path, "/") == "" {
		return "", fmt.Errorf("path: %q is no resource", path)
	}
	return full, nil
}

// Do sends a request. The body of the answer must be closed. A context that ended is the error ctx.Err(); others name the
// URL without its query.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(r)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // a signed URL carries its secret in the query, and this one may be of a redirect
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s://%s%s: %w", r.URL.Scheme, r.URL.Host, r.URL.Path, err)
	}
	return resp, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Discard reads a short rest of a body, so that its connection can be used again, and closes it.
func Discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10) // whatever is wrong with the rest of an answer that is not looked at
	_ = body.Close()
}

// Delays are the shortest and the longest time between two successful requests.
type Delays struct{ Min, Max time.Duration }

// DelaysOf reads them from a spec; low and high stand where one is unset, and the longest follows a longer shortest. The
// error begins with the field of the spec.
func DelaysOf(lo, hi *durationpb.Duration, low, high time.Duration) (Delays, error) {
	d := Delays{Min: low, Max: high}
	if lo != nil {
		d.Min = lo.AsDuration()
		d.Max = max(d.Max, d.Min)
	}
	if hi != nil {
		d.Max = hi.AsDuration()
		if lo == nil {
			d.Min = min(d.Min, d.Max)
		}
	}
	switch {
	case d.Min < MinDelay:
		return Delays{}, fmt.Errorf("minDelay: %v is shorter than %v", d.Min, MinDelay)
	case d.Max < d.Min:
		return Delays{}, fmt.Errorf("maxDelay: %v is shorter than the minDelay of %v", d.Max, d.Min)
	}
	return d, nil
}

// Next is a random time between the shortest and the longest, so that proxies started together do not ask together.
func (d Delays) Next() time.Duration {
	return d.Min + rand.N(d.Max-d.Min+1)
}

// Backoff is the time before the next attempt after so many failures, at most limit and a fifth.
func Backoff(failures int, limit time.Duration) time.Duration {
	return util.DefaultBackoff(float64(FirstRetry), float64(limit), failures)
}

// Sleep waits; false if the context ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
