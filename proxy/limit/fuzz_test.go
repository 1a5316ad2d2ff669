package limit

import (
	"bytes"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// FuzzSelectors compiles whatever can be written, and asks it: nothing panics, what matches is counted and explained alike,
// and a limit of nothing refuses exactly what matches.
func FuzzSelectors(f *testing.F) {
	for _, s := range []string{
		`{"path":{"type":"PathPrefix","value":"/each"},"methods":[{"value":"GET"}],"headers":[{"name":"x-tier","value":"free"}]}`,
		`{"sourceCIDR":{"type":"Distinct","value":"2001:db8::/32"},"identity":{"type":"Distinct"}}`,
		`{"queryParams":[{"name":"q","type":"RegularExpression","value":"[a-z]+","invert":true}]}`,
		`{"headers":[{"name":"host","type":"Distinct"}],"path":{"type":"Exact","value":"/%2e%2E/x","invert":true}}`,
	} {
		f.Add(s, "/each/x", "/each", "?q=a%20b&q", "free", "[::1]:80", []byte{10, 0, 0, 1})
	}
	f.Fuzz(func(t *testing.T, selector, path, decoded, query, header, host string, address []byte) {
		p := &mesh.Typed[*policy.RateLimitPolicy]{Spec: &policy.RateLimitPolicy{}}
		if protojson.Unmarshal([]byte(local(selector, `"unit":"Hour"`)), p.Spec) != nil {
			return
		}
		s, err := NewRegistry(newHand().now).Compile([]*mesh.Typed[*policy.RateLimitPolicy]{p})
		if err != nil {
			return
		}
		c := &authz.Connection{}
		c.SourceIP, _ = netip.AddrFromSlice(address)
		c.Peer.ID, _ = identity.Parse(header)
		r := &authz.Request{Method: "GET", Path: path, DecodedPath: decoded, Query: query, Host: host, Headers: fields{"x-tier", header, "x-tier", host}}
		matched := s.Explain(c, r)[0].Matched
		if v := s.Take(t.Context(), c, r); (v.Refused != nil) != matched {
			t.Errorf("refused: %v, explained as matched: %v", v.Refused != nil, matched)
		}
		if st := s.Status()[0]; (st.Refused == 1) != matched || st.Allowed != 0 {
			t.Errorf("matched: %v, counted: %+v", matched, st)
		}
	})
}

// FuzzKey looks for two requests that differ and share a key.
func FuzzKey(f *testing.F) {
	f.Add("a_b", "c", "a", "b_c")
	f.Add("", "x", "x", "")
	r := NewRegistry(nil)
	s := compiled(f, r, local(`{"headers":[{"name":"a","type":"Distinct"}],"queryParams":[{"name":"b","type":"Distinct"}]}`, `"unit":"Hour"`))
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		one := &authz.Request{Headers: fields{"a", a}, Query: "?b=" + b}
		two := &authz.Request{Headers: fields{"a", c}, Query: "?b=" + d}
		alike := bytes.Equal(s.rules[0].appendKey(nil, nil, one), s.rules[0].appendKey(nil, nil, two))
		of := func(r *authz.Request) string {
			value, kind := s.rules[0].clauses[1].param(r)
			return string(kind) + value
		}
		if same := a == c && of(one) == of(two); alike != same {
			t.Errorf("%q %q and %q %q: alike is %v", a, b, c, d, alike)
		}
	})
}
