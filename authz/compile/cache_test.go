package compile

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// references are those of all rules, by name.
func references(e *engine) map[string]*authz.RuleRef {
	out := map[string]*authz.RuleRef{}
	for _, s := range append(slices.Clone(e.customs), &ruleSet{policies: slices.Concat(e.judged[0], e.judged[1], e.judged[2], e.shadows)}) {
		for _, p := range s.policies {
			for _, r := range p.rules {
				out[r.ref.ID] = r.ref
			}
		}
	}
	return out
}

// A program of a cache that has seen many changes judges as one compiled afresh does, and policies that didn't change keep
// their references.
func TestCacheAgainstFresh(t *testing.T) {
	w, r := vocabulary(), rand.New(rand.NewPCG(23, 42))
	o := options
	o.Provider = customs()
	mended := 0
	for range 5 {
		cache := NewCache()
		cache.threshold = 1
		policies := make([]*policy, 0, 60)
		for i := range 50 {
			policies = append(policies, w.policy(r, fmt.Sprintf("p%02d", i)))
		}
		var before map[string]*authz.RuleRef
		for range 25 {
			e, err := cache.compile(policies, o)
			if err != nil {
				t.Fatal(err)
			}
			linear, err := build(policies, o, 0)
			if err != nil {
				t.Fatal(err)
			}
			e.audit(t)
			pair{linear, e}.compare(t, w, r, 40)
			for _, s := range []set{e.http.audit, e.http.deny, e.http.allow, e.tcp.audit, e.tcp.deny, e.tcp.allow} {
				if s.index != nil && s.index.edits > 0 {
					mended++
				}
			}
			now := references(e)
			changed := map[string]bool{}
			policies = w.changed(r, policies, changed)
			for id, ref := range before {
				if now[id] != nil && now[id] != ref {
					t.Fatalf("%s has another reference, and its policy did not change", id)
				}
			}
			for id, ref := range now {
				if changed[ref.Namespace+"/"+ref.Policy] {
					delete(now, id)
				}
			}
			before = now
		}
	}
	if mended < 200 {
		t.Errorf("only %d indexes were mended: the comparison shows little", mended)
	}
}

// changed is the policies with some changed, decoded anew, added, removed or shuffled; it notes whose content changed.
func (w words) changed(s choices, policies []*policy, changed map[string]bool) []*policy {
	out := slices.Clone(policies)
	note := func(p *policy) { changed[p.Namespace+"/"+p.Name] = true }
	for range 1 + s.IntN(3) {
		i := s.IntN(len(out))
		switch s.IntN(5) {
		case 0, 1:
			note(out[i])
			out[i] = w.policy(s, out[i].Name)
			note(out[i])
		case 2: // the same, decoded anew
			again := *out[i]
			again.Spec = proto.CloneOf(again.Spec)
			out[i] = &again
		case 3:
			note(out[i])
			out = slices.Delete(out, i, i+1)
		case 4:
			k := s.IntN(len(out))
			out[i], out[k] = out[k], out[i]
		}
	}
	if s.IntN(3) == 0 {
		out = append(out, w.policy(s, fmt.Sprintf("q%03d", s.IntN(1000))))
		out = slices.CompactFunc(out, func(a, b *policy) bool { return a.Key == b.Key })
		note(out[len(out)-1])
	}
	return out
}

// What was returned goes on as it was: a cache changes nothing that a program shares.
func TestCacheLeavesProgramsAlone(t *testing.T) {
	w, r := vocabulary(), rand.New(rand.NewPCG(7, 7))
	cache := NewCache()
	cache.threshold = 1
	o := options
	o.Provider = customs()
	var policies []*policy
	for i := range 150 {
		policies = append(policies, w.policy(r, fmt.Sprintf("p%02d", i)))
	}
	var was []pair
	mended := 0
	for range 20 {
		e, err := cache.compile(policies, o)
		if err != nil {
			t.Fatal(err)
		}
		if e.http.deny.index.edits > 0 {
			mended++
		}
		linear, err := build(policies, o, 0)
		if err != nil {
			t.Fatal(err)
		}
		was = append(was, pair{linear, e})
		policies = w.changed(r, policies, map[string]bool{})
	}
	for _, p := range was {
		p.compare(t, w, r, 20)
		p.indexed.audit(t)
	}
	if mended < 10 {
		t.Errorf("only %d of 20 indexes were mended", mended)
	}
}

// audit checks that each index files the rules of its set and no others, each where it is found, in order.
func (e *engine) audit(t *testing.T) {
	t.Helper()
	for _, s := range []set{e.http.audit, e.http.deny, e.http.allow, e.tcp.audit, e.tcp.deny, e.tcp.allow} {
		if s.index == nil {
			continue
		}
		known := make(map[*rule]bool, len(s.rules))
		for _, r := range s.rules {
			known[r] = true
			if !s.index.finds(r) {
				t.Errorf("%s is not filed where it is looked up", r.ref.ID)
			}
		}
		for _, b := range s.index.buckets() {
			if !slices.IsSortedFunc(b, func(a, b *rule) int { return cmp.Compare(btoi(b.before(a)), btoi(a.before(b))) }) {
				t.Errorf("a bucket is not in order")
			}
			for _, r := range b {
				if !known[r] {
					t.Errorf("%s is filed and not of the set", r.ref.ID)
				}
			}
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (x *index) finds(r *rule) bool {
	return slices.Contains(x.residual, r) || slices.ContainsFunc(r.keySets(), func(s keySet) bool {
		return !slices.ContainsFunc(s, func(k indexKey) bool { return !slices.Contains(x.lookups[k.dim].bucket(k), r) })
	})
}

func (x *index) buckets() [][]*rule {
	out := [][]*rule{x.residual}
	var walk func(n *node)
	walk = func(n *node) {
		out = append(out, n.rules)
		for _, e := range n.edges {
			walk(e.to)
		}
	}
	for _, l := range x.lookups {
		out = slices.AppendSeq(out, maps.Values(l.exact))
		for _, tree := range []*radix{l.prefix, l.suffix} {
			if tree != nil {
				walk(&tree.root)
			}
		}
	}
	return out
}

func TestCacheSeesWhatCounts(t *testing.T) {
	cache := NewCache()
	conn, req := call{peer: "spiffe://td.example/ns/shop/sa/web", path: "/"}.read(t)
	p := parse(t, "shop", "p", `{action: DENY, rules: [{from: [{source: {principals: [td.example/ns/shop/sa/web]}}]}]}`)
	allowed := func(p *policy, o Options) bool {
		t.Helper()
		program, err := cache.Compile([]*policy{p}, o)
		if err != nil {
			t.Fatal(err)
		}
		_, d := program.Decide(conn, req)
		return d.Allowed
	}
	if allowed(p, options) {
		t.Error("the policy does not deny")
	}
	inDryRun := *p
	inDryRun.Annotations = map[string]string{dryRun: "true"}
	if !allowed(&inDryRun, options) {
		t.Error("its new annotation is not seen")
	}
	if allowed(p, options) {
		t.Error("nor that it is gone")
	}
	renamed := *p
	renamed.Name = "q"
	if program, err := cache.Compile([]*policy{&renamed}, options); err != nil {
		t.Fatal(err)
	} else if _, d := program.Decide(conn, req); d.Rule == nil || d.Rule.Policy != "q" {
		t.Errorf("its new name is not seen: %+v", d)
	}
	other := p
	other.Spec = &security.AuthorizationPolicy{Action: security.AuthorizationPolicy_DENY, Rules: []*security.Rule{
		{From: []*security.Rule_From{{Source: &security.Source{Principals: []string{"old.example/ns/shop/sa/web"}}}}}}}
	if allowed(other, options) {
		t.Error("an alias of the trust domain is not seen")
	}
	if !allowed(other, Options{TrustDomain: "td.example", RootNamespace: "istio-system"}) {
		t.Error("aliases that are gone are still seen")
	}
	broken := *p
	broken.Spec = &security.AuthorizationPolicy{Action: security.AuthorizationPolicy_DENY}
	if _, err := cache.Compile([]*policy{p, &broken}, options); err == nil {
		t.Error("a broken policy is accepted")
	}
	if allowed(p, options) || len(cache.kept) != 1 {
		t.Errorf("after an error: %d kept", len(cache.kept))
	}
}

// A provider that resolves to another authority, or to none any more, is seen though its policies are the same.
func TestCacheResolvesAnew(t *testing.T) {
	cache, o := NewCache(), options
	policies := []*policy{custom(t, "a", "x", `{from: [{source: {requestPrincipals: ["*"]}}]}`), custom(t, "b", "x", `{}`)}
	var custom *authz.Custom
	o.Provider = func(string, string) *authz.Custom { return custom }
	handover := func() *authz.Custom {
		t.Helper()
		p, err := cache.Compile(policies, o)
		if err != nil {
			t.Fatal(err)
		}
		h := p.Engine().Handovers()
		if len(h) != 1 {
			t.Fatalf("%d handovers", len(h))
		}
		return h[0].Custom
	}
	first := handover()
	if first.Authority != nil || first != handover() {
		t.Error("an unresolved provider is not one and the same")
	}
	custom = &authz.Custom{Ref: authz.NewRef("RegoPolicy", "shop", "x", -1), AfterToken: true}
	if handover() != custom {
		t.Error("its coming is not seen")
	}
	custom = nil
	if handover().Authority != nil {
		t.Error("its going is not seen")
	}
	custom = &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", "x", -1)}
	if _, err := cache.Compile(policies, o); err == nil {
		t.Error("a provider that is asked before tokens is accepted for a policy that was read before")
	}
}

// Two policies of one name are both judged, now and when one of them goes.
func TestCacheOfTwins(t *testing.T) {
	cache := NewCache()
	cache.threshold = 1
	twin := func(path string) *policy {
		return parse(t, "shop", "twin", `{action: DENY, rules: [{to: [{operation: {paths: [`+path+`]}}]}]}`)
	}
	a, b, other := twin("/a"), twin("/b"), parse(t, "shop", "z", `{action: DENY, rules: [{to: [{operation: {paths: [/1]}}]}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}]}`)
	other.Spec.Rules = slices.Repeat(other.Spec.Rules[:1], 30)
	for _, c := range []struct {
		policies []*policy
		denied   string
	}{
		{[]*policy{a, b, other}, "/a /b"}, {[]*policy{a, a, other}, "/a"}, {[]*policy{a, other}, "/a"}, {[]*policy{b, a, other}, "/a /b"},
		{[]*policy{b, other}, "/b"}, {[]*policy{a, b, other}, "/a /b"}, {[]*policy{other}, ""},
	} {
		e, err := cache.compile(c.policies, options)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/a", "/b"} {
			conn, req := call{path: path}.read(t)
			if d := e.Judge(conn, req); d.Allowed == strings.Contains(c.denied, path) {
				t.Errorf("%d policies: %s: %+v", len(c.policies), path, d)
			}
		}
	}
}

// A cached policy is not read again: what it costs is far less than reading, so 1 change of 1,000 reads one.
func TestCacheReadsOnlyWhatChanged(t *testing.T) {
	cache := NewCache()
	s := shapes()[0]
	policies := s.policies(1000)
	compiled := func() *engine {
		e, err := cache.compile(policies, options)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := compiled()
	if again := compiled(); again.http.allow.index != first.http.allow.index || again.tcp.allow.index != first.tcp.allow.index {
		t.Error("an index is made anew though nothing changed")
	}
	changed := *policies[50]
	changed.Spec = proto.CloneOf(changed.Spec)
	changed.Spec.Rules[3].To[0].Operation.Paths = []string{"/changed"}
	policies[50] = &changed
	e := compiled()
	anew := 0
	for i, p := range e.judged[2] {
		if p != first.judged[2][i] {
			anew++
		}
	}
	if anew != 1 || e.http.allow.index.edits != 20 {
		t.Errorf("%d policies were read, %d edits of the index", anew, e.http.allow.index.edits)
	}
	extra := &policy{Meta: mesh.Meta{Key: mesh.Key{Namespace: "shop", Name: "zz"}}, Spec: &security.AuthorizationPolicy{
		Action: security.AuthorizationPolicy_DENY, Rules: []*security.Rule{{}}}}
	policies = append(policies, extra)
	if next := compiled(); next.http.allow.index != e.http.allow.index || len(next.http.deny.rules) != 1 {
		t.Error("a new DENY policy touches the index of ALLOW")
	}
}
