package adswire

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/signet-mesh/signet/mesh"
)

// Set is what one proxy holds: resources by type and name. Immutable; the zero value is empty.
type Set struct {
	byType map[string]part
	count  int
	bytes  int
}

// part is all resources of one type, never empty.
type part struct {
	byName map[string]Resource
	hash   string
}

// With is the set with resources of one type added or replaced and others removed. It refuses what exceeds MaxResources
// or MaxSetBytes.
func (s *Set) With(typ string, changed []Resource, removed []string) (*Set, error) {
	names := maps.Clone(s.byType[typ].byName)
	if names == nil {
		names = map[string]Resource{}
	}
	out := &Set{byType: maps.Clone(s.byType), count: s.count, bytes: s.bytes}
	drop := func(name string) {
		if old, ok := names[name]; ok {
			out.count--
			out.bytes -= old.Bytes()
			delete(names, name)
		}
	}
	for _, name := range removed {
		drop(name)
	}
	for _, r := range changed {
		drop(r.Name)
		names[r.Name] = r
		out.count++
		out.bytes += r.Bytes()
	}
	if out.count > MaxResources || out.bytes > MaxSetBytes {
		return nil, fmt.Errorf("%d resources of %d bytes exceed the limit of %d resources of %d bytes", out.count, out.bytes, MaxResources, MaxSetBytes)
	}
	if out.byType == nil {
		out.byType = map[string]part{}
	}
	if delete(out.byType, typ); len(names) > 0 {
		out.byType[typ] = part{byName: names, hash: hashPart(names)}
	}
	return out, nil
}

func hashPart(names map[string]Resource) string {
	parts := make([][]byte, 0, 2*len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		parts = append(parts, []byte(name), []byte(names[name].Version))
	}
	return digest(parts...)
}

// Version is the version of one resource, "" if the set has none of that type and name.
func (s *Set) Version(typ, name string) string { return s.byType[typ].byName[name].Version }

// Len is the number of resources.
func (s *Set) Len() int { return s.count }

// Versions are the versions of one type by name, as initial_resource_versions has them.
func (s *Set) Versions(typ string) map[string]string {
	out := make(map[string]string, len(s.byType[typ].byName))
	for name, r := range s.byType[typ].byName {
		out[name] = r.Version
	}
	return out
}

// Marker is what the resource of GenerationType says: which proxy's generation ends here, and what it consists of.
type Marker struct {
	TrustDomain string
	Self        string // NAMESPACE/WORKLOAD
	// ClusterDomain is "" where it is mesh.DefaultClusterDomain.
	ClusterDomain string
	// OnDemand: the view holds what was asked for, and the resources of HostType are the answers.
	OnDemand bool
	// Roots are the certificates that the trust domain is verified by from now on, in DER and base64, at most MaxRoots; none where
	// the control plane says nothing of them. They travel ahead of what they verify: a root that will sign is known before it does.
	Roots []string
	// Types maps each type that the set has resources of to their hash.
	Types map[string]string
}

// Marker describes the set as that of one workload.
func (s *Set) Marker(trustDomain, self string) Marker {
	m := Marker{TrustDomain: trustDomain, Self: self, Types: make(map[string]string, len(s.byType))}
	for t, p := range s.byType {
		m.Types[t] = p.hash
	}
	return m
}

// Generation is the hash of all that the marker says.
func (m Marker) Generation() string {
	parts := [][]byte{[]byte(m.TrustDomain), []byte(m.Self)}
	if m.ClusterDomain != "" {
		parts = append(parts, []byte("clusterDomain"), []byte(m.ClusterDomain))
	}
	if m.OnDemand {
		parts = append(parts, []byte("onDemand"), nil)
	}
	for _, r := range m.Roots {
		parts = append(parts, []byte("root"), []byte(r))
	}
	for _, t := range slices.Sorted(maps.Keys(m.Types)) {
		parts = append(parts, []byte(t), []byte(m.Types[t]))
	}
	return digest(parts...)
}

// Resource is the marker as it travels: a google.protobuf.Struct of trustDomain, self and types, and where they
// say something of clusterDomain, onDemand and roots.
func (m Marker) Resource() (Resource, error) {
	types := map[string]*structpb.Value{}
	for t, h := range m.Types {
		types[t] = structpb.NewStringValue(h)
	}
	fields := map[string]*structpb.Value{
		"trustDomain": structpb.NewStringValue(m.TrustDomain),
		"self":        structpb.NewStringValue(m.Self),
		"types":       structpb.NewStructValue(&structpb.Struct{Fields: types}),
	}
	if m.ClusterDomain != "" {
		fields["clusterDomain"] = structpb.NewStringValue(m.ClusterDomain)
	}
	if m.OnDemand {
		fields["onDemand"] = structpb.NewBoolValue(true)
	}
	if len(m.Roots) > 0 {
		list := &structpb.ListValue{}
		for _, r := range m.Roots {
			list.Values = append(list.Values, structpb.NewStringValue(r))
		}
		fields["roots"] = structpb.NewListValue(list)
	}
	body, err := marshalAny(&structpb.Struct{Fields: fields})
	if err != nil {
		return Resource{}, fmt.Errorf("encoding generation: %w", err)
	}
	return Resource{Type: GenerationType, Name: GenerationName, Version: m.Generation(), Body: body}, nil
}

// Check reports how the set differs from what the marker describes; nil if it does not.
func (s *Set) Check(m Marker) error {
	have := s.Marker(m.TrustDomain, m.Self)
	have.ClusterDomain, have.OnDemand, have.Roots = m.ClusterDomain, m.OnDemand, m.Roots
	if have.Generation() == m.Generation() {
		return nil
	}
	var diff []string
	for t, h := range m.Types {
		if have.Types[t] != h {
			diff = append(diff, t)
		}
	}
	for t := range have.Types {
		if m.Types[t] == "" {
			diff = append(diff, t)
		}
	}
	slices.Sort(diff)
	return fmt.Errorf("what is held does not make up generation %s: %s differ", m.Generation(), strings.Join(diff, ", "))
}

// View builds the view that the marker's workload runs on of resources that were all parsed.
func (s *Set) View(m Marker) (*mesh.View, error) {
	if err := s.Check(m); err != nil {
		return nil, err
	}
	var objects []*mesh.Object
	for _, t := range types {
		if t == EndpointType || t == HostType {
			continue
		}
		byName := s.byType[t].byName
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			if byName[name].object == nil {
				return nil, fmt.Errorf("building view: %s %q was never parsed", t, name)
			}
			objects = append(objects, byName[name].object)
		}
	}
	eps := s.byType[EndpointType].byName
	received := mesh.Received{TrustDomain: m.TrustDomain, ClusterDomain: m.ClusterDomain, Self: m.Self, Objects: objects,
		Endpoints: func(c mesh.Cluster) ([]mesh.Endpoint, bool) {
			r, ok := eps[clusterName(c)]
			return r.endpoints, ok
		}}
	if m.OnDemand {
		received.Asked = make(map[string]mesh.Answer, len(s.byType[HostType].byName))
		for name, r := range s.byType[HostType].byName {
			received.Asked[name] = r.answer
		}
	}
	view, problems := received.View()
	for _, p := range problems {
		if p.Severity == mesh.Refused {
			return nil, fmt.Errorf("building view: %w", &p)
		}
	}
	if view == nil {
		return nil, fmt.Errorf("building view: workload %q is not among its objects", m.Self)
	}
	return view, nil
}
