package mesh

import (
	"fmt"
	"net/url"
	"sort"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// providers judges MeshConfig's extensionProviders; those that authorize decide who gets in.
func (j *judge) providers(providers []*meshconfig.MeshConfig_ExtensionProvider) {
	if !j.atMost("extensionProviders", len(providers), MaxProviders) {
		return
	}
	seen := make(map[string]bool)
	for i, p := range providers {
		at := fmt.Sprintf("extensionProviders[%d].", i)
		if j.word(at+"name", p.GetName(), maxNameLength); seen[p.GetName()] {
			j.refuse(at+"name", "%q is given twice", clip(p.GetName()))
		}
		seen[p.GetName()] = true
		switch t := p.GetProvider().(type) {
		case nil:
			j.refuse(strings.TrimSuffix(at, "."), "must say what it is, such as envoyExtAuthzGrpc")
		case *meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp:
			j.httpAuthorizer(at+"envoyExtAuthzHttp.", t.EnvoyExtAuthzHttp)
		case *meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc:
			g := t.EnvoyExtAuthzGrpc
			j.authorizer(at+"envoyExtAuthzGrpc.", g.GetService(), g.GetPort(), g.GetTimeout(), g.GetStatusOnError(), g.GetIncludeRequestBodyInCheck())
		}
	}
}

// authorizer judges what authorizers over gRPC and HTTP have in common.
func (j *judge) authorizer(f, service string, port uint32, timeout *durationpb.Duration, status string,
	body *meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) {
	namespace, host, two := strings.Cut(service, "/")
	if !two {
		host = service
	} else if err := checkLabel(namespace); err != nil {
		j.refuse(f+"service", "want [NAMESPACE/]HOST: %v", err)
	}
	if err := checkHost(host, false); err != nil || strings.HasPrefix(host, "*") {
		j.refuse(f+"service", "%q: want [NAMESPACE/]HOST, the host of a ServiceEntry", clip(service))
	}
	j.port(f+"port", port)
	j.between(f+"timeout", timeout, 1e6, maxAuthorizerTimeout)
	if status != "" {
		if n, err := strconv.Atoi(status); err != nil || n < 400 || n > 599 || len(status) != 3 {
			j.refuse(f+"statusOnError", "%q: want a status from 400 to 599", clip(status))
		}
	}
	if body != nil && (body.GetMaxRequestBytes() == 0 || body.GetMaxRequestBytes() > MaxAuthorizerBodyBytes) {
		j.refuse(f+"includeRequestBodyInCheck.maxRequestBytes", "%d: want 1 to %d", body.GetMaxRequestBytes(), MaxAuthorizerBodyBytes)
	}
}

func (j *judge) httpAuthorizer(f string, h *meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) {
	j.authorizer(f, h.GetService(), h.GetPort(), h.GetTimeout(), h.GetStatusOnError(), h.GetIncludeRequestBodyInCheck())
	if p := h.GetPathPrefix(); p != "" {
		if u, err := url.ParseRequestURI(p); err != nil || p[0] != '/' || u.Path != p || strings.ContainsAny(p, "?#") || len(p) > maxWordBytes {
			j.refuse(f+"pathPrefix", "%q: want a path that begins with /, without query or escapes", clip(p))
		}
	}
	//lint:ignore SA1019 deprecated, and still written
	old := h.GetIncludeHeadersInCheck()
	if len(old) > 0 && len(h.GetIncludeRequestHeadersInCheck()) > 0 {
		j.refuse(f+"includeHeadersInCheck", "and includeRequestHeadersInCheck exclude each other: it is the older name of it")
	}
	j.headerPatterns(f+"includeHeadersInCheck", old)
	j.headerPatterns(f+"includeRequestHeadersInCheck", h.GetIncludeRequestHeadersInCheck())
	j.headerPatterns(f+"headersToUpstreamOnAllow", h.GetHeadersToUpstreamOnAllow())
	j.headerPatterns(f+"headersToDownstreamOnDeny", h.GetHeadersToDownstreamOnDeny())
	j.headerPatterns(f+"headersToDownstreamOnAllow", h.GetHeadersToDownstreamOnAllow())
	fixed := h.GetIncludeAdditionalHeadersInCheck()
	j.atMost(f+"includeAdditionalHeadersInCheck", len(fixed), maxAuthorizerHeaders)
	names := make([]string, 0, len(fixed))
	for name := range fixed {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		at := fmt.Sprintf("%sincludeAdditionalHeadersInCheck[%s]", f, name)
		j.headerName(at, name)
		j.headerValue(at, fixed[name], true)
	}
}

// headerPatterns judges names of fields: exact, abc* or *abc. There is no presence match.
func (j *judge) headerPatterns(field string, patterns []string) {
	j.atMost(field, len(patterns), maxAuthorizerHeaders)
	for i, p := range patterns {
		at := fmt.Sprintf("%s[%d]", field, i)
		l := readLiteral(p)
		if err := checkToken(l.text); err != nil || strings.Contains(l.text, "*") {
			j.refuse(at, "%q: want a header name, PREFIX* or *SUFFIX", clip(p))
		}
	}
}

// controlSettings judges what only the control plane makes.
func (j *judge) controlSettings(c *policy.ControlSettings) {
	if j.object.Key != ControlKey() {
		j.refuse("", "there is only one: %s", ControlKey())
	}
	if s := c.GetRateLimitStore(); s != nil {
		// The URL itself is judged by whoever connects; it may not be told, since it could hold a password.
		if u, err := url.Parse(s.GetUrl()); err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || len(s.GetUrl()) > maxURLBytes {
			j.refuse("rateLimitStore.url", "want a redis or rediss URL")
		} else if _, secret := u.User.Password(); secret {
			j.refuse("rateLimitStore.url", "must not hold a password")
		}
		j.certificates("rateLimitStore.caCertificates", s.GetCaCertificates())
	}
	for i, name := range c.GetRegoBuiltins() {
		j.word(fmt.Sprintf("regoBuiltins[%d]", i), name, 128)
	}
}
