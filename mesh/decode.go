package mesh

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decoder fills protocol buffers from YAML nodes, strictly: what it does not understand is a problem with its position,
// never skipped. It goes on after a problem, so that one run tells all of them.
type decoder struct {
	place func(line, column int) Position
	key   Key
	// protoNames takes snake_case field names too, as Istio does for MeshConfig and Kubernetes does not for its CRDs.
	protoNames bool
	// noEmptyLists refuses [] where an absent list means "any" (security objects).
	noEmptyLists bool
	at           map[string]Position
	problems     []Problem
}

func (d *decoder) refuse(n *yaml.Node, field, format string, args ...any) {
	if len(d.problems) >= MaxProblems {
		return
	}
	d.problems = append(d.problems, Problem{Position: d.place(n.Line, n.Column), Key: d.key, Field: field,
		Message: fmt.Sprintf(format, args...)})
}

// message reads a mapping into m. path is the path of the mapping itself.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path string, depth int) {
	if depth > MaxDepth {
		d.refuse(n, path, "is nested deeper than %d", MaxDepth)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.refuse(n, path, "want a mapping, found %s", describe(n))
		return
	}
	seen := make(map[protoreflect.Name]*yaml.Node)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.refuse(k, path, "a field name must be a plain word, found %s", describe(k))
			continue
		}
		field := join(path, k.Value)
		f := d.find(m.Descriptor(), k.Value)
		if f == nil {
			d.refuse(k, field, "unknown field %q%s", k.Value, d.hint(m.Descriptor(), k.Value))
			continue
		}
		if first, dup := seen[f.Name()]; dup {
			d.refuse(k, field, "is given twice, first at line %d", d.place(first.Line, first.Column).Line)
			continue
		}
		seen[f.Name()] = k
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other := m.WhichOneof(o); other != nil {
				d.refuse(k, field, "and %s exclude each other", other.JSONName())
				continue
			}
		}
		d.mark(field, k, v)
		d.field(v, m, f, field, depth+1)
	}
}

// mark remembers where a field stands: its value where that is a scalar, else its name.
func (d *decoder) mark(field string, k, v *yaml.Node) {
	if v.Kind == yaml.ScalarNode {
		k = v
	}
	d.at[field] = d.place(k.Line, k.Column)
	if v.Style&yaml.LiteralStyle != 0 {
		d.at[field+insideText] = d.place(v.Line+1, 0)
	}
}

// insideText, after the path of a field, is where the first line of its block of text stands. No field's name has a blank.
const insideText = " text"

func (d *decoder) find(m protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if f := m.Fields().ByJSONName(name); f != nil {
		return f
	}
	if d.protoNames || m.FullName() == "istio.security.v1beta1.JWTRule" && name == "jwks_uri" {
		return m.Fields().ByTextName(name)
	}
	return nil
}

// hint is what a writer probably meant by an unknown field, "" if nothing is near.
func (d *decoder) hint(m protoreflect.MessageDescriptor, name string) string {
	flat := func(s string) string { return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s)) }
	for i := 0; i < m.Fields().Len(); i++ {
		if j := m.Fields().Get(i).JSONName(); flat(j) == flat(name) || flat(j) == flat(name)+"s" || flat(j)+"s" == flat(name) {
			return fmt.Sprintf(", did you mean %q", j)
		}
	}
	return ""
}

func (d *decoder) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, path string, depth int) {
	switch {
	case d.unreadable(n, path):
	case f.IsMap():
		d.mapping(n, m.Mutable(f).Map(), f, path, depth)
	case f.IsList():
		d.list(n, m.Mutable(f).List(), f, path, depth)
	case f.Message() != nil:
		d.child(n, m.Mutable(f).Message(), path, depth)
	default:
		if v, ok := d.scalar(n, f, path); ok {
			m.Set(f, v)
		}
	}
}

// unreadable refuses what no field may be: null, which says neither "absent" nor "empty", and aliases.
func (d *decoder) unreadable(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.refuse(n, path, "YAML aliases (*%s) are not read: write the value out", n.Value)
		return true
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.refuse(n, path, "has no value: give it one or leave the field out")
		return true
	}
	return false
}

func (d *decoder) list(n *yaml.Node, l protoreflect.List, f protoreflect.FieldDescriptor, path string, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.refuse(n, path, "want a list, found %s", describe(n))
		return
	}
	if len(n.Content) == 0 && d.noEmptyLists && (path != "spec.rules" || d.key.Kind != KindAuthorizationPolicy) {
		d.refuse(n, path, "is an empty list: an absent list means any, so say which is meant")
	}
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.at[at] = d.place(item.Line, item.Column)
		if d.unreadable(item, at) {
			continue
		}
		if f.Message() != nil {
			v := l.NewElement()
			d.child(item, v.Message(), at, depth+1)
			l.Append(v)
		} else if v, ok := d.scalar(item, f, at); ok {
			l.Append(v)
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, m protoreflect.Map, f protoreflect.FieldDescriptor, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.refuse(n, path, "want a mapping, found %s", describe(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, item := n.Content[i], n.Content[i+1]
		at := fmt.Sprintf("%s[%s]", path, k.Value)
		d.mark(at, k, item)
		key, ok := d.mapKey(k, f.MapKey(), at)
		if !ok {
			continue
		}
		if m.Has(key) {
			d.refuse(k, at, "is given twice")
			continue
		}
		if d.unreadable(item, at) {
			continue
		}
		if f.MapValue().Message() != nil {
			v := m.NewValue()
			d.child(item, v.Message(), at, depth+1)
			m.Set(key, v)
		} else if v, ok := d.scalar(item, f.MapValue(), at); ok {
			m.Set(key, v)
		}
	}
}

// child reads a nested message, also those that have a form of their own in JSON.
func (d *decoder) child(n *yaml.Node, m protoreflect.Message, path string, depth int) {
	name := m.Descriptor().FullName()
	switch {
	case name == "google.protobuf.Duration":
		d.duration(n, m, path)
	case name == "google.protobuf.Struct":
		d.document(n, m, path)
	case strings.HasPrefix(string(name), "google.protobuf.") && strings.HasSuffix(string(name), "Value") && name != "google.protobuf.Value":
		f := m.Descriptor().Fields().ByName("value")
		if v, ok := d.scalar(n, f, path); ok {
			m.Set(f, v)
		}
	case strings.HasPrefix(string(name), "google.protobuf."):
		// Any and the like: no field that we honour has one. Being present is what gets it judged.
	default:
		d.message(n, m, path, depth)
	}
}

// decodeSpec reads a node into a spec and returns where its fields stand.
func (d *decoder) decodeSpec(n *yaml.Node, spec proto.Message, path string) {
	if d.at == nil {
		d.at = make(map[string]Position)
	}
	d.message(n, spec.ProtoReflect(), path, 1)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
