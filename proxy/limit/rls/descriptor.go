package rls

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	descriptor "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/limit"
)

// question is one descriptor as the request that it stands for.
type question struct {
	connection authz.Connection
	request    authz.Request
	headers    headers
	query      url.Values
	hits       uint64
	// refused is set where a value can't be what its key says: such a request is over every limit.
	refused bool
}

// put asks a set as often as there are hits, until one is refused.
func (q *question) put(ctx context.Context, set *limit.Set) (v limit.Verdict, over bool) {
	if q.refused {
		return limit.Verdict{}, true
	}
	for range q.hits {
		if v = set.Take(ctx, &q.connection, &q.request); v.Refused != nil || ctx.Err() != nil {
			break
		}
	}
	return v, v.Refused != nil
}

// read makes a question of a descriptor. Its keys are path (or :path; with or without query), method (:method), host
// (:authority), remote_address, identity (spiffe://...) and query.NAME; any other is the lower-case name of a header. An
// error is about what the operator of the Envoy wrote, not about what a client sent.
func (s *Server) read(d *descriptor.RateLimitDescriptor, hits uint32) (*question, error) {
	q := &question{hits: uint64(max(hits, 1)), query: url.Values{}}
	switch {
	case len(d.GetEntries()) == 0 || len(d.GetEntries()) > maxEntries:
		return nil, fmt.Errorf("%d entries: there are 1 to %d", len(d.GetEntries()), maxEntries)
	case d.GetLimit() != nil:
		return nil, fmt.Errorf("limit: the policy says what the limit is")
	case d.GetIsNegativeHits():
		return nil, fmt.Errorf("is_negative_hits is not supported")
	case d.GetHitsAddend() != nil && d.GetHitsAddend().GetValue() == 0:
		return nil, fmt.Errorf("hits_addend: asking without counting is not supported")
	case d.GetHitsAddend() != nil:
		q.hits = d.GetHitsAddend().GetValue()
	}
	seen := map[string]bool{}
	for _, e := range d.GetEntries() {
		key := e.GetKey()
		if alias, ok := strings.CutPrefix(key, ":"); ok {
			key = alias
		}
		if key == "authority" {
			key = "host"
		}
		if single(key) && seen[key] {
			return nil, fmt.Errorf("key %q twice", key)
		}
		seen[key] = true
		if err := s.entry(q, key, e.GetValue()); err != nil {
			return nil, err
		}
	}
	if len(q.query) > 0 { // an entry counts, not what the path says besides
		q.request.Query = "?" + q.query.Encode()
	}
	q.request.Headers = q.headers
	return q, nil
}

func single(key string) bool {
	switch key {
	case "path", "method", "host", "remote_address", "identity":
		return true
	}
	return strings.HasPrefix(key, "query.")
}

// entry reads one entry. A value is what a client may have sent.
func (s *Server) entry(q *question, key, value string) error {
	if !validKey(key) {
		return fmt.Errorf("key %.64q is not the lower-case name of a header, of up to %d bytes", key, maxKey)
	}
	if len(value) > maxValue {
		q.refused = true
		return nil
	}
	name, isQuery := strings.CutPrefix(key, "query.")
	var err error
	switch {
	case key == "path":
		q.refused = !s.path(q, value) || q.refused
	case key == "method":
		q.request.Method = value
	case key == "host":
		q.request.Host = value
	case key == "remote_address":
		q.connection.SourceIP, err = netip.ParseAddr(value)
		q.connection.SourceIP = q.connection.SourceIP.Unmap().WithZone("")
	case key == "identity" && value != "": // none: a caller without a certificate
		q.connection.Peer.ID, err = identity.Parse(value)
	case key == "identity":
	case isQuery:
		q.query.Set(name, value)
	default:
		q.headers = append(q.headers, header{key, value})
	}
	q.refused = q.refused || err != nil
	return nil
}

// path reads a path as the corridor does.
func (s *Server) path(q *question, value string) bool {
	path, query, ok := strings.Cut(value, "?")
	if ok {
		q.request.Query = "?" + query
	}
	if path == "*" && !ok {
		q.request.Path, q.request.DecodedPath = path, path
		return true
	}
	canonical, decoded, failure := judge.Canonical(path, s.cfg.Normalization, &judge.Scratch{})
	q.request.Path, q.request.DecodedPath = canonical, decoded
	if canonical == decoded {
		q.request.DecodedPath = ""
	}
	return failure == nil
}

// validKey takes lower-case tokens (RFC 9110 section 5.6.2); of query.NAME, any name.
func validKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	if name, ok := strings.CutPrefix(key, "query."); ok {
		return name != ""
	}
	for i := range len(key) {
		c := key[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

type header struct{ name, value string }

// headers are entries that are no attribute of their own, in the order of the descriptor.
type headers []header

// HeaderValue is authz.Headers'.
func (h headers) HeaderValue(name string, from int) (value string, next int, ok bool) {
	for i := from; i < len(h); i++ {
		if h[i].name == name {
			return h[i].value, i + 1, true
		}
	}
	return "", len(h), false
}
