package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const crds = "../charts/signet/crds"

// TestUpToDate makes the definitions anew, beside a file that nothing makes, and compares them with what is there.
func TestUpToDate(t *testing.T) {
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "stale.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := definitions(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	fresh, there := folder(t, out), folder(t, crds)
	if len(fresh) != len(honoured())+2 {
		t.Errorf("%d definitions were made, want %d", len(fresh), len(honoured())+2)
	}
	for name := range fresh {
		if !bytes.Equal(fresh[name], there[name]) {
			t.Errorf("%s is not what 'make manifests' makes", name)
		}
		delete(there, name)
	}
	for name := range there {
		t.Errorf("%s is there, and nothing makes it", name)
	}
	if link, err := filepath.EvalSymlinks("../crds"); err != nil || filepath.Clean(link) != filepath.Clean(crds) {
		t.Errorf("deploy/crds leads to %s, %v; want %s", link, err, crds)
	}
}

func folder(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, n := range names {
		if all[filepath.Base(n)], err = os.ReadFile(n); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestFields compares the definitions of policy.signet.dev with mesh/policy/policy.proto: every field of the one is in the other,
// of the same shape and with the same words.
func TestFields(t *testing.T) {
	text, err := os.ReadFile("../../mesh/policy/policy.proto")
	if err != nil {
		t.Fatal(err)
	}
	messages, enums := readProto(t, string(text))
	for kind, file := range map[string]string{"RegoPolicy": "regopolicies", "RateLimitPolicy": "ratelimitpolicies"} {
		text, err := os.ReadFile(filepath.Join(crds, file+".policy.signet.dev.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			t.Fatal(err)
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		c := comparer{messages, enums, nil}
		c.message(kind, "", &spec)
		for _, fault := range c.faults {
			t.Errorf("%s.spec%s", kind, fault)
		}
	}
	broken := apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{"requests": {Type: "integer"}, "unit": {Type: "string"}, "more": {}}}
	c := comparer{messages, enums, nil}
	if c.message("Limit", "", &broken); len(c.faults) != 3 { // burst is missing, unit has no words, more is nothing
		t.Errorf("a broken definition has %d faults: %v", len(c.faults), c.faults)
	}
}

// field is one of a message.
type field struct {
	json, kind string
	repeated   bool
}

// readProto reads messages and enums of the file, nested ones by their own name behind that of the message.
func readProto(t *testing.T, text string) (messages map[string][]field, enums map[string][]string) {
	t.Helper()
	messages, enums = map[string][]field{}, map[string][]string{}
	var inside []string
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "//")
		words := strings.Fields(strings.NewReplacer("=", " = ", ";", " ;", ", ", ",").Replace(line))
		if len(words) == 0 || slices.Contains([]string{"syntax", "package", "import", "option"}, words[0]) {
			continue
		}
		switch {
		case words[0] == "message" || words[0] == "enum":
			inside = append(inside, words[0]+" "+words[1])
		case words[0] == "}":
			inside = inside[:len(inside)-1]
		case strings.HasPrefix(inside[len(inside)-1], "enum "):
			name := strings.TrimPrefix(inside[len(inside)-1], "enum ")
			if len(inside) > 1 {
				name = strings.TrimPrefix(inside[0], "message ") + "." + name
			}
			if !strings.HasSuffix(words[0], "_Unset") {
				enums[name] = append(enums[name], words[0])
			}
		default:
			message := strings.TrimPrefix(inside[0], "message ")
			f := field{repeated: words[0] == "repeated"}
			if f.repeated || words[0] == "optional" {
				words = words[1:]
			}
			f.kind, f.json = words[0], camel(words[1])
			if _, own, ok := strings.Cut(line, `json_name = "`); ok {
				f.json, _, _ = strings.Cut(own, `"`)
			}
			messages[message] = append(messages[message], f)
		}
	}
	if len(messages["RateLimitPolicy"]) == 0 || len(enums["Limit.Unit"]) == 0 {
		t.Fatalf("policy.proto was not understood: %v %v", messages, enums)
	}
	return messages, enums
}

// camel is the JSON name of a field (protobuf language guide, JSON mapping).
func camel(s string) string {
	parts := strings.Split(s, "_")
	for i := range parts[1:] {
		parts[i+1] = strings.ToUpper(parts[i+1][:1]) + parts[i+1][1:]
	}
	return strings.Join(parts, "")
}

// comparer collects what differs.
type comparer struct {
	messages map[string][]field
	enums    map[string][]string
	faults   []string
}

func (c *comparer) fault(at, format string, a ...any) {
	c.faults = append(c.faults, at+": "+fmt.Sprintf(format, a...))
}

func (c *comparer) message(name, at string, s *apiextensions.JSONSchemaProps) {
	known := map[string]bool{}
	for _, f := range c.messages[name] {
		known[f.json] = true
		p, ok := s.Properties[f.json]
		if !ok {
			c.fault(at+"."+f.json, "is in policy.proto and not in the definition")
			continue
		}
		if f.repeated {
			if p.Type != "array" || p.Items == nil {
				c.fault(at+"."+f.json, "is no list")
				continue
			}
			p = *p.Items.Schema
		}
		c.value(name, f.kind, at+"."+f.json, &p)
	}
	for p := range s.Properties {
		if !known[p] {
			c.fault(at+"."+p, "is in the definition and not in policy.proto")
		}
	}
}

func (c *comparer) value(message, kind, at string, s *apiextensions.JSONSchemaProps) {
	plain := map[string]string{"string": "string", "bool": "boolean", "uint32": "integer", "google.protobuf.Duration": "string",
		"google.protobuf.Struct": "object", "map<string,string>": "object"}
	words := c.enums[message+"."+kind]
	if words == nil {
		words = c.enums[kind]
	}
	switch {
	case words != nil:
		var have []string
		for _, w := range s.Enum {
			have = append(have, strings.Trim(string(w.Raw), `"`))
		}
		if slices.Sort(words); !slices.Equal(words, slices.Sorted(slices.Values(have))) {
			c.fault(at, "takes %v, want %v", have, words)
		}
	case plain[kind] != "":
		if s.Type != plain[kind] {
			c.fault(at, "is of type %q, want %q", s.Type, plain[kind])
		}
	case c.messages[kind] == nil:
		c.fault(at, "is a %s, which this test does not know", kind)
	default:
		c.message(kind, at, s)
	}
}
