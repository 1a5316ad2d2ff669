package compile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1"

	"github.com/signet-mesh/signet/proxy/route"
)

// httpRoute reads all of an HTTPRoute but its matches.
func (c *compiler) httpRoute(h *networking.HTTPRoute, namespace string, port uint16) (*route.Route, error) {
	if h.Delegate != nil || h.Fault != nil || h.CorsPolicy != nil {
		return nil, errors.New("delegate, fault and corsPolicy are not supported")
	}
	r := &route.Route{Name: h.Name, Timeout: positive(h.Timeout)}
	var err error
	if r.Headers, err = headerOps(h.Headers); err != nil {
		return nil, below("headers", err)
	}
	if h.Redirect != nil {
		r.Action = route.Redirect
		r.Redirect, err = redirection(h.Redirect)
		return r, below("redirect", err)
	}
	if h.DirectResponse != nil {
		r.Action = route.Direct
		r.Direct, err = directResponse(h.DirectResponse)
		return r, below("directResponse", err)
	}
	if r.Destinations, err = c.destinations(h.Route, namespace, port); err != nil {
		return nil, err
	}
	if r.Rewrite, err = rewrite(h.Rewrite); err != nil {
		return nil, below("rewrite", err)
	}
	r.Retry, err = retry(h.Retries)
	return r, below("retries", err)
}

func (c *compiler) destinations(ds []*networking.HTTPRouteDestination, namespace string, port uint16) ([]route.Weighted, error) {
	out := make([]route.Weighted, 0, len(ds))
	for i, d := range ds {
		name, err := c.reference(d.Destination, namespace, port)
		if err != nil {
			return nil, below(item("route", i)+".destination", err)
		}
		ops, err := headerOps(d.Headers)
		if err != nil {
			return nil, below(item("route", i)+".headers", err)
		}
		out = append(out, route.Weighted{Cluster: name, Weight: weight(d.Weight), Headers: ops})
	}
	return out, below("route", checkWeights(out))
}

func positive(d *durationpb.Duration) time.Duration { return max(d.AsDuration(), 0) }

// text reads a StringMatch; one without any member asks for presence.
func text(m *networking.StringMatch) (route.Text, error) {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return route.Exact(t.Exact), nil
	case *networking.StringMatch_Prefix:
		return route.Prefix(t.Prefix), nil
	case *networking.StringMatch_Regex:
		return route.Regex(t.Regex)
	}
	return route.Present(), nil
}

// condition reads the part of a match that depends on the request.
func condition(m *networking.HTTPMatchRequest) (route.Condition, error) {
	out := route.Condition{IgnoreURICase: m.IgnoreUriCase}
	for _, f := range []struct {
		name string
		from *networking.StringMatch
		to   *route.Text
	}{{"uri", m.Uri, &out.URI}, {"scheme", m.Scheme, &out.Scheme}, {"method", m.Method, &out.Method}, {"authority", m.Authority, &out.Authority}} {
		if f.from == nil {
			continue
		}
		var err error
		if *f.to, err = text(f.from); err != nil {
			return out, below(f.name, err)
		}
	}
	var err error
	if out.Headers, err = headerMatches(m.Headers); err != nil {
		return out, below("headers", err)
	}
	if out.WithoutHeaders, err = headerMatches(m.WithoutHeaders); err != nil {
		return out, below("withoutHeaders", err)
	}
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		t, err := text(m.QueryParams[name])
		if err != nil {
			return out, below("queryParams["+name+"]", err)
		}
		out.QueryParams = append(out.QueryParams, route.Named{Name: name, Text: t})
	}
	return out, nil
}

// headerMatches reads header conditions; an empty value of any sort asks for presence, as in Istio.
func headerMatches(ms map[string]*networking.StringMatch) ([]route.Named, error) {
	var out []route.Named
	for _, name := range slices.Sorted(maps.Keys(ms)) {
		lower := strings.ToLower(name)
		if err := route.CheckMatchName(lower); err != nil {
			return nil, below("["+name+"]", err)
		}
		t, err := text(ms[name])
		if err != nil {
			return nil, below("["+name+"]", err)
		}
		if m := ms[name]; m.GetExact() == "" && m.GetPrefix() == "" && m.GetRegex() == "" {
			t = route.Present()
		}
		out = append(out, route.Named{Name: lower, Text: t})
	}
	return out, nil
}

func rewrite(w *networking.HTTPRewrite) (*route.Rewrite, error) {
	if w == nil {
		return nil, nil
	}
	if err := checkAuthority(w.Authority); err != nil {
		return nil, below("authority", err)
	}
	if x := w.UriRegexRewrite; x != nil {
		if w.Uri != "" {
			return nil, below("uriRegexRewrite", errors.New("and uri exclude each other"))
		}
		out, err := route.NewRegexRewrite(x.Match, x.Rewrite, w.Authority)
		if err != nil {
			return nil, below("uriRegexRewrite", err)
		}
		return out, nil
	}
	if err := route.CheckPath(w.Uri); err != nil {
		return nil, below("uri", err)
	}
	return &route.Rewrite{URI: w.Uri, Authority: w.Authority}, nil
}

// checkAuthority refuses an authority that could not stand in a Host field.
func checkAuthority(a string) error {
	if a == "" {
		return nil
	}
	if _, _, ok := route.SplitAuthority(a, 80); !ok || strings.ContainsAny(a, "/?#\\,;%\"") || route.CheckPath(a) != nil {
		return fmt.Errorf("authority %q is not HOST or HOST:PORT", a)
	}
	return nil
}

func redirection(d *networking.HTTPRedirect) (*route.Redirection, error) {
	out := &route.Redirection{Code: int(d.RedirectCode), Authority: d.Authority, Scheme: d.Scheme}
	switch out.Code {
	case 0:
		out.Code = 301
	case 301, 302, 303, 307, 308:
	default:
		return nil, below("redirectCode", fmt.Errorf("%d is not 301, 302, 303, 307 or 308", out.Code))
	}
	if err := checkAuthority(d.Authority); err != nil {
		return nil, below("authority", err)
	}
	if d.Scheme != "" && d.Scheme != "http" && d.Scheme != "https" {
		return nil, below("scheme", fmt.Errorf("%q is not http or https", d.Scheme))
	}
	prefix, replaces := strings.CutPrefix(d.Uri, "%PREFIX()%")
	switch {
	case d.PrefixRewrite != "" && d.Uri != "":
		return nil, below("prefixRewrite", errors.New("and uri exclude each other"))
	case replaces:
		out.Prefix, out.ReplacePrefix = prefix, true
	case d.PrefixRewrite != "":
		out.Prefix, out.ReplacePrefix = d.PrefixRewrite, true
	default:
		out.Path = d.Uri
	}
	path, query, _ := strings.Cut(out.Path, "?")
	for _, p := range []string{path, strings.ReplaceAll(query, "?", ""), out.Prefix} {
		if err := route.CheckPath(p); err != nil {
			if d.Uri == "" {
				return nil, below("prefixRewrite", err)
			}
			return nil, below("uri", err)
		}
	}
	switch p := d.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		if p.Port == 0 || p.Port > 65535 {
			return nil, below("port", fmt.Errorf("%d is not 1 to 65535", p.Port))
		}
		out.Port = uint16(p.Port)
	case *networking.HTTPRedirect_DerivePort:
		out.FromRequestPort = p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT
	}
	return out, nil
}

// checkPrefix refuses a redirect of a prefix on a route that does not match by one.
func checkPrefix(r *route.Route) error {
	if r.Action == route.Redirect && r.Redirect.ReplacePrefix && !r.Condition.ByPrefix() {
		return below("uri", errors.New("must match by prefix, since the redirect replaces the prefix"))
	}
	return nil
}

func directResponse(d *networking.HTTPDirectResponse) (*route.Response, error) {
	if d.Status < 200 || d.Status > 599 {
		return nil, below("status", fmt.Errorf("%d is not 200 to 599", d.Status))
	}
	out := &route.Response{Status: int(d.Status)}
	switch b := d.GetBody().GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = slices.Clone(b.Bytes)
	}
	if len(out.Body) > MaxDirectBody {
		return nil, below("body", fmt.Errorf("%d bytes are more than %d", len(out.Body), MaxDirectBody))
	}
	return out, nil
}

// MaxDirectBody is the longest body of a direct response in bytes (Istio's limit).
const MaxDirectBody = 1 << 20

func retry(r *networking.HTTPRetry) (route.Retry, error) {
	if r == nil {
		return route.DefaultRetry(), nil
	}
	out := route.DefaultRetry()
	out.Attempts = max(int(r.Attempts), 0)
	out.PerTryTimeout = positive(r.PerTryTimeout)
	if r.RetryOn != "" {
		var err error
		if out.On, out.StatusCodes, err = route.ParseRetryOn(r.RetryOn); err != nil {
			return out, below("retryOn", err)
		}
		out.Explicit = true
	}
	if d := positive(r.Backoff); d > 0 {
		out.Backoff = d
	}
	return out, nil
}

func headerOps(h *networking.Headers) (route.HeaderOps, error) {
	var out route.HeaderOps
	if err := operations(&out.Request, h.GetRequest(), true); err != nil {
		return out, below("request", err)
	}
	if err := operations(&out.Response, h.GetResponse(), false); err != nil {
		return out, below("response", err)
	}
	if err := checkAuthority(out.Request.Authority); err != nil {
		return out, below("request.set", err)
	}
	return out, nil
}

func operations(to *route.Ops, from *networking.Headers_HeaderOperations, request bool) error {
	for _, name := range slices.Sorted(maps.Keys(from.GetSet())) {
		if err := to.SetField(name, from.Set[name], request); err != nil {
			return below("set["+name+"]", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from.GetAdd())) {
		if err := to.AddField(name, from.Add[name]); err != nil {
			return below("add["+name+"]", err)
		}
	}
	for i, name := range from.GetRemove() {
		if err := to.RemoveField(name); err != nil {
			return below(item("remove", i), err)
		}
	}
	return nil
}
