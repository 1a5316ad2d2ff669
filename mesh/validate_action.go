package mesh

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1"
)

func (j *judge) redirect(f string, r *networking.HTTPRedirect) {
	switch r.GetRedirectCode() {
	case 0, 301, 302, 303, 307, 308:
	default:
		j.refuse(f+"redirectCode", "%d is no redirect: want 301, 302, 303, 307 or 308", r.GetRedirectCode())
	}
	if s := r.GetScheme(); s != "" && s != "http" && s != "https" {
		j.refuse(f+"scheme", "%q: want http or https", clip(s))
	}
	if p, ok := r.GetRedirectPort().(*networking.HTTPRedirect_Port); ok {
		j.port(f+"port", p.Port)
	}
	if r.GetUri() != "" && r.GetPrefixRewrite() != "" {
		j.refuse(f+"prefixRewrite", "and uri exclude each other")
	}
	for field, v := range map[string]string{"uri": r.GetUri(), "authority": r.GetAuthority(), "prefixRewrite": r.GetPrefixRewrite()} {
		j.headerValue(f+field, v, true)
	}
}

func (j *judge) directResponse(f string, r *networking.HTTPDirectResponse) {
	if r.GetStatus() < 200 || r.GetStatus() > 599 {
		j.refuse(f+"status", "%d is no status to answer with: want 200 to 599", r.GetStatus())
	}
	if n := len(r.GetBody().GetString_()) + len(r.GetBody().GetBytes()); n > MaxBodyBytes {
		j.refuse(f+"body", "has %d bytes, more than %d", n, MaxBodyBytes)
	}
}

func (j *judge) rewrite(f string, r *networking.HTTPRoute, w *networking.HTTPRewrite) {
	if len(r.GetRoute()) == 0 {
		j.refuse(strings.TrimSuffix(f, "."), "needs a route: there is nothing to rewrite")
	}
	if w.GetUri() != "" && w.GetUriRegexRewrite() != nil {
		j.refuse(f+"uriRegexRewrite", "and uri exclude each other")
	}
	if x := w.GetUriRegexRewrite(); x != nil {
		j.regex(f+"uriRegexRewrite.match", x.GetMatch())
	}
	j.headerValue(f+"uri", w.GetUri(), true)
	j.headerValue(f+"authority", w.GetAuthority(), true)
}

func (j *judge) retries(f string, r *networking.HTTPRetry) {
	if r == nil {
		return
	}
	if r.GetAttempts() < 0 || r.GetAttempts() > 100 {
		j.refuse(f+"attempts", "%d: want 0 (none) to 100", r.GetAttempts())
	}
	if r.GetAttempts() == 0 && (r.GetPerTryTimeout() != nil || r.GetRetryOn() != "") {
		j.warn(f+"attempts", "is 0 or absent, which switches retries off: the rest of retries means nothing")
	}
	j.duration(f+"perTryTimeout", r.GetPerTryTimeout(), true)
	j.duration(f+"backoff", r.GetBackoff(), false)
	for word := range strings.SplitSeq(r.GetRetryOn(), ",") {
		if word = strings.TrimSpace(word); word == "" || retryWord(word) {
			continue
		}
		if n, err := strconv.Atoi(word); err != nil || n < 400 || n > 599 {
			j.refuse(f+"retryOn", "unknown condition %q", clip(word))
		}
	}
}

// retryWord reports whether Envoy has a retry condition of that name.
func retryWord(s string) bool {
	switch s {
	case "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx",
		"refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
		"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable":
		return true
	}
	return false
}

func (j *judge) headers(f string, h *networking.Headers) {
	j.headerOperations(f+".request", h.GetRequest(), true)
	j.headerOperations(f+".response", h.GetResponse(), false)
}

func (j *judge) headerOperations(f string, o *networking.Headers_HeaderOperations, request bool) {
	for _, part := range []struct {
		name   string
		values map[string]string
	}{{"set", o.GetSet()}, {"add", o.GetAdd()}} {
		names := make([]string, 0, len(part.values))
		for name := range part.values {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			at := fmt.Sprintf("%s.%s[%s]", f, part.name, name)
			if lower := strings.ToLower(name); request && part.name == "set" && (lower == "host" || lower == ":authority") {
				j.headerValue(at, part.values[name], false) // it rewrites the authority
				continue
			}
			j.headerName(at, name)
			j.headerValue(at, part.values[name], false)
		}
	}
	for i, name := range o.GetRemove() {
		j.headerName(fmt.Sprintf("%s.remove[%d]", f, i), name)
	}
}

// headerName refuses the fields that frame a message or say who called: no operation may touch them.
func (j *judge) headerName(f, name string) {
	if err := checkToken(name); err != nil {
		j.refuse(f, "%v", err)
		return
	}
	switch strings.ToLower(name) {
	case "host":
		j.refuse(f, "%s is only changed by headers.request.set or rewrite.authority", name)
	case "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection",
		"expect", "proxy-authorization", "proxy-authenticate", "x-forwarded-client-cert":
		j.refuse(f, "%s belongs to the proxy", name)
	}
}

// headerValue refuses what can't stand in a field value, and Envoy's %VARIABLES%, which are not substituted here; %% is a
// percent sign.
func (j *judge) headerValue(f, v string, percent bool) {
	if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		j.refuse(f, "%q holds a control character", clip(v))
	}
	if !percent && strings.Contains(strings.ReplaceAll(v, "%%", ""), "%") {
		j.refuse(f, "%q: %%VARIABLES%% are not substituted, %%%% is a percent sign", clip(v))
	}
}
