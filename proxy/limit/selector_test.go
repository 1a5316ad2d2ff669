package limit

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

const (
	alice = "spiffe://cluster.local/ns/lab/sa/alice"
	bob   = "spiffe://cluster.local/ns/lab/sa/bob"
)

// asked is a request as the tables write it: a method and a target, and header fields.
func asked(t *testing.T, line string, headers ...string) *authz.Request {
	t.Helper()
	method, target, ok := strings.Cut(line, " ")
	if !ok {
		t.Fatalf("%q is not METHOD TARGET", line)
	}
	path, query, ok := strings.Cut(target, "?")
	if ok {
		query = "?" + query
	}
	path, decoded, _ := strings.Cut(path, "|")
	return &authz.Request{Method: method, Host: "Oven.lab:8080", Path: path, DecodedPath: decoded, Query: query, Headers: fields(headers)}
}

func TestSelectors(t *testing.T) {
	for _, c := range []struct {
		selectors, line string
		headers         []string
		want            bool
	}{
		{``, "GET /", nil, true},
		{`{}`, "GET /", nil, true},
		// path: a prefix is of whole segments; | sets the decoded reading apart.
		{`{"path":{"value":"/each"}}`, "GET /each", nil, true},
		{`{"path":{"value":"/each"}}`, "GET /each/x", nil, true},
		{`{"path":{"value":"/each"}}`, "GET /each/", nil, true},
		{`{"path":{"value":"/each"}}`, "GET /eachother", nil, false},
		{`{"path":{"value":"/each"}}`, "GET /Each", nil, false},
		{`{"path":{"type":"PathPrefix","value":"/each/"}}`, "GET /each", nil, true},
		{`{"path":{"type":"PathPrefix","value":"/each/"}}`, "GET /eachother", nil, false},
		{`{"path":{"type":"PathPrefix","value":"/"}}`, "GET /x", nil, true},
		{`{"path":{"type":"PathPrefix","value":"/"}}`, "OPTIONS *", nil, true},
		{`{"path":{"value":"/each"}}`, "GET /x/..%2Feach|/each", nil, true},
		{`{"path":{"value":"/each"}}`, "GET /each%2F..%2Fx|/x", nil, false},
		{`{"path":{"value":"/each"}}`, "GET /each/..%2Fx|/x", nil, true},
		{`{"path":{"value":"/a%2Fb"}}`, "GET /a%2fb|/a/b", nil, true},
		{`{"path":{"value":"/each","invert":true}}`, "GET /each", nil, false},
		{`{"path":{"value":"/each","invert":true}}`, "GET /x/..%2Feach|/each", nil, true},
		{`{"path":{"type":"Exact","value":"/each"}}`, "GET /each", nil, true},
		{`{"path":{"type":"Exact","value":"/each"}}`, "GET /each/", nil, false},
		{`{"path":{"type":"Exact","value":"/each"}}`, "GET /%65ach|/each", nil, true},
		{`{"path":{"type":"RegularExpression","value":"/v[0-9]+/.*"}}`, "GET /v12/x", nil, true},
		{`{"path":{"type":"RegularExpression","value":"/v[0-9]+"}}`, "GET /v12/x", nil, false},
		{`{"path":{"type":"RegularExpression","value":"/a|/b"}}`, "GET /ac", nil, false},
		{`{"path":{"type":"RegularExpression","value":"/a|/b"}}`, "GET /x/b", nil, false},
		// methods are ORed.
		{`{"methods":[{"value":"GET"},{"value":"POST"}]}`, "POST /", nil, true},
		{`{"methods":[{"value":"GET"},{"value":"POST"}]}`, "HEAD /", nil, false},
		{`{"methods":[{"value":"GET","invert":true}]}`, "GET /", nil, false},
		{`{"methods":[{"value":"GET","invert":true}]}`, "PUT /", nil, true},
		{`{"methods":[{"value":"get"}]}`, "GET /", nil, false},
		// headers: any value of a repeated one; absent matches inverted only.
		{`{"headers":[{"name":"X-Tier","value":"free"}]}`, "GET /", []string{"x-tier", "free"}, true},
		{`{"headers":[{"name":"x-tier","value":"free"}]}`, "GET /", []string{"x-tier", "gold", "x-tier", "free"}, true},
		{`{"headers":[{"name":"x-tier","value":"free"}]}`, "GET /", []string{"x-tier", "Free"}, false},
		{`{"headers":[{"name":"x-tier","value":"free"}]}`, "GET /", nil, false},
		{`{"headers":[{"name":"x-tier","value":"gold","invert":true}]}`, "GET /", nil, true},
		{`{"headers":[{"name":"x-tier","value":"gold","invert":true}]}`, "GET /", []string{"x-tier", "gold"}, false},
		{`{"headers":[{"name":"x-tier","value":"gold","invert":true}]}`, "GET /", []string{"x-tier", "gold", "x-tier", "free"}, true},
		{`{"headers":[{"name":"x-tier","type":"RegularExpression","value":"fr.*"}]}`, "GET /", []string{"x-tier", "free"}, true},
		{`{"headers":[{"name":"x-tier","type":"RegularExpression","value":"fr"}]}`, "GET /", []string{"x-tier", "free"}, false},
		{`{"headers":[{"name":"x-tier","type":"Distinct"}]}`, "GET /", []string{"x-tier", ""}, true},
		{`{"headers":[{"name":"x-tier","type":"Distinct"}]}`, "GET /", nil, false},
		{`{"headers":[{"name":"a","value":"1"},{"name":"b","value":"2"}]}`, "GET /", []string{"a", "1"}, false},
		{`{"headers":[{"name":"a","value":"1"},{"name":"b","value":"2"}]}`, "GET /", []string{"a", "1", "b", "2"}, true},
		{`{"headers":[{"name":"host","value":"oven.LAB"}]}`, "GET /", nil, true},
		{`{"headers":[{"name":":authority","value":"oven.lab:8080"}]}`, "GET /", nil, true},
		{`{"headers":[{"name":"Host","value":"other.lab"}]}`, "GET /", nil, false},
		// query parameters.
		{`{"queryParams":[{"name":"q","value":"a b"}]}`, "GET /?x=1&q=a%20b", nil, true},
		{`{"queryParams":[{"name":"q","value":"a b"}]}`, "GET /?%71=a+b", nil, true},
		{`{"queryParams":[{"name":"q","value":"1"}]}`, "GET /?q=2&q=1", nil, true},
		{`{"queryParams":[{"name":"q","value":"1"}]}`, "GET /?qq=1", nil, false},
		{`{"queryParams":[{"name":"q","value":""}]}`, "GET /?q", nil, true},
		{`{"queryParams":[{"name":"q","value":"%"}]}`, "GET /?q=%", nil, true},
		{`{"queryParams":[{"name":"q","value":"1","invert":true}]}`, "GET /", nil, true},
		{`{"queryParams":[{"name":"q","value":"1","invert":true}]}`, "GET /?q=1", nil, false},
		{`{"queryParams":[{"name":"q","type":"RegularExpression","value":"[0-9]+"}]}`, "GET /?q=12", nil, true},
		{`{"queryParams":[{"name":"q","type":"Distinct"}]}`, "GET /?q=12", nil, true},
		{`{"queryParams":[{"name":"q","type":"Distinct"}]}`, "GET /?p=12", nil, false},
		// the caller, who is alice at 10.1.2.3.
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, "GET /", nil, true},
		{`{"sourceCIDR":{"value":"10.1.2.3"}}`, "GET /", nil, true},
		{`{"sourceCIDR":{"value":"192.168.0.0/16"}}`, "GET /", nil, false},
		{`{"sourceCIDR":{"value":"192.168.0.0/16","invert":true}}`, "GET /", nil, true},
		{`{"sourceCIDR":{"type":"Distinct"}}`, "GET /", nil, true},
		{`{"sourceCIDR":{"type":"Distinct","value":"192.168.0.0/16"}}`, "GET /", nil, false},
		{`{"identity":{"value":"` + alice + `"}}`, "GET /", nil, true},
		{`{"identity":{"value":"` + bob + `"}}`, "GET /", nil, false},
		{`{"identity":{"value":"` + bob + `","invert":true}}`, "GET /", nil, true},
		{`{"identity":{"type":"Distinct"}}`, "GET /", nil, true},
		// entries are ANDed, and so is what stands in one.
		{`{"path":{"value":"/each"},"methods":[{"value":"GET"}]}`, "POST /each", nil, false},
		{`{"path":{"value":"/each"}},{"methods":[{"value":"GET"}]}`, "POST /each", nil, false},
		{`{"path":{"value":"/each"}},{"methods":[{"value":"POST"}]}`, "POST /each", nil, true},
	} {
		s := compiled(t, NewRegistry(newHand().now), local(c.selectors, `"requests":0,"unit":"Second"`))
		r := asked(t, c.line, c.headers...)
		if v := s.Take(t.Context(), caller(t, alice), r); (v.Refused != nil) != c.want {
			t.Errorf("%s of %s %q: matched is %v", c.selectors, c.line, c.headers, !c.want)
		}
		if e := s.Explain(caller(t, alice), r)[0]; e.Matched != c.want || (e.Field == "") != c.want {
			t.Errorf("%s of %s %q explained: %+v", c.selectors, c.line, c.headers, e)
		}
	}
}

// TestCallers are those without an identity or an address, and behind trusted proxies.
func TestCallers(t *testing.T) {
	for _, c := range []struct {
		selectors, id, source, trusted string
		want                           bool
	}{
		{`{"identity":{"value":"` + alice + `"}}`, "", "10.0.0.1", "", false},
		{`{"identity":{"value":"` + alice + `","invert":true}}`, "", "10.0.0.1", "", true},
		{`{"identity":{"type":"Distinct"}}`, "", "10.0.0.1", "", true},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, "", "", "", false},
		{`{"sourceCIDR":{"value":"10.0.0.0/8","invert":true}}`, "", "", "", true},
		{`{"sourceCIDR":{"type":"Distinct"}}`, "", "", "", true},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, "", "10.0.0.1", "203.0.113.5", false},
		{`{"sourceCIDR":{"value":"203.0.113.0/24"}}`, "", "10.0.0.1", "203.0.113.5", true},
		{`{"sourceCIDR":{"value":"198.51.100.0/24"}}`, "", "10.0.0.1", "", false},
		{`{"sourceCIDR":{"value":"198.51.100.0/24"}}`, "", "", "", false},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, "", "10.0.0.1", "::ffff:203.0.113.5", false},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, "", "::ffff:10.0.0.1", "", true},
		{`{"sourceCIDR":{"value":"::ffff:10.0.0.0/104"}}`, "", "10.0.0.1", "", true},
		{`{"sourceCIDR":{"value":"fe80::/10"}}`, "", "fe80::1%eth0", "", true},
		{`{"sourceCIDR":{"value":"2001:db8::/32"}}`, "", "2001:db8::1", "", true},
	} {
		s := compiled(t, NewRegistry(newHand().now), local(c.selectors, `"requests":0,"unit":"Second"`))
		conn, r := caller(t, c.id), get("/")
		conn.SourceIP, r.RemoteIP = netip.Addr{}, netip.MustParseAddr("198.51.100.1") // which nobody vouches for
		if c.source != "" {
			conn.SourceIP = netip.MustParseAddr(c.source)
		}
		if c.trusted != "" {
			r.ClientIP = netip.MustParseAddr(c.trusted)
		}
		if v := s.Take(t.Context(), conn, r); (v.Refused != nil) != c.want {
			t.Errorf("%+v: matched is %v", c, !c.want)
		}
	}
}

// TestKeys says who shares a bucket with whom: each line uses a bucket of one request, and then looks for another.
func TestKeys(t *testing.T) {
	at := func(s string) func(*authz.Connection, *authz.Request) {
		return func(c *authz.Connection, _ *authz.Request) { c.SourceIP = netip.MustParseAddr(s) }
	}
	who := func(id string) func(*authz.Connection, *authz.Request) {
		return func(c *authz.Connection, _ *authz.Request) { c.Peer = caller(t, id).Peer }
	}
	with := func(f ...string) func(*authz.Connection, *authz.Request) {
		return func(_ *authz.Connection, r *authz.Request) { r.Headers = fields(f) }
	}
	query := func(q string) func(*authz.Connection, *authz.Request) {
		return func(_ *authz.Connection, r *authz.Request) { r.Query = q }
	}
	host := func(h string) func(*authz.Connection, *authz.Request) {
		return func(_ *authz.Connection, r *authz.Request) { r.Host = h }
	}
	const (
		byIdentity, bySource = `{"identity":{"type":"Distinct"}}`, `{"sourceCIDR":{"type":"Distinct"}}`
		byTwo                = `{"headers":[{"name":"a","type":"Distinct"},{"name":"b","type":"Distinct"}]}`
		byParam              = `{"queryParams":[{"name":"q","type":"Distinct"}]}`
	)
	for i, c := range []struct {
		selectors   string
		first, then func(*authz.Connection, *authz.Request)
		share       bool
	}{
		{byIdentity, who(alice), who(alice), true},
		{byIdentity, who(alice), who(bob), false},
		{byIdentity, who(alice), who(""), false},
		{byIdentity, who(""), at("10.9.9.9"), true}, // those without an identity share one key
		{bySource, at("10.0.0.1"), at("10.0.0.1"), true},
		{bySource, at("10.0.0.1"), at("10.0.0.2"), false},
		{bySource, at("10.0.0.1"), at("::ffff:10.0.0.1"), true},
		{bySource, at("2001:db8::1"), at("2001:db8::ffff:2"), true}, // one /64
		{bySource, at("2001:db8::1"), at("2001:db8:0:1::1"), false},
		{`{"sourceCIDR":{"type":"Distinct","value":"2001:db8::/64"}}`, at("2001:db8::1"), at("2001:db8::2"), false},
		{byTwo, with("a", "a_b", "b", "c"), with("a", "a", "b", "b_c"), false},
		{byTwo, with("a", "ab", "b", "c"), with("a", "a", "b", "bc"), false},
		{byTwo, with("a", "xv", "b", "y"), with("a", "x", "b", "vy"), false},
		{byTwo, with("a", "", "b", "x"), with("a", "x", "b", ""), false},
		{byTwo, with("a", "1", "b", "2"), with("b", "2", "a", "1"), true},
		{byTwo, with("a", "1", "a", "2", "b", "3"), with("a", "7", "a", "8", "b", "3"), true}, // repeated values share one key
		{byTwo, with("a", "1", "a", "1", "b", "3"), with("a", "1", "b", "3"), true},
		{byTwo, with("a", "1", "a", "2", "b", "3"), with("a", "1", "b", "3"), false},
		{byParam, query("?q=a%20b"), query("?q=a+b&z=1"), true},
		{byParam, query("?q=1"), query("?q=2"), false},
		{byParam, query("?q=1&q=2"), query("?q=3&q=4"), true},
		{`{"headers":[{"name":"host","type":"Distinct"}]}`, host("Oven.lab:80"), host("oven.lab."), true},
		{byTwo, with("a", strings.Repeat("x", 300), "b", ""), with("a", strings.Repeat("x", 301), "b", ""), false},
	} {
		s := compiled(t, NewRegistry(newHand().now), local(c.selectors, `"requests":1,"unit":"Hour"`))
		conn, r := caller(t, ""), get("/")
		c.first(conn, r)
		if passed(t, s, conn, r, 2) != 1 {
			t.Errorf("%d: the first caller has no bucket of one", i)
		}
		conn, r = caller(t, ""), get("/")
		c.then(conn, r)
		if got := passed(t, s, conn, r, 2) == 0; got != c.share {
			t.Errorf("%d: sharing is %v", i, got)
		}
	}
}

func TestRefusedPolicies(t *testing.T) {
	const limit = `"limit":{"requests":1,"unit":"Second"}`
	for spec, field := range map[string]string{
		`{"local":{"rules":[{}]}}`: "spec.local.rules[0].limit.unit",
		`{"local":{"rules":[{` + limit + `},{"limit":{"requests":1,"unit":"Day","burst":1}}]}}`:    "spec.local.rules[1].limit.burst",
		`{"local":{"rules":[{` + limit + `,"onStoreFailure":"Deny"}]}}`:                            "spec.local.rules[0].onStoreFailure",
		`{"global":{"rules":[{` + limit + `,"onStoreFailure":7}]}}`:                                "spec.global.rules[0].onStoreFailure",
		local(`{"headers":[{"name":"","value":"x"}]}`, ``):                                         "spec.local.rules[0].clientSelectors[0].headers[0].name",
		local(`{"headers":[{"name":"a","value":"x"},{"name":"te","value":"x"}]}`, ``):              "spec.local.rules[0].clientSelectors[0].headers[1].name",
		local(`{"headers":[{"name":":path","value":"x"}]}`, ``):                                    "spec.local.rules[0].clientSelectors[0].headers[0].name",
		local(`{},{"headers":[{"name":"a","type":"Distinct","value":"x"}]}`, ``):                   "spec.local.rules[0].clientSelectors[1].headers[0].value",
		local(`{"headers":[{"name":"a","type":"Distinct","invert":true}]}`, ``):                    "spec.local.rules[0].clientSelectors[0].headers[0].invert",
		local(`{"headers":[{"name":"a","type":9}]}`, ``):                                           "spec.local.rules[0].clientSelectors[0].headers[0].type",
		local(`{"headers":[{"name":"a","type":"RegularExpression","value":"a)(b"}]}`, ``):          "spec.local.rules[0].clientSelectors[0].headers[0].value",
		local(`{"methods":[{"value":"GET"},{}]}`, ``):                                              "spec.local.rules[0].clientSelectors[0].methods[1].value",
		local(`{"path":{"value":"each"}}`, ``):                                                     "spec.local.rules[0].clientSelectors[0].path.value",
		local(`{"path":{"type":"Exact"}}`, ``):                                                     "spec.local.rules[0].clientSelectors[0].path.value",
		local(`{"path":{"type":9,"value":"/"}}`, ``):                                               "spec.local.rules[0].clientSelectors[0].path.type",
		local(`{"path":{"type":"RegularExpression","value":"`+strings.Repeat("a", 1025)+`"}}`, ``): "spec.local.rules[0].clientSelectors[0].path.value",
		local(`{"sourceCIDR":{"value":"10.0.0.0/99"}}`, ``):                                        "spec.local.rules[0].clientSelectors[0].sourceCIDR.value",
		local(`{"sourceCIDR":{}}`, ``):                                                             "spec.local.rules[0].clientSelectors[0].sourceCIDR.value",
		local(`{"sourceCIDR":{"type":"Distinct","invert":true}}`, ``):                              "spec.local.rules[0].clientSelectors[0].sourceCIDR.invert",
		local(`{"sourceCIDR":{"type":9}}`, ``):                                                     "spec.local.rules[0].clientSelectors[0].sourceCIDR.type",
		local(`{"queryParams":[{"value":"x"}]}`, ``):                                               "spec.local.rules[0].clientSelectors[0].queryParams[0].name",
		local(`{"queryParams":[{"name":"q","type":"Distinct","value":"x"}]}`, ``):                  "spec.local.rules[0].clientSelectors[0].queryParams[0].value",
		local(`{"queryParams":[{"name":"q","type":9}]}`, ``):                                       "spec.local.rules[0].clientSelectors[0].queryParams[0].type",
		local(`{"identity":{"value":"cluster.local/ns/lab/sa/alice"}}`, ``):                        "spec.local.rules[0].clientSelectors[0].identity.value",
		local(`{"identity":{"type":"Distinct","invert":true}}`, ``):                                "spec.local.rules[0].clientSelectors[0].identity.invert",
		local(`{"identity":{"type":9}}`, ``):                                                       "spec.local.rules[0].clientSelectors[0].identity.type",
	} {
		_, err := NewRegistry(nil).Compile([]*mesh.Typed[*policy.RateLimitPolicy]{authored(t, spec)})
		var fault *FieldError
		if !errors.As(err, &fault) || fault.Field != field || fault.Policy.Name != "oven" || !strings.Contains(err.Error(), "lab/oven: "+field) {
			t.Errorf("%s: %v, want one of %s", spec, err, field)
		}
	}
}
