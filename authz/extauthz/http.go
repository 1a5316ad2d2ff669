package extauthz

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz"
)

// overHTTP asks by a request of the same method, host and path below pathPrefix. Redirects are answers.
type overHTTP struct {
	service   string // host and port, which connections are pooled by
	prefix    string
	include   []pattern
	fixed     map[string]string
	onAllow   []pattern // to the server
	allowBack []pattern // to the client
	denyBack  []pattern // to the client; nil for all
	transport *http.Transport
}

func newHTTP(p *meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider, d *door) *overHTTP {
	include := p.GetIncludeRequestHeadersInCheck()
	if len(include) == 0 {
		//lint:ignore SA1019 deprecated, and still written
		include = p.GetIncludeHeadersInCheck()
	}
	h := &overHTTP{
		service: authority(p), prefix: p.GetPathPrefix(), include: patterns(include), fixed: p.GetIncludeAdditionalHeadersInCheck(),
		onAllow: patterns(p.GetHeadersToUpstreamOnAllow()), allowBack: patterns(p.GetHeadersToDownstreamOnAllow()),
		denyBack: patterns(p.GetHeadersToDownstreamOnDeny()),
	}
	if len(h.denyBack) > 0 {
		h.denyBack = append(h.denyBack, pattern{text: "www-authenticate"}, pattern{text: "location"})
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	h.transport = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return d.connect(ctx) },
		Protocols:              protocols,
		DisableCompression:     true,
		MaxIdleConns:           MaxConnections,
		MaxIdleConnsPerHost:    MaxConnections,
		MaxConnsPerHost:        MaxConnections,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: MaxAnswerHead,
	}
	return h
}

func (h *overHTTP) close() { h.transport.CloseIdleConnections() }

// ask implements way.
func (h *overHTTP) ask(ctx context.Context, _ *authz.Connection, r *authz.Request) (authz.Answer, *fault) {
	if r == nil {
		return authz.Answer{}, unshown(0, "an authorizer over HTTP judges no TCP connection")
	}
	request, f := h.request(ctx, r)
	if f != nil {
		return authz.Answer{}, f
	}
	response, err := h.transport.RoundTrip(request)
	if err != nil {
		return authz.Answer{}, failure(plainly(ctx, err))
	}
	defer response.Body.Close()
	return h.read(ctx, response)
}

// request is the check. Everything borrowed is copied: net/http may still write it when the answer is there. What net/http
// would refuse or rewrite is refused here, so that nobody can make a check fail by what they send.
func (h *overHTTP) request(ctx context.Context, r *authz.Request) (*http.Request, *fault) {
	target := strings.Clone(h.prefix + r.Path + r.Query)
	switch {
	case !authz.IsToken(r.Method) || r.Method == http.MethodConnect:
		return nil, unshown(http.StatusBadRequest, "its method %.64q cannot be asked about", r.Method)
	case !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' }):
		return nil, unshown(http.StatusBadRequest, "its path cannot be asked about")
	case !plainHost(r.Host):
		return nil, unshown(http.StatusBadRequest, "its host %.64q cannot be asked about", r.Host)
	}
	out := (&http.Request{
		Method: strings.Clone(r.Method), Host: strings.Clone(r.Host), Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL: &url.URL{Scheme: "http", Host: h.service, Opaque: target},
	}).WithContext(ctx)
	if strings.HasPrefix(target, "//") { // which Opaque would make an absolute URL
		path, query, _ := strings.Cut(target, "?")
		plain, err := url.PathUnescape(path)
		if err != nil {
			return nil, unshown(http.StatusBadRequest, "its path cannot be asked about")
		}
		out.URL = &url.URL{Scheme: "http", Host: h.service, Path: plain, RawPath: path, RawQuery: query}
	}
	if f := h.headers(out, r); f != nil {
		return nil, f
	}
	if len(r.Body) > 0 {
		body := bytes.Clone(r.Body)
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody()
		out.ContentLength = int64(len(body))
		out.Header.Set(partialBody, strconv.FormatBool(r.Truncated))
	}
	return out, nil
}

func (h *overHTTP) headers(out *http.Request, r *authz.Request) *fault {
	fields := map[string]string{}
	if len(h.include) > 0 {
		if f := joinFields(fields, r.Headers); f != nil {
			return f
		}
	}
	// A check may be repeated where a kept connection turns out to have ended; and nothing names us unasked. Neither goes out.
	out.Header["X-Idempotency-Key"] = []string{}
	out.Header.Set("User-Agent", "")
	for name, value := range fields {
		if matches(h.include, name) && !hop(name) {
			out.Header.Set(strings.Clone(name), strings.Clone(value))
		}
	}
	for name, value := range h.fixed {
		out.Header.Set(name, value)
	}
	return nil
}

// plainHost reports whether net/http sends a host as it is.
func plainHost(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return false
		}
		return !strings.ContainsRune("-._~:[]!$&'()*+,;=", c)
	})
}

// hop reports whether a field belongs to one connection only, or frames a message on it.
func hop(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
		"transfer-encoding", "upgrade", "host", "content-length", "expect":
		return true
	}
	return false
}
