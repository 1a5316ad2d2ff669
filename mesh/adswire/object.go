package adswire

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	mcp "istio.io/api/mcp/v1alpha1"

	"github.com/signet-mesh/signet/mesh"
)

// Annotations that this package adds on the wire and takes off again. An authored annotation with the prefix does not
// travel.
const (
	wirePrefix         = "wire.signet.dev/"
	positionAnnotation = wirePrefix + "position" // LINE:COLUMN:FILE
	versionAnnotation  = wirePrefix + "version"  // the API version as written, unless it is the type's own
)

var deterministic = proto.MarshalOptions{Deterministic: true}

// encodeObject makes the resource of one authored object.
func encodeObject(o *mesh.Object) (Resource, error) {
	typ := TypeOf(o.Key)
	if rank(typ) < 0 {
		return Resource{}, fmt.Errorf("encoding %s/%s: type %q has no place on the wire", o.Namespace, o.Name, typ)
	}
	spec, err := marshalAny(o.Spec)
	if err != nil {
		return Resource{}, fmt.Errorf("encoding %s %s/%s: %w", o.Kind, o.Namespace, o.Name, err)
	}
	return seal(typ, o.Namespace+"/"+o.Name, &mcp.Resource{Metadata: encodeMeta(&o.Meta), Body: spec})
}

// seal makes a resource of a message.
func seal(typ, name string, m proto.Message) (Resource, error) {
	body, err := marshalAny(m)
	if err != nil {
		return Resource{}, fmt.Errorf("encoding %s %q: %w", typ, name, err)
	}
	r := Resource{Type: typ, Name: name, Version: versionOf(typ, name, body), Body: body}
	if n := r.Bytes(); n > MaxMessageBytes-ChunkBytes || len(name) > MaxNameBytes {
		return Resource{}, fmt.Errorf("encoding %s %q: too large for one message (%d bytes, name %d bytes)", typ, name, n, len(name))
	}
	return r, nil
}

func marshalAny(m proto.Message) (*anypb.Any, error) {
	var a anypb.Any
	if err := anypb.MarshalFrom(&a, m, deterministic); err != nil {
		return nil, err
	}
	return &a, nil
}

func encodeMeta(m *mesh.Meta) *mcp.Metadata {
	out := &mcp.Metadata{Name: m.Namespace + "/" + m.Name, Labels: m.Labels}
	if !m.Created.IsZero() {
		out.CreateTime = timestamppb.New(m.Created)
	}
	add := map[string]string{}
	for k, v := range m.Annotations {
		if !strings.HasPrefix(k, wirePrefix) {
			add[k] = v
		}
	}
	if m.Position != (mesh.Position{}) {
		add[positionAnnotation] = fmt.Sprintf("%d:%d:%s", m.Position.Line, m.Position.Column, m.Position.File)
	}
	if m.Version != mesh.VersionOf(m.Group) {
		add[versionAnnotation] = m.Version
	}
	if len(add) > 0 {
		out.Annotations = add
	}
	return out
}

// decodeObject reads the body of a resource of an authored object's type and judges it.
func decodeObject(typ, name string, body *anypb.Any, trustDomain string) (*mesh.Object, error) {
	var r mcp.Resource
	if err := unmarshal(body, &r); err != nil {
		return nil, err
	}
	authored := r.Body
	r.Body = nil // read below, as what it is
	err := known(r.ProtoReflect(), "")
	if err != nil {
		return nil, err
	}
	o := &mesh.Object{}
	if o.Key, err = keyOf(typ, name); err != nil {
		return nil, err
	}
	if err := decodeMeta(&o.Meta, r.GetMetadata()); err != nil {
		return nil, err
	}
	if !proto.Equal(encodeMeta(&o.Meta), r.GetMetadata()) {
		return nil, fmt.Errorf("metadata carries something unknown, or another name than %q", name)
	}
	spec, ok := mesh.NewSpec(o.Group, o.Kind)
	if !ok {
		return nil, fmt.Errorf("kind %q is not known", o.Kind)
	}
	if err := unmarshalStrict(authored, spec); err != nil {
		return nil, locate(o, err)
	}
	o.Spec = spec
	for _, p := range mesh.Revalidate(o, trustDomain) {
		if p.Severity == mesh.Refused {
			return nil, &p
		}
	}
	return o, nil
}

// locate puts the position of an object before an error.
func locate(o *mesh.Object, err error) error {
	if o.Position == (mesh.Position{}) {
		return err
	}
	return fmt.Errorf("%s: %w", o.Position, err)
}

func keyOf(typ, name string) (mesh.Key, error) {
	group, rest, ok := strings.Cut(typ, "/")
	if group == "core" {
		group = mesh.GroupCore
	}
	kind, served := strings.CutPrefix(rest, mesh.VersionOf(group)+"/")
	if !ok || !served {
		return mesh.Key{}, fmt.Errorf("type %q is not GROUP/VERSION/KIND", typ)
	}
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return mesh.Key{}, fmt.Errorf("name %q is not NAMESPACE/NAME", name)
	}
	return mesh.Key{Group: group, Kind: kind, Namespace: ns, Name: n}, nil
}

func decodeMeta(m *mesh.Meta, w *mcp.Metadata) error {
	m.Version = mesh.VersionOf(m.Group)
	m.Labels = w.GetLabels()
	if t := w.GetCreateTime(); t != nil {
		if err := t.CheckValid(); err != nil {
			return fmt.Errorf("metadata.create_time: %w", err)
		}
		m.Created = t.AsTime().In(time.UTC)
	}
	notes := maps.Clone(w.GetAnnotations())
	if v, ok := notes[versionAnnotation]; ok {
		m.Version = v
	}
	if v, ok := notes[positionAnnotation]; ok {
		p, err := parsePosition(v)
		if err != nil {
			return err
		}
		m.Position = p
	}
	delete(notes, versionAnnotation)
	delete(notes, positionAnnotation)
	if len(notes) > 0 {
		m.Annotations = notes
	}
	return nil
}

func parsePosition(s string) (mesh.Position, error) {
	part := strings.SplitN(s, ":", 3)
	if len(part) == 3 {
		line, err1 := strconv.Atoi(part[0])
		column, err2 := strconv.Atoi(part[1])
		if err1 == nil && err2 == nil && line >= 0 && column >= 0 {
			return mesh.Position{File: part[2], Line: line, Column: column}, nil
		}
	}
	return mesh.Position{}, fmt.Errorf("annotation %s: %q is not LINE:COLUMN:FILE", positionAnnotation, s)
}
