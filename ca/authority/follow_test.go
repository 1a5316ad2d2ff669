package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// told is a Recorder.
type told struct {
	mu   sync.Mutex // guards list
	list []string
}

func (r *told) Record(_ context.Context, _ bool, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, reason+": "+message)
}

func (r *told) has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(strings.Join(r.list, "\n"), part)
}

// run shares a CA and follows its state until the test ends.
func run(t *testing.T, store Store, operator Source, change func(*SharedOptions)) *Shared {
	t.Helper()
	s, err := share(t, store, operator, change)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func metric(t testing.TB, c prometheus.Collector, name, label string) (sum float64, n int) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || strings.Contains(m.String(), `"`+label+`"`)) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
				n++
			}
		}
	}
	return sum, n
}

func TestFollowPlugged(t *testing.T) {
	rootA, rootB := makeCA(t, "a", nil, nil, nil), makeCA(t, "b", nil, nil, nil)
	store, operator, events := &memory{}, &memory{}, &told{}
	operator.set(istio(t, makeCA(t, "signing a", &rootA, nil, nil), rootA))
	s := run(t, store, operator, func(o *SharedOptions) { o.Recorder, o.LeafTTL = events, time.Hour })
	second := run(t, store, operator, nil)
	issue(t, s, []*x509.Certificate{rootA.cert})
	roots, changed := s.Watch()
	if len(roots) != 1 {
		t.Fatalf("%d roots", len(roots))
	}

	// A new intermediate under the same root is used at once; the roots do not change.
	again := makeCA(t, "signing a, again", &rootA, nil, nil)
	operator.set(istio(t, again, rootA))
	eventually(t, "the new intermediate signs", func() bool { return s.Current().Chain()[1].Equal(again.cert) })
	issue(t, s, []*x509.Certificate{rootA.cert})
	select {
	case <-changed:
		t.Error("the roots were said to have changed")
	default:
	}

	// A set that does not fit is refused, once, and the old goes on.
	broken := istio(t, makeCA(t, "signing b", &rootB, nil, nil), rootB)
	broken[PluggedKey] = again.keyPEM(t)
	operator.set(broken)
	eventually(t, "it is refused", func() bool { return events.has("PluggedCARefused: judging the plugged-in CA: key_mismatch") })
	issue(t, s, []*x509.Certificate{rootA.cert})
	if sum, n := metric(t, s, "signet_ca_plugged_refusals_total", ReasonKeyMismatch); sum != 1 || n != 1 {
		t.Errorf("refusals counted: %v in %d", sum, n)
	}
	if now, _ := metric(t, s, "signet_ca_plugged_refused", ""); now != 1 {
		t.Error("not counted as refused now")
	}
	operator.mu.Lock()
	operator.files = nil // deleted
	operator.put(nil)
	operator.mu.Unlock()
	eventually(t, "its absence is said", func() bool { return events.has("PluggedCARefused: judging the plugged-in CA: missing") })
	issue(t, s, []*x509.Certificate{rootA.cert})
	if _, err := share(t, store, operator, nil); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a restart without the plugged-in CA: %v", err)
	}

	// A new root signs; both are trusted, by every replica.
	operator.set(istio(t, makeCA(t, "signing b", &rootB, nil, nil), rootB))
	<-changed
	both := []*x509.Certificate{rootB.cert, rootA.cert}
	eventually(t, "the new root is current and the old one trusted", func() bool { return sameCerts(s.Roots(), both) })
	issue(t, s, []*x509.Certificate{rootB.cert})
	eventually(t, "the other replica follows", func() bool { return sameCerts(second.Roots(), both) })
	issue(t, second, []*x509.Certificate{rootB.cert})
	if now, _ := metric(t, s, "signet_ca_plugged_refused", ""); now != 0 {
		t.Error("still counted as refused")
	}
	if _, n := metric(t, s, "signet_ca_root_not_after_seconds", slotRetiring); n != 1 {
		t.Errorf("%d retiring roots in the metrics", n)
	}
	// A restart knows of the retiring root.
	third, err := share(t, store, operator, nil)
	if err != nil || !sameCerts(third.Roots(), both) {
		t.Errorf("after a restart: %v", err)
	}
	if !strings.Contains(string(store.files[SlotsFile]), `"slot": "retiring"`) {
		t.Error("the old root is not stored as retiring")
	}
}

func TestRetiringEnds(t *testing.T) {
	root := makeCA(t, "a", nil, nil, nil)
	store, operator := &memory{}, &memory{}
	s := run(t, store, operator, func(o *SharedOptions) { o.LeafTTL = 6 * time.Second })
	own := s.Roots()[0]
	issue(t, s, []*x509.Certificate{own})
	operator.set(istio(t, root, root))
	eventually(t, "the operator's root is current and ours retires", func() bool { return sameCerts(s.Roots(), []*x509.Certificate{root.cert, own}) })
	if stored, err := store.Load(t.Context()); err != nil || strings.Contains(string(stored.Files[SlotsFile]), "KEY") {
		t.Errorf("%v, or the key of a root that retires is still stored", err)
	}
	issue(t, s, []*x509.Certificate{root.cert})
	eventually(t, "ours has retired", func() bool { return sameCerts(s.Roots(), []*x509.Certificate{root.cert}) })
	eventually(t, "and is not stored", func() bool {
		stored, _ := store.Load(t.Context())
		return !strings.Contains(string(stored.Files[SlotsFile]), slotRetiring)
	})
}

// TestFollowFaults: a store that fails changes nothing in use, and what was missed is caught up with.
func TestFollowFaults(t *testing.T) {
	root := makeCA(t, "a", nil, nil, nil)
	store, operator := &memory{}, &memory{}
	s := run(t, store, operator, nil)
	own := s.Roots()
	for _, stored := range []bool{false, true} {
		store.mu.Lock()
		store.fault, store.stored = errors.New("timeout"), stored
		store.mu.Unlock()
		before := s.Roots()
		operator.set(istio(t, root, root))
		eventually(t, "it is taken after all", func() bool { return len(s.Roots()) > len(before) })
		root = makeCA(t, "another", nil, nil, nil)
	}
	if !s.Roots()[len(s.Roots())-1].Equal(own[0]) && !s.Roots()[1].Equal(own[0]) {
		t.Error("our own root is not trusted any more")
	}
	store.mu.Lock()
	store.away = errors.New("API server is away")
	store.mu.Unlock()
	operator.set(istio(t, root, root))
	eventually(t, "the failure is counted", func() bool { n, _ := metric(t, s, "signet_ca_state_failures_total", ""); return n > 2 })
	issue(t, s, s.Roots())
	// The slots vanish, and the plugged-in CA with them: what is in use is put back, nothing new is made.
	before := s.Roots()
	store.mu.Lock()
	store.away, store.files = nil, nil
	operator.files = nil
	operator.put(nil)
	store.put(nil)
	store.mu.Unlock()
	eventually(t, "the slots are back", func() bool { stored, _ := store.Load(t.Context()); return stored.Version != "" })
	if again, err := share(t, store, nil, nil); err == nil || !sameCerts(s.Roots(), before) {
		t.Errorf("a restart without the plugged-in CA has %v, and the roots are %d, want those before", again, len(s.Roots()))
	}
	issue(t, s, before)
}

// TestSlotsAreRestored: whoever deletes the slots under a running replica takes nobody's root away, and one that finds others in
// their place goes on trusting its own.
func TestSlotsAreRestored(t *testing.T) {
	store := &memory{}
	s := run(t, store, nil, nil)
	own := s.Roots()
	store.mu.Lock()
	store.files = nil
	store.put(nil)
	store.mu.Unlock()
	eventually(t, "the slots are back", func() bool { stored, _ := store.Load(t.Context()); return stored.Version != "" })
	second, err := share(t, store, nil, nil)
	if err != nil || !sameCerts(second.Roots(), own) {
		t.Fatalf("a second replica has another root: %v", err)
	}
	issue(t, second, own)

	elsewhere := &memory{}
	if _, err := share(t, elsewhere, nil, nil); err != nil {
		t.Fatal(err)
	}
	stored, err := elsewhere.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store.mu.Lock()
	store.files = nil
	store.put(stored.Files)
	store.mu.Unlock()
	eventually(t, "the other root signs, and ours retires", func() bool { r := s.Roots(); return len(r) == 2 && r[1].Equal(own[0]) })
	issue(t, s, s.Roots()[:1])
}

// TestAnnounced: the root of a plugged-in CA is trusted everywhere before anything is signed under it; one that is taken back
// before that never signs, and one that can't sign is not even published.
func TestAnnounced(t *testing.T) {
	slow := func(o *SharedOptions) { o.Announce = 2 * time.Second }
	store, operator := &memory{}, &memory{}
	s, second := run(t, store, operator, slow), run(t, store, operator, slow)
	own := s.Roots()
	root := makeCA(t, "a", nil, nil, nil)
	good := istio(t, root, root)
	bad := istio(t, makeCA(t, "narrow", &root, nil, func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.test"}, true
	}), root)
	operator.set(bad)
	eventually(t, "a CA that can't sign is refused", func() bool { n, _ := metric(t, s, "signet_ca_plugged_refused", ""); return n == 1 })
	if !sameCerts(s.Roots(), own) {
		t.Error("and yet its root is published")
	}
	operator.set(good)
	both := []*x509.Certificate{own[0], root.cert}
	for _, r := range []*Shared{s, second} {
		eventually(t, "the new root is trusted", func() bool { return sameCerts(r.Roots(), both) })
		issue(t, r, own) // but the old one signs
	}
	if third, err := share(t, store, operator, slow); err != nil || !sameCerts(third.Roots(), both) {
		t.Errorf("a replica that starts meanwhile: %v", err)
	} else {
		issue(t, third, own)
	}
	operator.mu.Lock()
	operator.files = nil
	operator.put(nil)
	operator.mu.Unlock()
	eventually(t, "it is taken back", func() bool { return sameCerts(s.Roots(), own) && sameCerts(second.Roots(), own) })
	operator.set(good)
	signs := []*x509.Certificate{root.cert, own[0]}
	for _, r := range []*Shared{s, second} {
		eventually(t, "the new root signs", func() bool { return sameCerts(r.Roots(), signs) })
		issue(t, r, signs[:1])
	}
}

func TestSharedRenews(t *testing.T) {
	s := run(t, &memory{}, nil, func(o *SharedOptions) { o.IntermediateTTL = 6 * time.Second })
	first := s.Current().Chain()[0]
	eventually(t, "a new intermediate", func() bool { return !s.Current().Chain()[0].Equal(first) })
	if !time.Now().Before(first.NotAfter) {
		t.Error("the old one had ended before")
	}
	issue(t, s, s.Roots())
}
