package adswire

import (
	"errors"
	"runtime"
	"sync"
	"weak"

	"github.com/signet-mesh/signet/mesh"
)

// Encoder turns views into sets. It remembers what it encoded for as long as the object or service lives, since the views
// of one snapshot share them. Safe for concurrent use; the zero value is ready.
type Encoder struct {
	objects  sync.Map // weak.Pointer[mesh.Object] -> Resource
	services sync.Map // endpointsOf -> []Resource
}

// endpointsOf are the endpoints of a service, for one use.
type endpointsOf struct {
	service weak.Pointer[mesh.Service]
	use     mesh.Use
}

// Encode is the set of a view, and the marker that describes it. It is deterministic: equal views make equal sets, of
// equal versions.
func (e *Encoder) Encode(v *mesh.View) (*Set, Marker, error) {
	if v.Self == nil {
		return nil, Marker{}, errors.New("encoding view: it has no workload")
	}
	byType := map[string][]Resource{}
	for _, o := range v.Objects {
		r, err := e.object(o)
		if err != nil {
			return nil, Marker{}, err
		}
		byType[r.Type] = append(byType[r.Type], r)
	}
	endpoints := func(s *mesh.Service, use mesh.Use) error {
		rs, err := e.service(s, use)
		byType[EndpointType] = append(byType[EndpointType], rs...)
		return err
	}
	for _, s := range v.Services {
		if err := endpoints(s, mesh.Outbound); err != nil {
			return nil, Marker{}, err
		}
	}
	for _, s := range v.Served {
		if err := endpoints(s, mesh.Inbound); err != nil {
			return nil, Marker{}, err
		}
	}
	for _, s := range v.Authorizers {
		if err := endpoints(s, mesh.Authorizing); err != nil {
			return nil, Marker{}, err
		}
	}
	for name, a := range v.Asked {
		r, err := encodeAnswer(name, a)
		if err != nil {
			return nil, Marker{}, err
		}
		byType[HostType] = append(byType[HostType], r)
	}
	set := &Set{}
	for t, rs := range byType {
		var err error
		if set, err = set.With(t, rs, nil); err != nil {
			return nil, Marker{}, err
		}
	}
	m := set.Marker(v.TrustDomain, NodeID(v.Self.Namespace, v.Self.Name))
	m.OnDemand = v.Asked != nil
	if v.ClusterDomain != mesh.DefaultClusterDomain {
		m.ClusterDomain = v.ClusterDomain
	}
	return set, m, nil
}

// Version is that of an object's resource: equal for equal content.
func (e *Encoder) Version(o *mesh.Object) (string, error) {
	r, err := e.object(o)
	return r.Version, err
}

func (e *Encoder) object(o *mesh.Object) (Resource, error) {
	key := weak.Make(o)
	if r, ok := e.objects.Load(key); ok {
		return r.(Resource), nil
	}
	r, err := encodeObject(o)
	if err != nil {
		return Resource{}, err
	}
	if _, loaded := e.objects.LoadOrStore(key, r); !loaded {
		runtime.AddCleanup(o, func(k weak.Pointer[mesh.Object]) { e.objects.Delete(k) }, key)
	}
	return r, nil
}

func (e *Encoder) service(s *mesh.Service, use mesh.Use) ([]Resource, error) {
	key := endpointsOf{weak.Make(s), use}
	if rs, ok := e.services.Load(key); ok {
		return rs.([]Resource), nil
	}
	var rs []Resource
	for i, eps := range s.Endpoints {
		if len(eps) == 0 || i >= len(s.Ports) {
			continue
		}
		c := mesh.Cluster{Use: use, Port: s.Ports[i].Number}
		if use != mesh.Outbound {
			c.Key = s.Key()
		}
		if use != mesh.Inbound {
			c.Host = s.Host
		}
		r, err := encodeEndpoints(c, eps)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	if _, loaded := e.services.LoadOrStore(key, rs); !loaded {
		runtime.AddCleanup(s, func(k endpointsOf) { e.services.Delete(k) }, key)
	}
	return rs, nil
}
