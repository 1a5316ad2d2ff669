package mesh

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var updateDocs = flag.Bool("update-docs", false, "rewrite the tables of docs/compatibility.md")

const (
	docs  = "../docs/compatibility.md"
	begin = "<!-- fields: written by go test ./mesh -run Compatibility -update-docs -->\n"
)

// TestCompatibilityTable holds docs/compatibility.md to the tables that judge objects: every field of every kind.
func TestCompatibilityTable(t *testing.T) {
	data, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	head, have, ok := strings.Cut(string(data), begin)
	if !ok {
		t.Fatalf("%s has no line %q", docs, begin)
	}
	want := allTables()
	if *updateDocs {
		if err := os.WriteFile(docs, []byte(head+begin+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("%s does not say what the code does: run the command in its comment", docs)
	}
}

func allTables() string {
	var b strings.Builder
	for _, k := range []Key{{Group: GroupNetworking, Kind: KindWorkloadEntry}, {Group: GroupNetworking, Kind: KindServiceEntry},
		{Group: GroupNetworking, Kind: KindSidecar}, {Group: GroupNetworking, Kind: KindVirtualService},
		{Group: GroupNetworking, Kind: KindDestinationRule}, {Group: GroupSecurity, Kind: KindAuthorizationPolicy},
		{Group: GroupSecurity, Kind: KindPeerAuthentication}, {Group: GroupSecurity, Kind: KindRequestAuthentication},
		{Group: GroupPolicy, Kind: KindRegoPolicy}, {Group: GroupPolicy, Kind: KindRateLimitPolicy}, {Kind: KindConfigMap}} {
		title := k.Kind
		if k.Kind == KindConfigMap {
			title = "MeshConfig"
		}
		fmt.Fprintf(&b, "\n### %s\n\n| field | is | note |\n|---|---|---|\n", title)
		spec, _ := NewSpec(k.Group, k.Kind)
		rows(&b, spec.ProtoReflect().Descriptor(), "", fieldTables(k.Kind))
	}
	return b.String()
}

// rows writes a row for each field that has a fate of its own: below one that is not honoured, everything shares its fate.
func rows(b *strings.Builder, m protoreflect.MessageDescriptor, path string, table fieldTable) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		at := join(path, f.JSONName())
		what, why := table(at)
		below := f
		if f.IsMap() {
			below = f.MapValue()
		}
		if what == honoured && !leaf(below) {
			rows(b, below.Message(), at, table)
			continue
		}
		if what == refused && why == "" {
			why = "is not honoured"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", at, what, why)
	}
}

// TestEveryRefusedFieldRefuses sets each field of each kind by itself and expects the judgement that the table promises.
func TestEveryFieldHasItsFate(t *testing.T) {
	for _, k := range []Key{{Group: GroupNetworking, Kind: KindSidecar}, {Group: GroupNetworking, Kind: KindVirtualService},
		{Group: GroupNetworking, Kind: KindDestinationRule}, {Group: GroupSecurity, Kind: KindAuthorizationPolicy},
		{Group: GroupSecurity, Kind: KindRequestAuthentication}, {Group: GroupPolicy, Kind: KindRegoPolicy},
		{Group: GroupPolicy, Kind: KindRateLimitPolicy}, {Kind: KindConfigMap}} {
		spec, _ := NewSpec(k.Group, k.Kind)
		fields := spec.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			spec, _ := NewSpec(k.Group, k.Kind)
			setSomething(spec.ProtoReflect(), f)
			what, _ := fieldTables(k.Kind)(f.JSONName())
			o := &Object{Meta: Meta{Key: Key{k.Group, k.Kind, "default", "x"}}, Spec: spec}
			var got fate = honoured
			for _, p := range Validate(o, "") {
				if p.Field == (&judge{object: o}).root()+"."+f.JSONName() && (what != honoured) {
					if got = warned; p.Severity == Refused {
						got = refused
					}
				}
			}
			if got != what {
				t.Errorf("%s.%s: got %s, the table says %s", k.Kind, f.JSONName(), got, what)
			}
		}
	}
}

func setSomething(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		v := m.Mutable(f).Map()
		if f.MapKey().Kind() == protoreflect.StringKind {
			v.Set(protoreflect.ValueOfString("a").MapKey(), v.NewValue())
		} else {
			v.Set(protoreflect.ValueOfUint32(80).MapKey(), v.NewValue())
		}
	case f.IsList():
		l := m.Mutable(f).List()
		l.Append(l.NewElement())
	case f.Message() != nil:
		m.Mutable(f)
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString("a"))
	case f.Kind() == protoreflect.BoolKind:
		m.Set(f, protoreflect.ValueOfBool(true))
	case f.Kind() == protoreflect.EnumKind:
		m.Set(f, protoreflect.ValueOfEnum(1))
	case f.Kind() == protoreflect.Int32Kind:
		m.Set(f, protoreflect.ValueOfInt32(1))
	case f.Kind() == protoreflect.Uint32Kind:
		m.Set(f, protoreflect.ValueOfUint32(1))
	}
}
