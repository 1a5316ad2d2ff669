package rls_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	descriptor "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/limit/rls"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tally is a store for one process: so many of each key, for ever. It is away while away is set.
type tally struct {
	mu   sync.Mutex
	used map[limit.Key]uint32
	away bool
}

func (s *tally) Take(_ context.Context, b *limit.Bucket, key limit.Key) (limit.Grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = map[limit.Key]uint32{}
	}
	if s.away {
		return limit.Grant{}, false
	}
	if s.used[key] >= b.Requests {
		return limit.Grant{Retry: 7 * time.Second, Reset: 9 * time.Second}, true
	}
	s.used[key]++
	return limit.Grant{Allowed: true, Remaining: b.Requests - s.used[key], Reset: time.Second}, true
}

func named(t *testing.T, name, spec string) *mesh.Typed[*policy.RateLimitPolicy] {
	t.Helper()
	p := &policy.RateLimitPolicy{}
	if err := protojson.Unmarshal([]byte(spec), p); err != nil {
		t.Fatal(err)
	}
	return &mesh.Typed[*policy.RateLimitPolicy]{Meta: mesh.Meta{Key: mesh.Key{Group: "policy.signet.dev", Kind: "RateLimitPolicy", Namespace: "lab", Name: name}}, Spec: p}
}

func serving(t *testing.T, store limit.Store, specs ...string) *rls.Server {
	t.Helper()
	registry := limit.NewRegistry(nil)
	registry.SetStore(store)
	s := rls.New(rls.Config{Registry: registry})
	var all []*mesh.Typed[*policy.RateLimitPolicy]
	for i, spec := range specs {
		all = append(all, named(t, fmt.Sprintf("p%d", i), spec))
	}
	if err := s.Update(all); err != nil {
		t.Fatal(err)
	}
	return s
}

// entries makes a descriptor of "key=value" words.
func entries(words ...string) *descriptor.RateLimitDescriptor {
	d := &descriptor.RateLimitDescriptor{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		d.Entries = append(d.Entries, &descriptor.RateLimitDescriptor_Entry{Key: k, Value: v})
	}
	return d
}

func ask(s *rls.Server, domain string, d ...*descriptor.RateLimitDescriptor) (*ratelimit.RateLimitResponse, error) {
	return s.ShouldRateLimit(context.Background(), &ratelimit.RateLimitRequest{Domain: domain, Descriptors: d})
}

const one = `{"global":{"rules":[{"clientSelectors":[%s],"limit":{"requests":1,"unit":"Hour"}}]}}`

// TestSelectors: what an entry says is what a selector sees. The limit of one is reached by the second request that matches.
func TestSelectors(t *testing.T) {
	for _, tc := range []struct {
		selector string
		yes, no  []string
	}{
		{`{"path":{"type":"PathPrefix","value":"/each"}}`, []string{"path=/each/one"}, []string{"path=/other"}},
		{`{"path":{"type":"Exact","value":"/each"}}`, []string{"path=/each?x=1"}, []string{"path=/each/"}},
		{`{"path":{"type":"Exact","value":"/a/b"}}`, []string{":path=/x/../%61//b"}, []string{"path=/a/c"}},
		{`{"methods":[{"value":"GET"}]}`, []string{"method=GET"}, []string{":method=POST"}},
		{`{"headers":[{"name":"x-tier","value":"free"}]}`, []string{"x-tier=free"}, []string{"x-tier=paid"}},
		{`{"headers":[{"name":"x-tier","value":"free"}]}`, []string{"x-tier=paid", "x-tier=free"}, []string{"x-other=free"}},
		{`{"headers":[{"name":"host","value":"a.example"}]}`, []string{"host=a.example"}, []string{":authority=b.example"}},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, []string{"remote_address=10.1.2.3"}, []string{"remote_address=11.1.2.3"}},
		{`{"sourceCIDR":{"value":"10.0.0.0/8"}}`, []string{"remote_address=::ffff:10.1.2.3"}, []string{"method=GET"}},
		{`{"identity":{"value":"spiffe://td/ns/a/sa/b"}}`, []string{"identity=spiffe://td/ns/a/sa/b"}, []string{"identity=spiffe://td/ns/a/sa/c"}},
		{`{"queryParams":[{"name":"q","value":"a b"}]}`, []string{"query.q=a b"}, []string{"query.q=a"}},
		{`{"queryParams":[{"name":"q","value":"1"}]}`, []string{"path=/?q=1"}, []string{"path=/?q=1", "query.q=2"}},
	} {
		t.Run(tc.selector, func(t *testing.T) {
			s := serving(t, &tally{}, fmt.Sprintf(one, tc.selector))
			for i, words := range [][]string{tc.no, tc.no, tc.yes, tc.no, tc.yes} {
				r, err := ask(s, "lab/p0", entries(words...))
				if err != nil {
					t.Fatal(err)
				}
				want := ratelimit.RateLimitResponse_OK
				if i == 4 {
					want = ratelimit.RateLimitResponse_OVER_LIMIT
				}
				if r.GetOverallCode() != want || (r.GetStatuses()[0].GetCurrentLimit() != nil) != (i == 2 || i == 4) {
					t.Errorf("request %d with %q: %v", i, words, r)
				}
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	store := &tally{}
	s := serving(t, store, `{"local":{"rules":[{"limit":{"requests":1,"unit":"Hour"}}]},"global":{"rules":[
		{"clientSelectors":[{"headers":[{"name":"k","type":"Distinct"}]}],"limit":{"requests":3,"unit":"Month"}}]}}`)
	r, err := ask(s, "lab/p0", entries("k=a"), entries("k=b"), entries("x=c"))
	if err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OK || len(r.GetStatuses()) != 3 {
		t.Fatalf("%v, %v", r, err)
	}
	st := r.GetStatuses()[0]
	if st.GetCurrentLimit().GetRequestsPerUnit() != 3 || st.GetCurrentLimit().GetUnit() != ratelimit.RateLimitResponse_RateLimit_MONTH ||
		st.GetLimitRemaining() != 2 || st.GetDurationUntilReset().AsDuration() != time.Second {
		t.Errorf("status %v", st)
	}
	if _, err = ask(s, "lab/p0", entries("k=a"), entries("k=a")); err != nil {
		t.Fatal(err)
	}
	r, err = ask(s, "lab/p0", entries("k=b"), entries("k=a"), entries("k=b"))
	if err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OVER_LIMIT || r.GetStatuses()[0].GetCode() != ratelimit.RateLimitResponse_OK ||
		r.GetStatuses()[1].GetCode() != ratelimit.RateLimitResponse_OVER_LIMIT || r.GetStatuses()[2].GetCode() != ratelimit.RateLimitResponse_OK {
		t.Fatalf("%v, %v", r, err)
	}
	fields := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		fields[h.GetKey()] = h.GetValue()
	}
	if fields["retry-after"] != "7" || !strings.Contains(fields["ratelimit"], "r=0") || fields["ratelimit-policy"] == "" {
		t.Errorf("fields %v", fields)
	}
}

func TestHits(t *testing.T) {
	s := serving(t, &tally{}, `{"global":{"rules":[{"limit":{"requests":10,"unit":"Hour"}}]}}`)
	for i, step := range []struct {
		request uint32
		own     *wrapperspb.UInt64Value
		left    uint32
		over    bool
	}{{0, nil, 9, false}, {4, nil, 5, false}, {4, wrapperspb.UInt64(2), 3, false}, {4, nil, 0, true}} {
		d := entries("a=b")
		d.HitsAddend = step.own
		r, err := s.ShouldRateLimit(t.Context(), &ratelimit.RateLimitRequest{Domain: "lab/p0", Descriptors: []*descriptor.RateLimitDescriptor{d}, HitsAddend: step.request})
		if err != nil || r.GetStatuses()[0].GetLimitRemaining() != step.left || (r.GetOverallCode() == ratelimit.RateLimitResponse_OVER_LIMIT) != step.over {
			t.Errorf("step %d: %v, %v", i, r, err)
		}
	}
}

// TestRefused: what a client can bring about closes, what the operator of the Envoy wrote is an error.
func TestRefused(t *testing.T) {
	s := serving(t, &tally{}, fmt.Sprintf(one, ""), `{"local":{"rules":[{"limit":{"requests":1,"unit":"Hour"}}]}}`)
	for name, d := range map[string]*descriptor.RateLimitDescriptor{
		"a path that is none":       entries("path=/%zz"),
		"an ambiguous path":         entries("path=/x%2F%2F..%2Fy"),
		"a path without slash":      entries("path=x"),
		"a huge value":              entries("x=" + strings.Repeat("a", 8193)),
		"an address that is none":   entries("remote_address=here"),
		"an identity that is none":  entries("identity=http://a"),
		"a bad one, then a good on": entries("remote_address=here", "path=/"),
	} {
		if r, err := ask(s, "lab/p0", d); err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OVER_LIMIT {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	limited, negative, zero, many := entries("a=b"), entries("a=b"), entries("a=b"), entries("a=b")
	limited.Limit = &descriptor.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1000}
	negative.IsNegativeHits = true
	zero.HitsAddend, many.HitsAddend = wrapperspb.UInt64(0), wrapperspb.UInt64(1<<63)
	var large []*descriptor.RateLimitDescriptor
	for range 17 {
		large = append(large, entries("a=b"))
	}
	for name, tc := range map[string]struct {
		domain string
		code   codes.Code
		all    []*descriptor.RateLimitDescriptor
	}{
		"unknown domain":      {"lab/p9", codes.NotFound, large[:1]},
		"only local rules":    {"lab/p1", codes.NotFound, large[:1]},
		"no domain":           {"", codes.NotFound, large[:1]},
		"huge domain":         {strings.Repeat("a", 513), codes.InvalidArgument, large[:1]},
		"no descriptor":       {"lab/p0", codes.InvalidArgument, nil},
		"many descriptors":    {"lab/p0", codes.InvalidArgument, large},
		"no entries":          {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries()}},
		"many entries":        {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries(strings.Fields(strings.Repeat("a=b ", 33))...)}},
		"an override":         {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{limited}},
		"negative hits":       {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{negative}},
		"zero hits":           {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{zero}},
		"many hits":           {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{many}},
		"a key of upper case": {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries("X-Tier=a")}},
		"a key with a space":  {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries("x tier=a")}},
		"no key":              {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries("=a")}},
		"a huge key":          {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries(strings.Repeat("a", 257) + "=a")}},
		"two paths":           {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries("path=/", ":path=/")}},
		"query without name":  {"lab/p0", codes.InvalidArgument, []*descriptor.RateLimitDescriptor{entries("query.=a")}},
	} {
		if r, err := ask(s, tc.domain, tc.all...); status.Code(err) != tc.code {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if r, err := ask(s, "lab/p0", entries("a=b")); err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OK {
		t.Errorf("the one that there is was counted by what was refused: %v, %v", r, err)
	}
}

func TestStoreAway(t *testing.T) {
	spec := func(on string) string {
		return `{"global":{"rules":[{"limit":{"requests":5,"unit":"Hour"},"onStoreFailure":"` + on + `"}]}}`
	}
	s := serving(t, &tally{away: true}, spec("Deny"), spec("Allow"))
	for domain, want := range map[string]ratelimit.RateLimitResponse_Code{"lab/p0": ratelimit.RateLimitResponse_OVER_LIMIT, "lab/p1": ratelimit.RateLimitResponse_OK} {
		if r, err := ask(s, domain, entries("a=b")); err != nil || r.GetOverallCode() != want {
			t.Errorf("%s: %v, %v", domain, r, err)
		}
	}
}

// TestUpdate: what did not change goes on counting, what does not compile stays as it was, what is gone is gone.
func TestUpdate(t *testing.T) {
	store := &tally{}
	s := serving(t, store, fmt.Sprintf(one, ""))
	if r, err := ask(s, "lab/p0", entries("a=b")); err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OK {
		t.Fatalf("%v, %v", r, err)
	}
	broken := `{"global":{"rules":[{"limit":{"requests":1}}]}}`
	for _, spec := range []string{fmt.Sprintf(one, ""), broken} {
		err := s.Update([]*mesh.Typed[*policy.RateLimitPolicy]{named(t, "p0", spec), named(t, "new", broken)})
		if err == nil || !strings.Contains(err.Error(), "lab/new") {
			t.Errorf("the error of a broken policy is %v", err)
		}
		if r, err := ask(s, "lab/p0", entries("a=b")); err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OVER_LIMIT {
			t.Errorf("after an update: %v, %v", r, err)
		}
		if _, err := ask(s, "lab/new", entries("a=b")); status.Code(err) != codes.NotFound {
			t.Errorf("a broken policy: %v", err)
		}
	}
	if err := s.Update(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(s, "lab/p0", entries("a=b")); status.Code(err) != codes.NotFound {
		t.Errorf("a policy that is gone: %v", err)
	}
	gone := named(t, "bad", `{}`)
	gone.Annotations = map[string]string{mesh.QuarantineAnnotation: "it was refused"}
	if err := s.Update([]*mesh.Typed[*policy.RateLimitPolicy]{gone}); err != nil {
		t.Fatal(err)
	}
	if r, err := ask(s, "lab/bad", entries("a=b")); err != nil || r.GetOverallCode() != ratelimit.RateLimitResponse_OVER_LIMIT {
		t.Errorf("a quarantined policy: %v, %v", r, err)
	}
}
