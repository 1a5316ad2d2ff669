package mesh

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// world is every object that stands, sorted out by kind and oldest first in each. Immutable once built.
type world struct {
	trustDomain   string
	clusterDomain string
	settings      Settings
	objects       map[Key]*Object
	order         []*Object // those that the world was made of, oldest first
	config        *Object   // the ConfigMap istio, nil if there is none
	control       control
	// sorted are the objects by key, plains what View.Plain says of all pods; read when first needed.
	sorted func() []*Object
	plains func() map[string]Plain

	workloads        []*Workload // sorted by namespace and name
	workloadOf       map[*Object]*Workload
	byName           map[string]*Workload
	byNamespace      map[string][]*Workload
	sidecars         []*Typed[*networking.Sidecar]
	virtualServices  []*Typed[*networking.VirtualService]
	destinationRules []*Typed[*networking.DestinationRule]
	authorization    []*Typed[*security.AuthorizationPolicy]
	peers            []*Typed[*security.PeerAuthentication]
	peerObjects      []*Object
	peersBy          map[string][]*Typed[*security.PeerAuthentication]
	authentication   []*Typed[*security.RequestAuthentication]
	rego             []*Typed[*policy.RegoPolicy]
	limits           []*Typed[*policy.RateLimitPolicy]
	// entries define services: those of Kubernetes first, and oldest first in each.
	entries []*entry
	entryOf map[*Object]*entry
	index   index
	// findings are what was found of this world when it was built; same says that they are those of an earlier one.
	findings *findings
	same     bool
}

// findings are the problems of a world, and the objects that are left out for them. Immutable.
type findings struct {
	problems []Problem
	dropped  map[Key]bool
}

// worldOptions is what a world is made for.
type worldOptions struct {
	trustDomain, clusterDomain string
	control                    *policy.ControlSettings
	previous                   *world // nil, or one of the same mesh
}

// newWorld sorts objects, which are given by key, and reads workloads and services.
func newWorld(objects map[Key]*Object, opts worldOptions) *world {
	prev := opts.previous
	if prev != nil && (prev.trustDomain != opts.trustDomain || prev.clusterDomain != opts.clusterDomain) {
		prev = nil
	}
	w := &world{trustDomain: opts.trustDomain, clusterDomain: opts.clusterDomain, objects: objects, control: newControl(opts.control, prev)}
	w.sorted = sync.OnceValue(func() []*Object { return sortedObjects(w.objects) })
	w.plains = sync.OnceValue(w.readPlains)
	w.order = inOrder(objects, prev)
	for _, o := range w.order {
		if o.Kind == KindConfigMap && w.config == nil {
			w.config = o
		}
	}
	w.settings = readSettings(w.config)
	if o := objects[ControlKey()]; o != nil {
		if spec, ok := o.Spec.(*policy.ControlSettings); ok {
			w.control = newControl(spec, prev)
		}
		delete(objects, ControlKey()) // it is no object of the mesh: it goes only where it is needed
	}
	w.readWorkloads(prev)
	for _, o := range w.order {
		w.sort(o)
	}
	w.peersBy = grouped(w.peers, func(o *Typed[*security.PeerAuthentication]) string { return o.Namespace })
	w.readEntries(prev)
	if w.same = w.alike(prev); w.same {
		w.findings = prev.findings
		w.index = newIndex(w, &prev.index)
	} else {
		w.index = newIndex(w, nil)
	}
	return w
}

// inOrder are objects oldest first.
func inOrder(objects map[Key]*Object, prev *world) []*Object {
	var old []*Object
	if prev != nil {
		old = prev.order
	}
	known := make(map[*Object]struct{}, len(old))
	for _, o := range old {
		if objects[o.Key] == o {
			known[o] = struct{}{}
		}
	}
	var fresh []*Object
	if len(known) < len(objects) {
		for _, o := range objects {
			if _, ok := known[o]; !ok {
				fresh = append(fresh, o)
			}
		}
	}
	slices.SortFunc(fresh, older)
	return merged(old, fresh, func(o *Object) bool { _, ok := known[o]; return ok }, older)
}

// merged puts what is new into the order of what is kept of an old list.
func merged[T any](old, fresh []T, keep func(T) bool, compare func(a, b T) int) []T {
	out := make([]T, 0, len(old)+len(fresh))
	for _, o := range old {
		if !keep(o) {
			continue
		}
		for len(fresh) > 0 && compare(fresh[0], o) < 0 {
			out, fresh = append(out, fresh[0]), fresh[1:]
		}
		out = append(out, o)
	}
	return append(out, fresh...)
}

// alike reports whether nothing but endpoints of Services differs from an earlier world: what was found there holds here.
func (w *world) alike(prev *world) bool {
	if prev == nil || len(w.order) != len(prev.order) {
		return false
	}
	for i, o := range w.order {
		was := prev.order[i]
		if o == was {
			continue
		}
		e, before := w.entryOf[o], prev.entryOf[was]
		if e == nil || before == nil || e.travels != before.travels {
			return false
		}
	}
	return true
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
	case *networking.Sidecar:
		w.sidecars = append(w.sidecars, typed(o, spec))
	case *networking.VirtualService:
		w.virtualServices = append(w.virtualServices, typed(o, spec))
	case *networking.DestinationRule:
		w.destinationRules = append(w.destinationRules, typed(o, spec))
	case *security.AuthorizationPolicy:
		w.authorization = append(w.authorization, typed(o, spec))
	case *security.PeerAuthentication:
		w.peers, w.peerObjects = append(w.peers, typed(o, spec)), append(w.peerObjects, o)
	case *security.RequestAuthentication:
		w.authentication = append(w.authentication, typed(o, spec))
	case *policy.RegoPolicy:
		w.rego = append(w.rego, typed(o, spec))
	case *policy.RateLimitPolicy:
		w.limits = append(w.limits, typed(o, spec))
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
