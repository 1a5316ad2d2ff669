package mesh

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// describe names what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return "the string " + strconv.Quote(clip(n.Value))
		case "!!int", "!!float":
			return "the number " + clip(n.Value)
		}
		return clip(n.Value)
	}
	return "nothing"
}

// clip keeps a quoted value short enough for one line of a log.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:77], "") + "..."
	}
	return s
}

// scalar reads one value of a field's kind.
func (d *decoder) scalar(n *yaml.Node, f protoreflect.FieldDescriptor, path string) (protoreflect.Value, bool) {
	var none protoreflect.Value
	if n.Kind != yaml.ScalarNode {
		d.refuse(n, path, "want %s, found %s", kindName(f), describe(n))
		return none, false
	}
	tag := n.ShortTag()
	switch f.Kind() {
	case protoreflect.StringKind:
		if s, ok := d.text(n, path); ok {
			return protoreflect.ValueOfString(s), true
		}
		return none, false
	case protoreflect.EnumKind:
		return d.enum(n, f, path)
	case protoreflect.BoolKind:
		if tag == "!!bool" {
			return protoreflect.ValueOfBool(strings.EqualFold(n.Value, "true")), true
		}
	case protoreflect.BytesKind:
		if b, err := base64.StdEncoding.DecodeString(n.Value); err == nil && tag == "!!str" {
			return protoreflect.ValueOfBytes(b), true
		}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if v, err := strconv.ParseFloat(n.Value, 64); err == nil && (tag == "!!int" || tag == "!!float") && !math.IsNaN(v) && !math.IsInf(v, 0) {
			if f.Kind() == protoreflect.FloatKind {
				return protoreflect.ValueOfFloat32(float32(v)), true
			}
			return protoreflect.ValueOfFloat64(v), true
		}
	default:
		if tag == "!!int" {
			if v, err := integer(n.Value, f.Kind()); err == nil {
				return v, true
			}
		}
	}
	d.refuse(n, path, "want %s, found %s", kindName(f), describe(n))
	return none, false
}

// text reads a string. Words that YAML 1.1 (and so kubectl) takes for booleans must be quoted, or two readers of one file
// would disagree.
func (d *decoder) text(n *yaml.Node, path string) (string, bool) {
	tag := n.ShortTag()
	if tag != "!!str" && tag != "!!timestamp" {
		d.refuse(n, path, "want a string, found %s: quote it", describe(n))
		return "", false
	}
	if n.Style == 0 {
		switch strings.ToLower(n.Value) {
		case "yes", "no", "on", "off", "y", "n":
			d.refuse(n, path, "%q is a boolean to some readers of YAML: quote it", n.Value)
			return "", false
		}
	}
	return n.Value, true
}

func (d *decoder) enum(n *yaml.Node, f protoreflect.FieldDescriptor, path string) (protoreflect.Value, bool) {
	// A word in _Unset stands for an absent field, and is not written.
	if v := f.Enum().Values().ByName(protoreflect.Name(n.Value)); v != nil && !strings.HasSuffix(n.Value, "_Unset") {
		return protoreflect.ValueOfEnum(v.Number()), true
	}
	names := make([]string, 0, f.Enum().Values().Len())
	for i := 0; i < f.Enum().Values().Len(); i++ {
		if name := string(f.Enum().Values().Get(i).Name()); !strings.HasSuffix(name, "_Unset") {
			names = append(names, name)
		}
	}
	d.refuse(n, path, "unknown value %q, want one of %s", clip(n.Value), strings.Join(names, ", "))
	return protoreflect.Value{}, false
}

// duration reads Go's spelling (1m30s, 0.5s), which contains the seconds of protocol buffers' JSON.
func (d *decoder) duration(n *yaml.Node, m protoreflect.Message, path string) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		d.refuse(n, path, "want a duration such as 1.5s, found %s", describe(n))
		return
	}
	if v < 0 {
		d.refuse(n, path, "is negative: %q", n.Value)
		return
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(int64(v/time.Second)))
	m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(v%time.Second)))
}

// mapKey reads the key of a map field. JSON has string keys only, so "8080" and 8080 are one key.
func (d *decoder) mapKey(n *yaml.Node, f protoreflect.FieldDescriptor, path string) (protoreflect.MapKey, bool) {
	tag := n.ShortTag()
	if n.Kind == yaml.ScalarNode && (tag == "!!str" || tag == "!!int") {
		if f.Kind() == protoreflect.StringKind {
			return protoreflect.ValueOfString(n.Value).MapKey(), true
		}
		if v, err := integer(n.Value, f.Kind()); err == nil {
			return v.MapKey(), true
		}
	}
	d.refuse(n, path, "want a key that is %s, found %s", kindName(f), describe(n))
	return protoreflect.MapKey{}, false
}

// integer reads decimal digits into the width of a kind.
func integer(s string, k protoreflect.Kind) (protoreflect.Value, error) {
	switch k {
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		v, err := strconv.ParseInt(s, 10, 32)
		return protoreflect.ValueOfInt32(int32(v)), err
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		v, err := strconv.ParseInt(s, 10, 64)
		return protoreflect.ValueOfInt64(v), err
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		v, err := strconv.ParseUint(s, 10, 32)
		return protoreflect.ValueOfUint32(uint32(v)), err
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		v, err := strconv.ParseUint(s, 10, 64)
		return protoreflect.ValueOfUint64(v), err
	}
	return protoreflect.Value{}, fmt.Errorf("kind %s is not an integer", k)
}

// kindName names a field's kind for messages.
func kindName(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.StringKind:
		return "a string"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.BytesKind:
		return "base64"
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return "a number"
	case protoreflect.EnumKind:
		return "a word"
	}
	if strings.HasPrefix(f.Kind().String(), "u") {
		return "a whole number of at least 0"
	}
	return "a whole number"
}
