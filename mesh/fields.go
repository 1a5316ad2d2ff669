package mesh

import (
	"fmt"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fate is what becomes of a field that is set. The zero value refuses, so a field that a newer version of Istio adds is
// refused until somebody has judged it.
type fate uint8

const (
	refused  fate = iota
	honoured      // of a message: its fields are judged one by one
	warned        // dropped, with a warning that names it
)

// String is the word docs/compatibility.md uses.
func (f fate) String() string { return [...]string{"refused", "honoured", "warned"}[f] }

// fieldTable gives the fate of a field by its path without indices and map keys, and why.
type fieldTable func(path string) (fate, string)

// fieldTables gives the table of a kind.
func fieldTables(kind string) fieldTable {
	switch kind {
	case KindWorkloadEntry, KindPod:
		return workloadEntryFields
	case KindServiceEntry, KindService:
		return serviceEntryFields
	case KindSidecar:
		return sidecarFields
	case KindVirtualService:
		return virtualServiceFields
	case KindDestinationRule:
		return destinationRuleFields
	case KindAuthorizationPolicy:
		return authorizationPolicyFields
	case KindPeerAuthentication:
		return peerAuthenticationFields
	case KindRequestAuthentication:
		return requestAuthenticationFields
	case KindRegoPolicy:
		return regoPolicyFields
	case KindRateLimitPolicy:
		return rateLimitPolicyFields
	case KindControlSettings:
		return controlSettingsFields
	case KindConfigMap:
		return meshConfigFields
	}
	return func(string) (fate, string) { return refused, "" }
}

// judge collects what is found about one object.
type judge struct {
	object      *Object
	trustDomain string
	problems    []Problem
}

// root is the path of the object's spec in the document.
func (j *judge) root() string {
	if j.object.Kind == KindConfigMap {
		return "data.mesh"
	}
	return "spec"
}

func (j *judge) refuse(field, format string, args ...any) { j.add(Refused, field, format, args...) }
func (j *judge) warn(field, format string, args ...any)   { j.add(Warning, field, format, args...) }

// add records a problem of a field; a field that begins with "metadata" is as it is, any other is one of the spec.
func (j *judge) add(s Severity, field, format string, args ...any) {
	if len(j.problems) >= MaxProblems {
		if s == Warning {
			return
		}
		j.problems = j.problems[:MaxProblems-1]
	}
	if !strings.HasPrefix(field, "metadata.") {
		field = strings.TrimSuffix(join(j.root(), field), ".")
	}
	j.problems = append(j.problems, Problem{Severity: s, Position: j.object.where(field), Key: j.object.Key, Field: field,
		Message: fmt.Sprintf(format, args...)})
}

// where is the position of a field, else of the nearest field above it, else of the object.
func (o *Object) where(field string) Position {
	for field != "" {
		if at, ok := o.at[field]; ok {
			return at
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
	return o.Position
}

// fields judges every field that is set by the kind's table.
func (j *judge) fields(table fieldTable) {
	j.message(j.object.Spec.ProtoReflect(), "", "", table)
}

func (j *judge) message(m protoreflect.Message, path, plain string, table fieldTable) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		at, name := join(path, f.JSONName()), join(plain, f.JSONName())
		what, why := table(name)
		switch what {
		case refused:
			if why == "" {
				why = "is not honoured"
			}
			j.refuse(at, "%s", why)
		case warned:
			j.warn(at, "%s", why)
		case honoured:
			j.below(m.Get(f), f, at, name, table)
		}
	}
}

// below goes into an honoured field that holds messages.
func (j *judge) below(v protoreflect.Value, f protoreflect.FieldDescriptor, at, name string, table fieldTable) {
	switch {
	case f.IsMap():
		if leaf(f.MapValue()) {
			return
		}
		keys := make([]protoreflect.MapKey, 0, v.Map().Len())
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k)
			return true
		})
		sort.Slice(keys, func(a, b int) bool { return keys[a].String() < keys[b].String() })
		for _, k := range keys {
			j.message(v.Map().Get(k).Message(), fmt.Sprintf("%s[%s]", at, k), name, table)
		}
	case leaf(f):
	case f.IsList():
		for i := range v.List().Len() {
			j.message(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", at, i), name, table)
		}
	default:
		j.message(v.Message(), at, name, table)
	}
}

// leaf reports whether a field holds nothing that has fields of its own to judge.
func leaf(f protoreflect.FieldDescriptor) bool {
	return f.Message() == nil || f.Message().FullName() == "istio.networking.v1alpha3.StringMatch" ||
		strings.HasPrefix(string(f.Message().FullName()), "google.protobuf.")
}

// unknownFields gives the path of the first message that holds fields this version's schema does not know.
func unknownFields(m protoreflect.Message, path string) (string, bool) {
	if len(m.GetUnknown()) > 0 {
		return path, true
	}
	found, ok := "", false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := join(path, f.JSONName())
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				found, ok = unknownFields(e.Message(), at)
				return !ok
			})
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := 0; i < v.List().Len() && !ok; i++ {
				found, ok = unknownFields(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", at, i))
			}
		default:
			found, ok = unknownFields(v.Message(), at)
		}
		return !ok
	})
	return found, ok
}

// sameSpecType reports whether a spec has the type of its kind.
func sameSpecType(o *Object) bool {
	want, known := NewSpec(o.Group, o.Kind)
	return known && o.Spec != nil && proto.MessageName(want) == proto.MessageName(o.Spec)
}
