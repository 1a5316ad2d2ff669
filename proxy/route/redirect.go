package route

import (
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// Redirection is the answer of a redirect (Istio's HTTPRedirect).
type Redirection struct {
	// Code is 301, 302, 303, 307 or 308.
	Code int
	// Path replaces the whole path, and the query too if it brings one. "" keeps the request's.
	Path string
	// Prefix replaces the part that a prefix match matched, if ReplacePrefix (Path is then empty).
	Prefix        string
	ReplacePrefix bool
	Authority     string // "" keeps the request's host
	Scheme        string // "" keeps the request's
	// Port replaces the request's; 0 keeps it, unless FromRequestPort asks for that of the connection.
	Port            uint16
	FromRequestPort bool
}

// Location is the value of the Location field for a request that matched this route; port is the one that the request
// addressed, for derivePort FROM_REQUEST_PORT.
func (r *Route) Location(h *proxy.Head, port uint16) string {
	d := r.Redirect
	was := schemeOf(h)
	scheme := d.Scheme
	if scheme == "" {
		scheme = was
	}
	newPort := d.Port
	if d.FromRequestPort {
		newPort = port
	}
	host := d.Authority
	if host == "" {
		host = redirectHost(h.Authority, was, scheme, newPort != 0)
	}
	if newPort != 0 && !(scheme == "http" && newPort == 80) && !(scheme == "https" && newPort == 443) {
		host += ":" + strconv.Itoa(int(newPort))
	}
	return scheme + "://" + host + r.redirectPath(h)
}

// redirectHost is the request's host; its port goes when another is set, or when it was the default of a scheme that
// changes.
func redirectHost(authority, was, scheme string, replaced bool) string {
	i := strings.LastIndexByte(authority, ':')
	if i < 0 || strings.HasSuffix(authority, "]") {
		return authority
	}
	p := authority[i+1:]
	if replaced || was != scheme && (was == "http" && p == "80" || was == "https" && p == "443") {
		return authority[:i]
	}
	return authority
}

func (r *Route) redirectPath(h *proxy.Head) string {
	d := r.Redirect
	switch {
	case d.ReplacePrefix && strings.HasPrefix(h.Path, "/"):
		return rooted(d.Prefix+r.Condition.rest(h.Path)) + h.Query
	case d.Path == "" && !strings.HasPrefix(h.Path, "/"): // OPTIONS *
		return "/"
	case d.Path == "":
		return h.Path + h.Query
	case strings.Contains(d.Path, "?"):
		return rooted(d.Path)
	}
	return rooted(d.Path) + h.Query
}
