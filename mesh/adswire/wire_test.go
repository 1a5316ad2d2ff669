package adswire

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

const trustDomain = "cluster.local"

// snapshot builds testdata/shop.yaml, with pairs of old and new text replaced.
func snapshot(t testing.TB, replace ...string) *mesh.Snapshot {
	t.Helper()
	raw, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(replace...).Replace(string(raw))
	if len(replace) > 0 && text == string(raw) {
		t.Fatalf("nothing was replaced by %q", replace)
	}
	objects, problems := mesh.Parse("shop.yaml", []byte(text), mesh.ParseOptions{
		TrustDomain: trustDomain, Now: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	})
	s, more := mesh.Build(objects, mesh.BuildOptions{TrustDomain: trustDomain, Control: &policy.ControlSettings{
		RateLimitStore: &policy.RateLimitStore{Url: "rediss://redis.example:6379", Password: "secret"}, RegoBuiltins: []string{"http.send"}}})
	for _, p := range append(problems, more...) {
		if p.Severity == mesh.Refused {
			t.Fatalf("%v", &p)
		}
	}
	return s
}

func view(t testing.TB, s *mesh.Snapshot, node string) *mesh.View {
	t.Helper()
	ns, name, _ := strings.Cut(node, "/")
	v, ok := s.View(ns, name)
	if !ok {
		t.Fatalf("no view of %s", node)
	}
	return v
}

func encode(t testing.TB, v *mesh.View) (*Set, Marker) {
	t.Helper()
	var e Encoder
	set, m, err := e.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return set, m
}

// receive takes steps as a proxy would: through protocol buffers, resource by resource.
func receive(t testing.TB, set *Set, steps []Step) (*Set, Marker) {
	t.Helper()
	var last Marker
	for _, s := range steps {
		var changed []Resource
		for _, r := range s.Changed {
			w := overTheWire(t, r)
			var err error
			if s.Type == GenerationType {
				if last, err = ParseMarker(w); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if r, err = Parse(s.Type, w, trustDomain); err != nil {
				t.Fatal(err)
			}
			changed = append(changed, r)
		}
		if s.Type == GenerationType {
			continue
		}
		var err error
		if set, err = set.With(s.Type, changed, s.Removed); err != nil {
			t.Fatal(err)
		}
	}
	return set, last
}

func overTheWire(t testing.TB, r Resource) *discovery.Resource {
	t.Helper()
	raw, err := proto.Marshal(r.Wire())
	if err != nil {
		t.Fatal(err)
	}
	var w discovery.Resource
	if err := proto.Unmarshal(raw, &w); err != nil {
		t.Fatal(err)
	}
	return &w
}

var nodes = []string{"shop/frontend", "shop/reviews-v1", "bank/ledger"}

func TestViewSurvivesTheWire(t *testing.T) {
	s := snapshot(t)
	for _, node := range nodes {
		t.Run(node, func(t *testing.T) {
			want := view(t, s, node)
			set, m := encode(t, want)
			steps, err := Steps(Versions{}, set, m)
			if err != nil {
				t.Fatal(err)
			}
			held, marker := receive(t, &Set{}, steps)
			got, err := held.View(marker)
			if err != nil {
				t.Fatal(err)
			}
			if diff := different(want, got); diff != "" {
				t.Error(diff)
			}
			again, _ := encode(t, got)
			if a, b := again.Marker("", "").Generation(), set.Marker("", "").Generation(); a != b {
				t.Errorf("the view that arrived encodes to generation %s, not %s", a, b)
			}
		})
	}
}

// different names the first field of two views that differs.
func different(a, b *mesh.View) string {
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if d := differentValue(x.Field(i), y.Field(i), x.Type().Field(i).Name); d != "" {
			return d
		}
	}
	return ""
}

func differentValue(a, b reflect.Value, path string) string {
	if m, ok := a.Interface().(proto.Message); ok {
		if n, ok := b.Interface().(proto.Message); !ok || !proto.Equal(m, n) {
			return path + ": " + a.String() + " is not " + b.String()
		}
		return ""
	}
	switch a.Kind() {
	case reflect.Interface, reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return path + ": one is nil"
			}
			return ""
		}
		return differentValue(a.Elem(), b.Elem(), path)
	case reflect.Map:
		if a.Len() != b.Len() {
			return path + ": lengths differ"
		}
		for _, k := range a.MapKeys() {
			if !b.MapIndex(k).IsValid() {
				return path + ": one has no " + k.String()
			}
			if d := differentValue(a.MapIndex(k), b.MapIndex(k), path+"["+k.String()+"]"); d != "" {
				return d
			}
		}
		return ""
	case reflect.Slice:
		if a.Len() != b.Len() {
			return path + ": lengths differ"
		}
		for i := range a.Len() {
			if d := differentValue(a.Index(i), b.Index(i), path+"[]"); d != "" {
				return d
			}
		}
		return ""
	case reflect.Struct:
		if ta, ok := a.Interface().(time.Time); ok {
			if !ta.Equal(b.Interface().(time.Time)) {
				return path + ": times differ"
			}
			return ""
		}
		if strings.HasSuffix(a.Type().PkgPath(), "/mesh") {
			for i := range a.NumField() {
				if f := a.Type().Field(i); f.IsExported() {
					if d := differentValue(a.Field(i), b.Field(i), path+"."+f.Name); d != "" {
						return d
					}
				}
			}
			return ""
		}
	}
	if !reflect.DeepEqual(a.Interface(), b.Interface()) {
		return path + " differs"
	}
	return ""
}

// What a proxy needs of the judging kinds arrives, and nothing that it does not need.
func TestJudgingKindsTravel(t *testing.T) {
	s := snapshot(t)
	for _, c := range []struct {
		node                        string
		rego, tokens, limits, paths int
		store                       bool
	}{
		{"shop/reviews-v1", 1, 1, 1, 1, true},
		{"shop/frontend", 0, 1, 0, 1, false},
		{"bank/ledger", 0, 1, 0, 1, false},
	} {
		set, m := encode(t, view(t, s, c.node))
		steps, err := Steps(Versions{}, set, m)
		if err != nil {
			t.Fatal(err)
		}
		held, marker := receive(t, &Set{}, steps)
		v, err := held.View(marker)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Rego) != c.rego || len(v.RequestAuthentication) != c.tokens || len(v.RateLimits) != c.limits || len(v.RouteLimits) != c.paths {
			t.Errorf("%s: %d RegoPolicies, %d RequestAuthentications, %d and %d limits", c.node, len(v.Rego), len(v.RequestAuthentication), len(v.RateLimits), len(v.RouteLimits))
		}
		if (v.LimitStore != nil) != c.store || (v.RegoBuiltins != nil) != c.store || (v.Authorizers["guard"] != nil) != c.store {
			t.Errorf("%s: store %v, functions %v, authorizers %v", c.node, v.LimitStore, v.RegoBuiltins, v.Authorizers)
		}
		if c.store && (v.LimitStore.Password != "secret" || len(v.Authorizers["guard"].Endpoints[0]) != 1 || v.Service("vault.bank.svc.cluster.local", "shop") != nil) {
			t.Errorf("%s: store or authorizer came without what makes it: %v", c.node, v.Authorizers["guard"])
		}
		for typ := range set.byType {
			for name, r := range set.byType[typ].byName {
				if strings.Contains(string(r.Body.GetValue()), "secret") != (c.store && typ == "signet.dev/v1/ControlSettings") {
					t.Errorf("%s: the password is where it should not be, or is not where it should be: %s %s", c.node, typ, name)
				}
			}
		}
	}
}

func TestPositionAndVersionTravel(t *testing.T) {
	set, _ := encode(t, view(t, snapshot(t), "shop/frontend"))
	r := set.byType["networking.istio.io/v1/ServiceEntry"].byName["shop/reviews"]
	got, err := Parse(r.Type, overTheWire(t, r), trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	o := got.object
	if o.Position.File != "shop.yaml" || o.Position.Line == 0 || o.Version != "v1beta1" {
		t.Errorf("position %v, version %q", o.Position, o.Version)
	}
	if want := map[string]string{"owner": "team-reviews"}; !reflect.DeepEqual(o.Annotations, want) {
		t.Errorf("annotations are %v, not %v", o.Annotations, want)
	}
}

func TestEncodingIsDeterministic(t *testing.T) {
	_, want := encode(t, view(t, snapshot(t), "shop/frontend"))
	for range 20 {
		if _, m := encode(t, view(t, snapshot(t), "shop/frontend")); m.Generation() != want.Generation() {
			t.Fatalf("generation %s, then %s", want.Generation(), m.Generation())
		}
	}
	_, other := encode(t, view(t, snapshot(t), "shop/reviews-v1"))
	if other.Generation() == want.Generation() {
		t.Error("two workloads share a generation")
	}
}

func TestStepsOrder(t *testing.T) {
	before, m := encode(t, view(t, snapshot(t), "shop/frontend"))
	full, err := Steps(Versions{}, before, m)
	if err != nil {
		t.Fatal(err)
	}
	has := Versions{}
	var order []string
	for _, s := range full {
		order = append(order, s.Type)
		has.Record(s)
	}
	if !slices.IsSortedFunc(order[:len(order)-1], func(a, b string) int { return rank(a) - rank(b) }) || order[len(order)-1] != GenerationType {
		t.Errorf("order of a first push is %q", order)
	}
	if again, _ := Steps(has, before, m); len(again) != 0 {
		t.Errorf("a proxy that holds everything is sent %d steps", len(again))
	}

	// The service gets another host: the old endpoints must go after the new route came.
	after, m := encode(t, view(t, snapshot(t, "reviews.shop.svc.cluster.local", "ratings.shop.svc.cluster.local"), "shop/frontend"))
	steps, err := Steps(has, after, m)
	if err != nil {
		t.Fatal(err)
	}
	order = order[:0]
	for _, s := range steps {
		what := "+"
		if len(s.Removed) > 0 {
			what = "-"
		}
		order = append(order, what+s.Type)
	}
	want := []string{
		"+" + EndpointType, "+networking.istio.io/v1/ServiceEntry", "+networking.istio.io/v1/DestinationRule",
		"+networking.istio.io/v1/VirtualService", "-" + EndpointType, "+" + GenerationType,
	}
	if !slices.Equal(order, want) {
		t.Errorf("order of a change is\n%q, not\n%q", order, want)
	}
	held, marker := receive(t, first(t, full), steps)
	if err := held.Check(marker); err != nil {
		t.Error(err)
	}
}

func first(t *testing.T, steps []Step) *Set {
	set, _ := receive(t, &Set{}, steps)
	return set
}

func TestStepsAreChunked(t *testing.T) {
	byName := map[string]Resource{}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		r := Resource{Type: EndpointType, Name: strings.Repeat(n, ChunkBytes/2-100), Version: n}
		byName[r.Name] = r
	}
	steps := appendChanges(nil, EndpointType, nil, byName)
	var sizes []int
	for _, s := range steps {
		if s.Bytes() > ChunkBytes {
			t.Errorf("a step of %d bytes", s.Bytes())
		}
		sizes = append(sizes, len(s.Changed))
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Errorf("chunks of %v resources", sizes)
	}
}

func TestCheckNamesWhatDiffers(t *testing.T) {
	set, m := encode(t, view(t, snapshot(t), "shop/frontend"))
	less, err := set.With("networking.istio.io/v1/VirtualService", nil, []string{"shop/reviews"})
	if err != nil {
		t.Fatal(err)
	}
	if err := less.Check(m); err == nil || !strings.Contains(err.Error(), "VirtualService") {
		t.Errorf("a missing VirtualService: %v", err)
	}
	if _, err := less.View(m); err == nil {
		t.Error("a view was built of half a generation")
	}
}

func TestSetLimits(t *testing.T) {
	var many []Resource
	for i := range MaxResources + 1 {
		many = append(many, Resource{Name: string(rune('a'+i%26)) + strings.Repeat("x", i%7) + time.Duration(i).String()})
	}
	if _, err := (&Set{}).With(EndpointType, many, nil); err == nil {
		t.Errorf("%d resources were taken", len(many))
	}
	if set, err := (&Set{}).With(EndpointType, many[:10], nil); err != nil || set.Len() != 10 {
		t.Errorf("10 resources: %v", err)
	}
}

func differentEndpoint(a, b mesh.Endpoint) string {
	return differentValue(reflect.ValueOf(a), reflect.ValueOf(b), "endpoint")
}
