package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/structpb"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// ledger is what became of parts, in order.
type ledger struct {
	mu    sync.Mutex
	lines []string
}

func (l *ledger) note(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, s)
}

// has waits until something was noted.
func (l *ledger) has(t *testing.T, s string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !slices.Contains(l.all(), s); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q never happened, but %q", s, l.all())
		}
	}
}

func (l *ledger) lacks(t *testing.T, s string) {
	t.Helper()
	if slices.Contains(l.all(), s) {
		t.Fatalf("%q happened", s)
	}
}

func (l *ledger) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// tool is a part that notes its life.
type tool struct {
	name string
	l    *ledger
}

func (o *tool) Close() { o.l.note(o.name + " closed") }

func (o *tool) run(ctx context.Context) error {
	o.l.note(o.name + " runs")
	<-ctx.Done()
	o.l.note(o.name + " ended")
	return nil
}

func newBench(t *testing.T) (*parts, *ledger) {
	t.Helper()
	p := newParts(slog.New(slog.DiscardHandler), "shop/cart", "")
	p.life, p.drain = t.Context(), time.Hour
	return p, &ledger{}
}

// take asks for a part of that key; made is whether it was built.
func take(t *testing.T, p *parts, l *ledger, key, name string) (got *tool, made bool) {
	t.Helper()
	got, err := keep(p, key, func() (*tool, func(context.Context) error, error) {
		made = true
		o := &tool{name, l}
		return o, o.run, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, made
}

func TestPartsAreKept(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, l := newBench(t)
	p.begin()
	first, made := take(t, p, l, "k", "first")
	if again, twice := take(t, p, l, "k", "first again"); !made || twice || again != first {
		t.Fatal("asked for twice, it was made twice")
	}
	l.lacks(t, "first runs") // not before commit
	p.commit()
	l.has(t, "first runs")

	p.begin()
	if kept, made := take(t, p, l, "k", "second"); made || kept != first {
		t.Fatal("what did not change was made again")
	}
	take(t, p, l, "other", "other")
	p.commit()
	l.has(t, "other runs")
	l.lacks(t, "first ended")

	p.begin()
	take(t, p, l, "other", "another")
	p.commit()
	l.has(t, "first ended")
	l.lacks(t, "first closed") // a request may still be asking it
	l.lacks(t, "other ended")

	p.stop()
	for _, want := range []string{"first closed", "other ended", "other closed"} {
		if !slices.Contains(l.all(), want) {
			t.Errorf("after stop: %q, lacks %q", l.all(), want)
		}
	}
	if n := len(l.all()); n != 6 { // runs, ended, closed, each once
		t.Errorf("%q", l.all())
	}
}

func TestPartsAreClosedInTheEnd(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, l := newBench(t)
	p.drain = time.Millisecond
	p.begin()
	take(t, p, l, "k", "k")
	p.commit()
	p.begin()
	p.commit()
	l.has(t, "k closed")
	p.stop()
}

// A configuration that is not run changes nothing and leaves nothing.
func TestPartsOfNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, l := newBench(t)
	p.begin()
	kept, _ := take(t, p, l, "k", "k")
	p.commit()
	l.has(t, "k runs")
	p.begin()
	take(t, p, l, "k", "k")
	take(t, p, l, "new", "new")
	if _, err := keep(p, "bad", func() (*tool, func(context.Context) error, error) { return nil, nil, errors.New("no") }); err == nil {
		t.Error("a part that can't be made was kept")
	}
	p.abort()
	if got, want := l.all(), []string{"k runs", "new closed"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	p.begin()
	if again, made := take(t, p, l, "k", "k"); made || again != kept {
		t.Error("what runs was forgotten")
	}
	if _, made := take(t, p, l, "bad", "bad"); !made {
		t.Error("what can't be made was kept")
	}
	p.commit()
	p.stop()
}

// What ends by itself is told, by its name.
func TestPartsThatFail(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, l := newBench(t)
	p.failedRun = func(what string, err error) { l.note(what + ": " + err.Error()) }
	p.begin()
	if _, err := keep(p, "k", func() (int, func(context.Context) error, error) {
		return 1, func(context.Context) error { return errors.New("broken") }, nil
	}); err != nil {
		t.Fatal(err)
	}
	p.commit()
	l.has(t, "k: broken")
	p.stop()
}

// What a policy is compiled to is kept as long as all that it depends on is the same, and no secret is in its name.
func TestPartsOfPolicies(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, _ := newBench(t)
	regoOf := func(name, module string, builtins ...string) authz.Authority {
		t.Helper()
		a, err := p.Rego(&mesh.Typed[*policy.RegoPolicy]{Meta: mesh.Meta{Key: mesh.Key{Namespace: "shop", Name: name}},
			Spec: &policy.RegoPolicy{Query: "data.p.allow", Module: "package p\n" + module, Data: &structpb.Struct{}}}, &mesh.View{RegoBuiltins: builtins})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	provider := func(port uint32) *meshconfig.MeshConfig_ExtensionProvider {
		return &meshconfig.MeshConfig_ExtensionProvider{Name: "judge", Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc{
			EnvoyExtAuthzGrpc: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider{Service: "judge.shop", Port: port}}}
	}
	external := func(port uint32, cluster string) authz.Authority {
		t.Helper()
		a, err := p.ExtAuthz(provider(port), cluster)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	p.begin()
	a, e := regoOf("p", "allow := true"), external(9000, "c")
	for what, different := range map[string]bool{
		"the same RegoPolicy": regoOf("p", "allow := true") != a, "the same provider": external(9000, "c") != e,
	} {
		if different {
			t.Errorf("%s was built twice", what)
		}
	}
	for what, same := range map[string]bool{
		"another name": regoOf("q", "allow := true") == a, "another module": regoOf("p", "allow := false") == a,
		"other builtins": regoOf("p", "allow := true", "http.send") == a, "another port": external(9001, "c") == e, "another cluster": external(9000, "d") == e,
	} {
		if same {
			t.Errorf("%s: not built anew", what)
		}
	}
	if _, err := p.Rego(&mesh.Typed[*policy.RegoPolicy]{Spec: &policy.RegoPolicy{Query: "data.p.allow", Module: "package"}}, &mesh.View{}); err == nil {
		t.Error("a broken module was built")
	}
	if store, err := p.store(&mesh.View{}, "x"); store != nil || err != nil {
		t.Errorf("without a store: %v, %v", store, err)
	}
	if _, err := p.store(&mesh.View{LimitStore: &policy.RateLimitStore{Url: "redis://127.0.0.1:1", Password: "hush"}}, "x"); err != nil {
		t.Fatal(err)
	}
	for key := range p.next {
		if strings.Contains(key, "hush") {
			t.Errorf("a secret is in %q", key)
		}
	}
	remote := &security.JWTRule{Issuer: "http://127.0.0.1:1"}
	k1, err1 := p.Keys(nil, remote)
	k2, err2 := p.Keys(nil, &security.JWTRule{Issuer: "http://127.0.0.1:1", Audiences: []string{"a"}})
	if err1 != nil || err2 != nil || k1 != k2 {
		t.Errorf("keys of one issuer: %v, %v, the same %v", err1, err2, k1 == k2)
	}
	if _, err := p.dial(t.Context(), ""); err == nil {
		t.Error("a service that is not there was dialled")
	}
	p.abort()
	p.stop()
}
