package adswire

import (
	"errors"
	"fmt"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Parse reads and judges one resource of a delta response of type typ (not GenerationType). trustDomain is the
// receiver's own. The error names the type, the resource and, where it is known, file and line of the object.
func Parse(typ string, w *discovery.Resource, trustDomain string) (Resource, error) {
	r := Resource{Type: typ, Name: w.GetName(), Version: w.GetVersion(), Body: w.GetResource()}
	if err := r.parse(trustDomain); err != nil {
		name := r.Name
		if len(name) > MaxNameBytes {
			name = name[:MaxNameBytes]
		}
		return Resource{}, fmt.Errorf("%s %q: %w", typ, name, err)
	}
	return r, nil
}

func (r *Resource) parse(trustDomain string) (err error) {
	switch {
	case rank(r.Type) < 0:
		return errors.New("type is not known")
	case len(r.Name) > MaxNameBytes:
		return fmt.Errorf("name is longer than %d bytes", MaxNameBytes)
	case r.Version != versionOf(r.Type, r.Name, r.Body):
		return fmt.Errorf("version %q is not the hash of the content", r.Version)
	case r.Type == EndpointType:
		r.endpoints, err = decodeEndpoints(r.Name, r.Body)
	case r.Type == HostType:
		r.answer, err = decodeAnswer(r.Name, r.Body)
	default:
		r.object, err = decodeObject(r.Type, r.Name, r.Body, trustDomain)
	}
	return err
}

// ParseMarker reads the resource of GenerationType.
func ParseMarker(w *discovery.Resource) (Marker, error) {
	var body structpb.Struct
	if w.GetName() != GenerationName {
		return Marker{}, fmt.Errorf("%s: resource %q is not %q", GenerationType, w.GetName(), GenerationName)
	}
	if err := unmarshalStrict(w.GetResource(), &body); err != nil {
		return Marker{}, fmt.Errorf("%s: %w", GenerationType, err)
	}
	f := body.GetFields()
	m := Marker{TrustDomain: f["trustDomain"].GetStringValue(), Self: f["self"].GetStringValue(), Types: map[string]string{}}
	m.ClusterDomain, m.OnDemand = f["clusterDomain"].GetStringValue(), f["onDemand"].GetBoolValue()
	for _, r := range f["roots"].GetListValue().GetValues() {
		m.Roots = append(m.Roots, r.GetStringValue())
	}
	if len(m.Roots) > MaxRoots {
		return Marker{}, fmt.Errorf("%s: %d roots, at most %d", GenerationType, len(m.Roots), MaxRoots)
	}
	for t, h := range f["types"].GetStructValue().GetFields() {
		if rank(t) < 0 {
			return Marker{}, fmt.Errorf("%s: type %q is not known to this proxy", GenerationType, t)
		}
		m.Types[t] = h.GetStringValue()
	}
	for name := range f {
		if !slices.Contains([]string{"trustDomain", "self", "clusterDomain", "onDemand", "roots", "types"}, name) {
			return Marker{}, fmt.Errorf("%s: %q is not known to this proxy", GenerationType, name)
		}
	}
	if w.GetVersion() != m.Generation() {
		return Marker{}, fmt.Errorf("%s: version %q is not the hash of the content", GenerationType, w.GetVersion())
	}
	return m, nil
}
