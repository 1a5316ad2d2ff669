package mesh

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// world is every object that stands, sorted out by kind and oldest first in each. Immutable once built.
type world struct {
	trustDomain string
	settings    Settings
	objects     map[Key]*Object
	config      *Object // the ConfigMap istio, nil if there is none
	control     control

	workloads        []*Workload // sorted by namespace and name
	byName           map[string]*Workload
	byNamespace      map[string][]*Workload
	sidecars         []*Typed[*networking.Sidecar]
	virtualServices  []*Typed[*networking.VirtualService]
	destinationRules []*Typed[*networking.DestinationRule]
	authorization    []*Typed[*security.AuthorizationPolicy]
	peers            []*Typed[*security.PeerAuthentication]
	authentication   []*Typed[*security.RequestAuthentication]
	rego             []*Typed[*policy.RegoPolicy]
	limits           []*Typed[*policy.RateLimitPolicy]
	entries          []*entry
}

// entry is a ServiceEntry with the services it defines, one for each host.
type entry struct {
	Typed[*networking.ServiceEntry]
	services []*Service
}

// newWorld sorts objects, which must have different keys, and reads workloads and services.
func newWorld(objects []*Object, trustDomain string) *world {
	w := &world{trustDomain: trustDomain, objects: make(map[Key]*Object, len(objects)), byName: make(map[string]*Workload),
		byNamespace: make(map[string][]*Workload)}
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, older)
	for _, o := range sorted {
		if o.Key != ControlKey() { // it is no object of the mesh: it goes only where it is needed
			w.objects[o.Key] = o
		}
		if o.Kind == KindConfigMap && w.config == nil {
			w.config = o
		}
	}
	w.settings = readSettings(w.config)
	for _, o := range sorted {
		w.sort(o)
	}
	slices.SortFunc(w.workloads, func(a, b *Workload) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for _, l := range w.workloads {
		w.byName[l.Namespace+"/"+l.Name] = l
		w.byNamespace[l.Namespace] = append(w.byNamespace[l.Namespace], l)
	}
	for _, e := range w.entries {
		e.services = w.services(e)
	}
	return w
}

// older orders objects by age, and those of one age by key, so that every process sees one order.
func older(a, b *Object) int {
	return cmp.Or(a.Created.Compare(b.Created), compareKeys(a.Key, b.Key))
}

func compareKeys(a, b Key) int {
	return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace),
		strings.Compare(a.Name, b.Name))
}

func (w *world) sort(o *Object) {
	switch spec := o.Spec.(type) {
	case *networking.WorkloadEntry:
		w.workloads = append(w.workloads, readWorkload(o, spec, w.trustDomain))
	case *networking.ServiceEntry:
		w.entries = append(w.entries, &entry{Typed: Typed[*networking.ServiceEntry]{o.Meta, spec}})
	case *networking.Sidecar:
		w.sidecars = append(w.sidecars, typed(o, spec))
	case *networking.VirtualService:
		w.virtualServices = append(w.virtualServices, typed(o, spec))
	case *networking.DestinationRule:
		w.destinationRules = append(w.destinationRules, typed(o, spec))
	case *security.AuthorizationPolicy:
		w.authorization = append(w.authorization, typed(o, spec))
	case *security.PeerAuthentication:
		w.peers = append(w.peers, typed(o, spec))
	case *security.RequestAuthentication:
		w.authentication = append(w.authentication, typed(o, spec))
	case *policy.RegoPolicy:
		w.rego = append(w.rego, typed(o, spec))
	case *policy.RateLimitPolicy:
		w.limits = append(w.limits, typed(o, spec))
	case *policy.ControlSettings:
		w.control = newControl(spec)
	}
}

func typed[T proto.Message](o *Object, spec T) *Typed[T] { return &Typed[T]{Meta: o.Meta, Spec: spec} }

// selects reports whether labels contain every pair of a selector; an empty selector selects everything.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// exported reports whether an object of one namespace is visible in another by its exportTo; absent means everywhere.
func exported(exportTo []string, from, to string) bool {
	if len(exportTo) == 0 {
		return true
	}
	for _, v := range exportTo {
		if v == "*" || v == "." && from == to || v == to {
			return true
		}
	}
	return false
}
