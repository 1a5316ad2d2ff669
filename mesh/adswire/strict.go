package adswire

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// unmarshalStrict reads the Any into m, which must be of the type that the Any names, and refuses what m's schema does
// not know: fields and enum numbers, at any depth.
func unmarshalStrict(a *anypb.Any, m proto.Message) error {
	if err := unmarshal(a, m); err != nil {
		return err
	}
	return known(m.ProtoReflect(), "")
}

func unmarshal(a *anypb.Any, m proto.Message) error {
	want := m.ProtoReflect().Descriptor().FullName()
	if got := a.MessageName(); got != want || len(a.ProtoReflect().GetUnknown()) > 0 {
		return fmt.Errorf("body is %q, not %q", got, want)
	}
	if err := proto.Unmarshal(a.GetValue(), m); err != nil {
		return fmt.Errorf("body of %q: %w", want, err)
	}
	return nil
}

// known returns an error that names the first field or enum number that the schema of m does not know.
func known(m protoreflect.Message, path string) error {
	if raw := m.GetUnknown(); len(raw) > 0 {
		n, _, _ := protowire.ConsumeTag(raw)
		return fmt.Errorf("%s has a field that this version does not know (number %d)", where(m, path), n)
	}
	if m.Descriptor().FullName() == "google.protobuf.Any" {
		return fmt.Errorf("%s embeds a message of a type that this version does not know", where(m, path))
	}
	var err error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		err = knownField(f, v, join(path, string(f.Name())))
		return err == nil
	})
	return err
}

func knownField(f protoreflect.FieldDescriptor, v protoreflect.Value, path string) error {
	switch {
	case f.IsMap():
		var err error
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			err = knownValue(f.MapValue(), e, fmt.Sprintf("%s[%q]", path, k.String()))
			return err == nil
		})
		return err
	case f.IsList():
		for i, l := 0, v.List(); i < l.Len(); i++ {
			if err := knownValue(f, l.Get(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	return knownValue(f, v, path)
}

func knownValue(f protoreflect.FieldDescriptor, v protoreflect.Value, path string) error {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return known(v.Message(), path)
	case protoreflect.EnumKind:
		if f.Enum().Values().ByNumber(v.Enum()) == nil {
			return fmt.Errorf("%s has a value that this version does not know (number %d)", path, v.Enum())
		}
	}
	return nil
}

func where(m protoreflect.Message, path string) string {
	if path == "" {
		return string(m.Descriptor().FullName())
	}
	return path
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
