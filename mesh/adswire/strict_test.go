package adswire

import (
	"math"
	"slices"
	"strings"
	"testing"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	mcp "istio.io/api/mcp/v1alpha1"
	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"
	"istio.io/api/security/v1beta1"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

const (
	policyType = "security.istio.io/v1/AuthorizationPolicy"
	peerType   = "security.istio.io/v1/PeerAuthentication"

	tokenType   = "security.istio.io/v1/RequestAuthentication"
	regoType    = "policy.signet.dev/v1alpha1/RegoPolicy"
	limitType   = "policy.signet.dev/v1alpha1/RateLimitPolicy"
	controlType = "signet.dev/v1/ControlSettings"
)

// unknownField is field 1999 with the value 7.
func unknownField() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1999, protowire.VarintType), 7)
}

func object(meta *mcp.Metadata, spec proto.Message) func(t *testing.T) *anypb.Any {
	return func(t *testing.T) *anypb.Any {
		return mustAny(t, &mcp.Resource{Metadata: meta, Body: mustAny(t, spec)})
	}
}

func mustAny(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := marshalAny(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func policyWithUnknownField() *security.AuthorizationPolicy {
	op := &security.Operation{Paths: []string{"/x"}}
	op.ProtoReflect().SetUnknown(unknownField())
	return &security.AuthorizationPolicy{Rules: []*security.Rule{{To: []*security.Rule_To{{Operation: op}}}}}
}

func metaWithUnknownField() *mcp.Metadata {
	m := &mcp.Metadata{Name: "ns/a"}
	m.ProtoReflect().SetUnknown(unknownField())
	return m
}

func assignmentOf(t *testing.T, change func(*endpoint.ClusterLoadAssignment)) *anypb.Any {
	cla, err := assignment("outbound|80||h", []mesh.Endpoint{{Address: "127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	change(cla)
	return mustAny(t, cla)
}

type refusal struct {
	name, typ, resource string
	body                func(t *testing.T) *anypb.Any
	want                string
}

// refusedObjects are resources of authored objects that must not be taken, with a part of the error.
func refusedObjects() []refusal {
	good := &mcp.Metadata{Name: "ns/a"}
	policy := &security.AuthorizationPolicy{}
	return []refusal{
		{"unknown type", "security.istio.io/v1/FancyPolicy", "ns/a", object(good, policy), "type is not known"},
		{"unknown field, deep", policyType, "ns/a", object(good, policyWithUnknownField()), "rules[0].to[0].operation has a field that this version does not know (number 1999)"},
		{"unknown enum", policyType, "ns/a", object(good, &security.AuthorizationPolicy{Action: 99}), "action has a value that this version does not know (number 99)"},
		{"unknown enum, in a map", peerType, "ns/a", object(good, &security.PeerAuthentication{
			PortLevelMtls: map[uint32]*security.PeerAuthentication_MutualTLS{80: {Mode: 77}}}), `port_level_mtls["80"].mode has a value`},
		{"unknown field of the metadata", policyType, "ns/a", object(metaWithUnknownField(), policy), "metadata has a field"},
		{"resource version", policyType, "ns/a", object(&mcp.Metadata{Name: "ns/a", Version: "7"}, policy), "metadata carries something unknown"},
		{"another name", policyType, "ns/b", object(good, policy), "another name"},
		{"no namespace", policyType, "a", object(good, policy), "is not NAMESPACE/NAME"},
		{"spec of another kind", policyType, "ns/a", object(good, &networking.Sidecar{}), "not \"istio.security.v1beta1.AuthorizationPolicy\""},
		{"bad position", policyType, "ns/a", object(&mcp.Metadata{Name: "ns/a", Annotations: map[string]string{positionAnnotation: "x"}}, policy), "LINE:COLUMN:FILE"},
	}
}

// refusedJudges are resources of the kinds that judge beside AuthorizationPolicy, and of what the control plane itself says.
func refusedJudges() []refusal {
	good := &mcp.Metadata{Name: "ns/a"}
	limit := func(change func(*policy.RateLimitRule)) *policy.RateLimitPolicy {
		r := &policy.RateLimitRule{Limit: &policy.Limit{Requests: 1, Unit: policy.Limit_Second}}
		change(r)
		return &policy.RateLimitPolicy{Local: &policy.RateLimit{Rules: []*policy.RateLimitRule{r}}}
	}
	rego := func(data *structpb.Struct) *policy.RegoPolicy {
		return &policy.RegoPolicy{Query: "data.a.b", Module: "package a", Data: data}
	}
	rule := &v1beta1.JWTRule{Issuer: "a", Jwks: "{}"}
	rule.ProtoReflect().SetUnknown(unknownField())
	unset := &structpb.Struct{Fields: map[string]*structpb.Value{"a": {}}}
	nan := &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(math.NaN())}}
	return []refusal{
		{"unknown field of a token rule", tokenType, "ns/a", object(good, &security.RequestAuthentication{JwtRules: []*v1beta1.JWTRule{rule}}), "jwt_rules[0] has a field that this version does not know"},
		{"token rule that is not honoured", tokenType, "ns/a", object(good, &security.RequestAuthentication{JwtRules: []*v1beta1.JWTRule{{Issuer: "a", Jwks: "{}", SpaceDelimitedClaims: []string{"x"}}}}), "spaceDelimitedClaims"},
		{"data without a value", regoType, "ns/a", object(good, rego(unset)), "spec.data.a: has no value"},
		{"data that is no JSON", regoType, "ns/a", object(good, rego(nan)), "is no number as JSON writes one"},
		{"no module", regoType, "ns/a", object(good, &policy.RegoPolicy{Query: "data.a.b"}), "exactly one of them"},
		{"another version of the group", "policy.signet.dev/v1/RegoPolicy", "ns/a", object(good, rego(nil)), "type is not known"},
		{"unknown unit", limitType, "ns/a", object(good, limit(func(r *policy.RateLimitRule) { r.Limit.Unit = 77 })), "unit has a value that this version does not know"},
		{"no unit", limitType, "ns/a", object(good, limit(func(r *policy.RateLimitRule) { r.Limit.Unit = 0 })), "must be one of Second"},
		{"store failure without a store", limitType, "ns/a", object(good, limit(func(r *policy.RateLimitRule) { r.OnStoreFailure = policy.OnStoreFailure_Deny })), "local limits need no store"},
		{"another name of the control settings", controlType, "ns/a", object(good, &policy.ControlSettings{}), "there is only one"},
		{"a password in the URL", controlType, "signet-system/control", object(&mcp.Metadata{Name: "signet-system/control"},
			&policy.ControlSettings{RateLimitStore: &policy.RateLimitStore{Url: "redis://a:b@c"}}), "must not hold a password"},
	}
}

// refusedBodies are bodies of another kind, and endpoints that must not be taken.
func refusedBodies() []refusal {
	return []refusal{
		{"not an object", policyType, "ns/a", func(t *testing.T) *anypb.Any { return mustAny(t, &structpb.Struct{}) }, "body is"},
		{"bad cluster name", EndpointType, "h:80", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(c *endpoint.ClusterLoadAssignment) { c.ClusterName = "h:80" })
		}, "outbound|PORT||HOST"},
		{"another cluster name", EndpointType, "outbound|80||other", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(*endpoint.ClusterLoadAssignment) {})
		}, "another name"},
		{"known to Envoy, not to us", EndpointType, "outbound|80||h", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(c *endpoint.ClusterLoadAssignment) {
				c.Policy = &endpoint.ClusterLoadAssignment_Policy{WeightedPriorityHealth: true}
			})
		}, "does not know"},
		{"priority", EndpointType, "outbound|80||h", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(c *endpoint.ClusterLoadAssignment) { c.Endpoints[0].Priority = 1 })
		}, "does not know"},
		{"wildcard as address", EndpointType, "outbound|80||h", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(c *endpoint.ClusterLoadAssignment) {
				c.Endpoints[0].LbEndpoints[0].GetEndpoint().GetAddress().GetSocketAddress().Address = "*.example.com"
			})
		}, "not an IP address"},
		{"address missing", EndpointType, "outbound|80||h", func(t *testing.T) *anypb.Any {
			return assignmentOf(t, func(c *endpoint.ClusterLoadAssignment) {
				c.Endpoints[0].LbEndpoints[0].HostIdentifier = nil
			})
		}, "is not known"},
	}
}

func TestWhatIsNotKnownIsRefused(t *testing.T) {
	for _, c := range slices.Concat(refusedObjects(), refusedJudges(), refusedBodies()) {
		t.Run(c.name, func(t *testing.T) {
			body := c.body(t)
			r := Resource{Type: c.typ, Name: c.resource, Version: versionOf(c.typ, c.resource, body), Body: body}
			_, err := Parse(c.typ, overTheWire(t, r), trustDomain)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, not one with %q", err, c.want)
			}
		})
	}
}

func TestVersionMustBeTheHash(t *testing.T) {
	set, _ := encode(t, view(t, snapshot(t), "shop/reviews-v1"))
	r := set.byType[policyType].byName["shop/reviews"]
	w := overTheWire(t, r)
	if _, err := Parse(policyType, w, trustDomain); err != nil {
		t.Fatal(err)
	}
	w.Resource.Value = append(w.Resource.Value, 0)
	if _, err := Parse(policyType, w, trustDomain); err == nil || !strings.Contains(err.Error(), "not the hash") {
		t.Errorf("changed content: %v", err)
	}
}

func TestEndpointsSurviveTheWire(t *testing.T) {
	id, err := identity.New(trustDomain, "bank", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	want := []mesh.Endpoint{
		{Address: "127.0.0.1:80", Labels: map[string]string{"a": "b", "c": ""}, Weight: 7, Identity: id, TLSMode: "istio", Workload: "bank/ledger"},
		{Address: "[::1]:65535", TLSMode: "disabled"},
		{Address: "unix:///run/x.sock"},
		{Address: "db.example.com:5432"},
		{Address: "[fe80::1%eth0]:80"},
	}
	r, err := encodeEndpoints(mesh.Cluster{Host: "h.example", Port: 80}, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(EndpointType, overTheWire(t, r), trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if d := differentEndpoint(want[i], got.endpoints[i]); d != "" {
			t.Errorf("endpoint %d: %s", i, d)
		}
	}
	for _, a := range []string{"local host:80", "localhost", "localhost:99999", ":80", "*.example.com:80"} {
		if _, err := encodeEndpoints(mesh.Cluster{Host: "h", Port: 80}, []mesh.Endpoint{{Address: a}}); err == nil {
			t.Errorf("%q was taken for an address", a)
		}
	}
}

func TestMarker(t *testing.T) {
	m := Marker{TrustDomain: trustDomain, Self: "a/b", Types: map[string]string{policyType: "x"}}
	r, err := m.Resource()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseMarker(overTheWire(t, r))
	if err != nil || got.Generation() != m.Generation() {
		t.Fatalf("%v, %v", got, err)
	}
	m.Types["example.com/v1/New"] = "y"
	if r, err = m.Resource(); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseMarker(overTheWire(t, r)); err == nil || !strings.Contains(err.Error(), `"example.com/v1/New" is not known`) {
		t.Errorf("a type that is not known: %v", err)
	}
	m.Self = "a/c"
	r.Version = m.Generation()
	if _, err := ParseMarker(overTheWire(t, r)); err == nil {
		t.Error("a marker whose version is another's was taken")
	}
}

// FuzzParse: nothing that is taken says anything else when it is written again.
func FuzzParse(f *testing.F) {
	var e Encoder
	for _, node := range nodes {
		set, _, err := e.Encode(view(f, snapshot(f), node))
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range set.byType {
			for _, r := range p.byName {
				f.Add(r.Type, r.Name, r.Body.GetTypeUrl(), r.Body.GetValue())
			}
		}
	}
	f.Fuzz(func(t *testing.T, typ, name, url string, value []byte) {
		body := &anypb.Any{TypeUrl: url, Value: value}
		in := Resource{Type: typ, Name: name, Version: versionOf(typ, name, body), Body: body}
		r, err := Parse(typ, in.Wire(), trustDomain)
		if err != nil {
			return
		}
		var out Resource
		out, err = rewrite(r)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		back, err := Parse(typ, out.Wire(), trustDomain)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		if again, err := rewrite(back); err != nil || again.Version != out.Version {
			t.Fatalf("written twice, it differs: %v", err)
		}
	})
}

func rewrite(r Resource) (Resource, error) {
	if r.object != nil {
		return encodeObject(r.object)
	}
	if r.Type == HostType {
		return encodeAnswer(r.Name, r.answer)
	}
	cla, err := assignment(r.Name, r.endpoints)
	if err != nil {
		return Resource{}, err
	}
	return seal(EndpointType, r.Name, cla)
}
