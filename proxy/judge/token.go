package judge

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
)

// authenticate verifies the tokens of a request. No token is no failure: the policies decide what that means.
func (j Judge) authenticate(ctx context.Context, k *Case, v *Verdict, t *Trace) *proxy.Failure {
	if j.Tokens == nil {
		return nil
	}
	found, err := j.Tokens.Authenticate(ctx, k.Head, k.Head.Query, k.Head.Authority)
	for _, name := range found.Clear {
		k.Head.Del(name)
		removeTwins(k.Head, name)
	}
	t.token(found.Token, err)
	if err != nil {
		v.By = authz.NewRef("RequestAuthentication", "", "none", -1)
		if err.Rule != nil {
			v.By = authz.NewRef("RequestAuthentication", err.Rule.Namespace, err.Rule.Name, err.Rule.Index)
		}
		return &proxy.Failure{Code: proxy.TokenInvalid, Detail: "jwt_authn_access_denied{" + err.Reason + "}", Cause: err,
			Fields: []proxy.Field{{Name: "www-authenticate", Value: err.Challenge}}}
	}
	k.Request.Token, v.found = found.Token, found
	for _, f := range found.Set {
		k.Head.Set(f.Name, f.Value)
	}
	return nil
}

// kept are the fields of a head as they were judged, for judging again when some were taken off.
type kept []proxy.Field

// HeaderValue implements authz.Headers.
func (k *kept) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i < len(*k); i++ {
		if (*k)[i].Name == name {
			return (*k)[i].Value, i + 1, true
		}
	}
	return "", len(*k), false
}

// EachField calls f for each field in order.
func (k *kept) EachField(f func(name, value string)) {
	for _, x := range *k {
		f(x.Name, x.Value)
	}
}

// Strip takes off the head what is not forwarded: tokens, unless forwardOriginalToken is set. To be called once the
// request is allowed. What is judged again later is the request as it was.
func (v *Verdict) Strip(k *Case) {
	f := &v.found
	if len(f.Remove) == 0 && len(f.RemoveParams) == 0 && len(f.RemoveCookie) == 0 {
		return
	}
	k.Scratch.kept = append(k.Scratch.kept[:0], k.Head.Fields...)
	k.Request.Headers = &k.Scratch.kept
	for _, name := range f.Remove {
		k.Head.Del(name)
	}
	if len(f.RemoveParams) > 0 {
		k.Head.Query = editQuery(k.Head.Query, f.RemoveParams, nil)
	}
	if len(f.RemoveCookie) > 0 {
		removeCookies(k.Head, f.RemoveCookie)
	}
}

// editQuery removes and sets parameters, and leaves all others as they are written. The result has its leading '?', or is
// "".
func editQuery(query string, remove []string, set []authz.QueryParam) string {
	var out strings.Builder
	add := func(s string) {
		if out.Len() == 0 {
			out.WriteByte('?')
		} else {
			out.WriteByte('&')
		}
		out.WriteString(s)
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		name, _, _ := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		replaced := slices.ContainsFunc(set, func(p authz.QueryParam) bool { return p.Name == name })
		if part != "" && !replaced && !slices.Contains(remove, name) {
			add(part)
		}
	}
	for _, p := range set {
		add(url.QueryEscape(p.Name) + "=" + url.QueryEscape(p.Value))
	}
	return out.String()
}

// removeCookies takes cookies (RFC 6265 section 4.2) out of the fields that carry them.
func removeCookies(h *proxy.Head, names []string) {
	out := h.Fields[:0]
	for _, f := range h.Fields {
		if f.Name == "cookie" {
			if f.Value = withoutCookies(f.Value, names); f.Value == "" {
				continue
			}
		}
		out = append(out, f)
	}
	h.Fields = out
}

func withoutCookies(value string, names []string) string {
	var left []string
	for pair := range strings.SplitSeq(value, ";") {
		pair = strings.Trim(pair, " \t")
		name, _, _ := strings.Cut(pair, "=")
		if pair != "" && !slices.Contains(names, strings.Trim(name, " \t")) {
			left = append(left, pair)
		}
	}
	return strings.Join(left, "; ")
}
