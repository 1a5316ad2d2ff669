package jwks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Limits of a fetch.
const (
	// MaxURL is the longest address of a key set in bytes (the limit of jwksUri in Istio's CRD).
	MaxURL = 2048
	// MaxDiscoveryBytes bounds the discovery document.
	MaxDiscoveryBytes = 256 << 10
	// MaxRedirects is how many redirects of one request are followed.
	MaxRedirects = 3
	// maxHeaderBytes bounds the header of an answer.
	maxHeaderBytes = 64 << 10
)

// wellKnown is where the document of OpenID Connect Discovery 1.0 section 4 is, below the issuer.
const wellKnown = "/.well-known/openid-configuration"

// parseURL wants an absolute http or https URL without credentials: no file, and nothing that a log must not show.
func parseURL(text string) (*url.URL, error) {
	if len(text) > MaxURL {
		return nil, fmt.Errorf("parsing URL: longer than %d bytes", MaxURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("parsing URL: malformed")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("parsing URL %q: neither http:// nor https://", shown(text))
	case u.User != nil:
		return nil, fmt.Errorf("parsing URL %q: it holds credentials", shown(text))
	}
	return u, nil
}

// newClient builds the client of one issuer. It uses no proxy of the environment: that may be the workload's own sidecar.
func newClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			MaxResponseHeaderBytes: maxHeaderBytes,
			MaxConnsPerHost:        2,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: redirect,
	}
}

// redirect bounds where an issuer may send us: http or https, and never from https to http.
func redirect(next *http.Request, before []*http.Request) error {
	if len(before) > MaxRedirects {
		return fmt.Errorf("following redirects: more than %d", MaxRedirects)
	}
	u, err := parseURL(next.URL.String())
	if err != nil {
		return fmt.Errorf("following redirect: %w", err)
	}
	if u.Scheme != "https" && before[0].URL.Scheme == "https" {
		return errors.New("following redirect: from https to http")
	}
	return nil
}

// answer is a set as an issuer sent it.
type answer struct {
	url      string
	text     []byte
	interval time.Duration
}

// fetch gets the set, by discovery if no address was given. The url of the answer is set as soon as it is known.
func (r *Remote) fetch(ctx context.Context) (answer, error) {
	out := answer{url: r.url}
	if out.url == "" {
		found, err := r.discover(ctx)
		if err != nil {
			return answer{}, fmt.Errorf("discovering keys: %w", err)
		}
		out.url = found
	}
	text, header, err := r.get(ctx, out.url, MaxSetBytes)
	if err != nil {
		return out, fmt.Errorf("fetching keys: %w", err)
	}
	out.text, out.interval = text, interval(header)
	return out, nil
}

// discover reads jwks_uri from the issuer's discovery document, whose issuer must be this one to the letter (OpenID Connect
// Discovery 1.0 section 4.3).
func (r *Remote) discover(ctx context.Context) (string, error) {
	text, _, err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+wellKnown, MaxDiscoveryBytes)
	if err != nil {
		return "", err
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return "", fmt.Errorf("reading document: %w", err)
	}
	if document.Issuer != r.issuer {
		return "", fmt.Errorf("reading document: its issuer is %.200q, want %q", document.Issuer, r.issuer)
	}
	u, err := parseURL(document.Keys)
	if err != nil {
		return "", fmt.Errorf("reading jwks_uri: %w", err)
	}
	if u.Scheme != "https" && strings.HasPrefix(strings.ToLower(r.issuer), "https:") {
		return "", fmt.Errorf("reading jwks_uri: %q is not https, as its issuer is", shown(document.Keys))
	}
	return document.Keys, nil
}

// get reads one answer of at most limit bytes.
func (r *Remote) get(ctx context.Context, address string, limit int64) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, errors.New("building request: malformed URL")
	}
	request.Header.Set("Accept", "application/json, application/jwk-set+json")
	response, err := r.client.Do(request)
	if err != nil {
		// The client's own error quotes the whole URL, whose query may be a secret.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, nil, fmt.Errorf("asking %q: %w", shown(address), err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("asking %q: status %d", shown(address), response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("reading answer of %q: %w", shown(address), err)
	case int64(len(text)) > limit:
		return nil, nil, fmt.Errorf("reading answer of %q: more than %d bytes", shown(address), limit)
	}
	return text, response.Header, nil
}

// interval is when to ask again (RFC 9111 section 5.2.2.1), within bounds.
func interval(header http.Header) time.Duration {
	for _, line := range header.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, v, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				return MinInterval
			case "max-age":
				if n, err := strconv.Atoi(strings.Trim(v, `"`)); err == nil {
					return min(max(time.Duration(min(n, 1<<20))*time.Second, MinInterval), MaxInterval)
				}
			}
		}
	}
	return DefaultInterval
}
