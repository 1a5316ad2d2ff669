package limit

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// hand is a clock that tests move.
type hand struct {
	mu sync.Mutex
	at time.Time
}

func newHand() *hand { return &hand{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (h *hand) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func (h *hand) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

func (h *hand) set(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = t
}

// fields are header fields in order: name, value, name, value.
type fields []string

func (f fields) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i+1 < len(f); i += 2 {
		if f[i] == name {
			return f[i+1], i + 2, true
		}
	}
	return "", len(f), false
}

// authored is a policy lab/oven with a spec in JSON.
func authored(t testing.TB, spec string) *mesh.Typed[*policy.RateLimitPolicy] {
	t.Helper()
	p := &mesh.Typed[*policy.RateLimitPolicy]{Spec: &policy.RateLimitPolicy{}}
	p.Key = mesh.Key{Group: "policy.signet.dev", Kind: "RateLimitPolicy", Namespace: "lab", Name: "oven"}
	if err := protojson.Unmarshal([]byte(spec), p.Spec); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	return p
}

func compiled(t testing.TB, r *Registry, specs ...string) *Set {
	t.Helper()
	var all []*mesh.Typed[*policy.RateLimitPolicy]
	for i, spec := range specs {
		p := authored(t, spec)
		p.Name += strings.Repeat("x", i)
		all = append(all, p)
	}
	s, err := r.Compile(all)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// local is a spec of one local rule.
func local(selectors, limit string) string {
	return `{"local":{"rules":[{"clientSelectors":[` + selectors + `],"limit":{` + limit + `}}]}}`
}

func caller(t testing.TB, id string) *authz.Connection {
	t.Helper()
	c := &authz.Connection{SourceIP: netip.MustParseAddr("10.1.2.3")}
	if id != "" {
		parsed, err := identity.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		c.Peer.ID = parsed
	}
	return c
}

func get(path string) *authz.Request {
	return &authz.Request{Method: "GET", Path: path, Host: "oven.lab", Headers: fields(nil)}
}

// passed is how many of n requests a set lets through.
func passed(t testing.TB, s *Set, c *authz.Connection, r *authz.Request, n int) int {
	t.Helper()
	out := 0
	for range n {
		if s.Take(t.Context(), c, r).Refused == nil {
			out++
		}
	}
	return out
}
