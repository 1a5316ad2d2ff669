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
	services sync.Map // weak.Pointer[mesh.Service] -> []Resource
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
	for _, s := range v.Services {
		rs, err := e.service(s)
		if err != nil {
			return nil, Marker{}, err
		}
		byType[EndpointType] = append(byType[EndpointType], rs...)
	}
	set := &Set{}
	for t, rs := range byType {
		var err error
		if set, err = set.With(t, rs, nil); err != nil {
			return nil, Marker{}, err
		}
	}
	return set, set.Marker(v.TrustDomain, NodeID(v.Self.Namespace, v.Self.Name)), nil
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

func (e *Encoder) service(s *mesh.Service) ([]Resource, error) {
	key := weak.Make(s)
	if rs, ok := e.services.Load(key); ok {
		return rs.([]Resource), nil
	}
	var rs []Resource
	for i, eps := range s.Endpoints {
		if len(eps) == 0 || i >= len(s.Ports) {
			continue
		}
		r, err := encodeEndpoints(s.Host, s.Ports[i].Number, eps)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	if _, loaded := e.services.LoadOrStore(key, rs); !loaded {
		runtime.AddCleanup(s, func(k weak.Pointer[mesh.Service]) { e.services.Delete(k) }, key)
	}
	return rs, nil
}
