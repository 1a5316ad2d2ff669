package extauthz_test

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/rego"
)

// pluginInput makes of a CheckRequest the input that opa-envoy-plugin evaluates: the message by its JSON names, and what it
// parses of path and body.
func pluginInput(t *testing.T, r *auth.CheckRequest) map[string]any {
	t.Helper()
	text, err := protojson.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var in map[string]any
	if err := json.Unmarshal(text, &in); err != nil {
		t.Fatal(err)
	}
	h := r.GetAttributes().GetRequest().GetHttp()
	path, query, _ := strings.Cut(h.GetPath(), "?")
	if path, err = url.PathUnescape(path); err != nil {
		t.Fatal(err)
	}
	in["version"] = map[string]string{"ext_authz": "v3", "encoding": "protojson"}
	in["source_principal"] = r.GetAttributes().GetSource().GetPrincipal()
	in["parsed_path"] = strings.Split(strings.TrimLeft(path, "/"), "/")
	values, _ := url.ParseQuery(query)
	in["parsed_query"] = values
	in["truncated_body"], in["parsed_body"] = h.Headers["x-envoy-auth-partial-body"] == "true", nil
	if in["truncated_body"] == false && strings.Contains(h.Headers["content-type"], "application/json") && h.Body != "" {
		var body any
		if err := json.Unmarshal([]byte(h.Body), &body); err != nil {
			t.Fatal(err)
		}
		in["parsed_body"] = body
	}
	return in
}

// plain is a value as JSON reads it, without the differences between the two inputs that are documented: the proxy's own
// input has no destination.principal, no x-envoy-auth-partial-body, writes a time without zeros at its end, and shows empty
// things rather than none.
func plain(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	attributes := out["attributes"].(map[string]any)
	delete(attributes["destination"].(map[string]any), "principal")
	delete(attributes["request"].(map[string]any)["http"].(map[string]any)["headers"].(map[string]any), "x-envoy-auth-partial-body")
	if m, _ := attributes["metadataContext"].(map[string]any); len(m) == 0 || len(m) == 1 && len(m["filterMetadata"].(map[string]any)) == 0 {
		delete(attributes, "metadataContext")
	}
	if text, ok := attributes["request"].(map[string]any)["time"].(string); ok {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		attributes["request"].(map[string]any)["time"] = at.UnixNano()
	}
	if out["source_principal"] == "" {
		delete(out, "source_principal")
	}
	for name, v := range attributes["request"].(map[string]any)["http"].(map[string]any) {
		if v == "" {
			delete(attributes["request"].(map[string]any)["http"].(map[string]any), name)
		}
	}
	return out
}

// What an external OPA is sent and what a RegoPolicy sees are the same, so that a policy can move either way.
func TestSameInputAsRego(t *testing.T) {
	proven := caller(t)
	plaintext := &authz.Connection{SourceIP: netip.MustParseAddr("::ffff:10.0.0.7"), DestinationIP: netip.MustParseAddr("fd00::1"), DestinationPort: 80}
	at := time.Date(2026, 8, 1, 12, 30, 0, 120_000_000, time.UTC)
	for _, c := range []struct {
		name string
		c    *authz.Connection
		r    *authz.Request
	}{
		{"a request", proven, &authz.Request{Method: "GET", Host: "oven.lab", Path: "/a/b", Minor: 1, Received: at, Headers: fields{"x-request-id", "7", "accept", "*/*"}}},
		{"plaintext", plaintext, &authz.Request{Method: "GET", Host: "oven.lab", Path: "/", Minor: 1, Headers: fields{}}},
		{"HTTP/1.0 without a host", proven, &authz.Request{Method: "GET", Path: "/", Headers: fields{}}},
		{"a query", proven, &authz.Request{Method: "GET", Host: "h", Path: "/q", Query: "?a=1&a=2&b=%20c&d", Minor: 1, Headers: fields{}}},
		{"escapes", proven, &authz.Request{Method: "GET", Host: "h", Path: "/a%2Fb//c%20d", DecodedPath: "/a/b/c d", Minor: 1, Headers: fields{}}},
		{"repeated headers", proven, &authz.Request{Method: "GET", Host: "h", Path: "/", Minor: 1, Headers: fields{"x-a", "1", "x-b", "", "x-a", "2", "cookie", "a=b", "cookie", "c=d"}}},
		{"a length", proven, &authz.Request{Method: "PUT", Host: "h", Path: "/", Minor: 1, Headers: fields{"content-length", "12"}}},
		{"JSON", proven, &authz.Request{Method: "POST", Host: "h", Path: "/", Minor: 1, Headers: fields{"content-type", "application/json"}, Body: []byte(`{"n": [1, "é"]}`)}},
		{"a cut body", proven, &authz.Request{Method: "POST", Host: "h", Path: "/", Minor: 1, Headers: fields{"content-type", "application/json"}, Body: []byte(`{"n": [`), Truncated: true}},
	} {
		s := newServer(t, okay())
		p := overGRPC(&grpcProvider{IncludeRequestBodyInCheck: &bodyInCheck{MaxRequestBytes: 1024, AllowPartialMessage: true}})
		if a := build(t, p, s.address, nil).Ask(t.Context(), c.c, c.r); !a.Allowed {
			t.Fatalf("%s: %+v", c.name, a)
		}
		text, err := rego.Input(c.c, c.r, false)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := plain(t, json.RawMessage(text)), plain(t, pluginInput(t, s.last(t)))
		if !reflect.DeepEqual(ours, theirs) {
			a, _ := json.MarshalIndent(ours, "", " ")
			b, _ := json.MarshalIndent(theirs, "", " ")
			t.Errorf("%s:\nRegoPolicy   %s\nexternal OPA %s", c.name, a, b)
		}
	}
}
