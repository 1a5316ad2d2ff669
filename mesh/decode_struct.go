package mesh

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxExact is the largest whole number of which a Struct, whose numbers are IEEE 754 doubles, holds every smaller one.
const maxExact = 1 << 53

// document reads a free-form mapping into a google.protobuf.Struct: the values of JSON, written in YAML. What two readers of
// YAML may take for different values is refused.
func (d *decoder) document(n *yaml.Node, m protoreflect.Message, path string) {
	before := len(d.problems)
	if n.Kind != yaml.MappingNode {
		d.refuse(n, path, "want a mapping, found %s", describe(n))
		return
	}
	v := d.free(n, path, 1)
	if s := v.GetStructValue(); s != nil && len(d.problems) == before {
		proto.Merge(m.Interface(), s)
	}
}

// free reads one free-form value; nil if it was refused.
func (d *decoder) free(n *yaml.Node, path string, depth int) *structpb.Value {
	if depth > MaxDataDepth {
		d.refuse(n, path, "is nested deeper than %d", MaxDataDepth)
		return nil
	}
	switch {
	case n.Kind == yaml.MappingNode && n.ShortTag() == "!!map":
		fields := make(map[string]*structpb.Value, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			d.freeField(n.Content[i], n.Content[i+1], fields, path, depth)
		}
		return structpb.NewStructValue(&structpb.Struct{Fields: fields})
	case n.Kind == yaml.SequenceNode && n.ShortTag() == "!!seq":
		values := make([]*structpb.Value, 0, len(n.Content))
		for i, item := range n.Content {
			if v := d.free(item, fmt.Sprintf("%s[%d]", path, i), depth+1); v != nil {
				values = append(values, v)
			}
		}
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	case n.Kind == yaml.ScalarNode:
		return d.freeScalar(n, path)
	case n.Kind == yaml.AliasNode:
		d.unreadable(n, path)
	default:
		d.refuse(n, path, "want a value as JSON has it, found one tagged %s", n.Tag)
	}
	return nil
}

func (d *decoder) freeField(k, v *yaml.Node, fields map[string]*structpb.Value, path string, depth int) {
	if k.Kind != yaml.ScalarNode {
		d.refuse(k, path, "a key must be a string, found %s", describe(k))
		return
	}
	at := join(path, clip(k.Value))
	if tag := k.ShortTag(); tag == "!!merge" {
		d.refuse(k, at, "YAML merges (<<) are not read: write the fields out")
		return
	}
	name, ok := d.text(k, at)
	if !ok {
		return
	}
	if _, dup := fields[name]; dup {
		d.refuse(k, at, "is given twice")
		return
	}
	d.mark(at, k, v)
	if read := d.free(v, at, depth+1); read != nil {
		fields[name] = read
	}
}

func (d *decoder) freeScalar(n *yaml.Node, path string) *structpb.Value {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		if s, ok := d.text(n, path); ok {
			return structpb.NewStringValue(s)
		}
		return nil
	case "!!bool":
		return structpb.NewBoolValue(strings.EqualFold(n.Value, "true"))
	case "!!null":
		if n.Value == "null" {
			return structpb.NewNullValue()
		}
		d.refuse(n, path, "has no value: give it one, or write null")
		return nil
	case "!!int", "!!float":
		return d.freeNumber(n, path)
	}
	d.refuse(n, path, "want a value as JSON has it, found one tagged %s", n.ShortTag())
	return nil
}

// freeNumber reads a number as JSON writes it (RFC 8259 section 6): no hexadecimal, no leading zeros, no underscores.
func (d *decoder) freeNumber(n *yaml.Node, path string) *structpb.Value {
	digits := strings.TrimPrefix(n.Value, "-")
	whole, _, fraction := strings.Cut(digits, ".")
	if !fraction {
		whole, _, fraction = strings.Cut(strings.ToLower(digits), "e")
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if len(n.Value) > 64 || err != nil || math.IsInf(v, 0) || math.IsNaN(v) || !decimal(whole) || len(whole) > 1 && whole[0] == '0' {
		d.refuse(n, path, "%q is no number as JSON writes one: write it in decimal, or quote it", clip(n.Value))
		return nil
	}
	if i, ok := new(big.Int).SetString(n.Value, 10); ok && !fraction && i.CmpAbs(big.NewInt(maxExact)) > 0 {
		d.refuse(n, path, "%s can't be held exactly, a number ends at 2^53: quote it and compare it as a string", clip(n.Value))
		return nil
	}
	return structpb.NewNumberValue(v)
}

// decimal reports whether s is digits, and at least one.
func decimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
