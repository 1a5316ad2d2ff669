package mesh

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh/policy"
)

// BuildOptions says what a snapshot is built for.
type BuildOptions struct {
	TrustDomain string
	// Check is asked about the whole snapshot: an object that it refuses (with Fault) is left out, a security object
	// replaced by its quarantine, and what is left is asked about again. nil asks nobody.
	Check func(*Snapshot) []Problem
	// Control is what the control plane's command line says; without a store in it every policy with a global limit is
	// refused.
	Control *policy.ControlSettings
	// ClusterDomain is what the names of Kubernetes' Services end in; "" is DefaultClusterDomain.
	ClusterDomain string
	// Previous is an earlier snapshot of the same mesh: what was read of objects that are the same pointers is taken from it,
	// so that a build costs what changed. nil reads everything. The result is the same.
	Previous *Snapshot
}

// Build judges objects against each other and makes the snapshot of those that stand. Problems of severity Refused name
// objects that were left out (a duplicate key, the newer of two Sidecars that select one workload, ...); references to
// what does not exist are Dangling warnings. The input is not modified.
func Build(objects []*Object, opts BuildOptions) (*Snapshot, []Problem) {
	s, problems := build(objects, opts)
	opts.Previous = s
	var refusals []Problem
	// Each round leaves at least one object out for good.
	for range len(objects) {
		found := s.world.together()
		if len(found) == 0 && opts.Check != nil {
			found = opts.Check(s)
		}
		if len(Refusals(found)) == 0 {
			problems = append(problems, found...)
			break
		}
		left, more := without(s.world.sorted(), found)
		if len(more) == 0 {
			problems = append(problems, found...)
			break
		}
		refusals = append(refusals, more...)
		var again []Problem
		s, again = build(left, opts)
		problems = append(Refusals(problems), again...)
	}
	return s, append(problems, refusals...)
}

// without leaves out what is refused, and gives the refusals that did so.
func without(objects []*Object, refusals []Problem) (left []*Object, effective []Problem) {
	gone := make(map[Key]*Problem)
	for i := range refusals {
		if p := &refusals[i]; p.Severity == Refused && gone[p.Key] == nil {
			gone[p.Key] = p
		}
	}
	for _, o := range objects {
		p := gone[o.Key]
		if p == nil || o.Quarantined() {
			left = append(left, o)
			continue
		}
		effective = append(effective, *p)
		if q := Quarantine(*p); q != nil {
			left = append(left, q)
		}
	}
	return left, effective
}

func build(objects []*Object, opts BuildOptions) (*Snapshot, []Problem) {
	b := &builder{}
	stand := b.distinct(objects)
	o := worldOptions{trustDomain: opts.TrustDomain, clusterDomain: cmp.Or(opts.ClusterDomain, DefaultClusterDomain), control: opts.Control}
	if opts.Previous != nil {
		o.previous = opts.Previous.world
	}
	w := newWorld(stand, o)
	if w.same {
		b.dropped = w.findings.dropped
		b.drop(w)
		w.exchange(o.previous)
		return newSnapshot(w), slices.Concat(b.problems, w.findings.problems, w.asTCP())
	}
	twice := len(b.problems)
	b.sidecars(w)
	b.drop(w)
	b.listeners(w, w.workloads)
	b.drop(w)
	b.workloads(w)
	b.references(w)
	w.resort(o.previous)
	w.findings = &findings{slices.Clone(b.problems[twice:]), b.dropped}
	return newSnapshot(w), append(b.problems, w.asTCP()...)
}

// builder is the state of one Build.
type builder struct {
	problems []Problem
	dropped  map[Key]bool
}

func (b *builder) report(s Severity, o *Object, field, format string, args ...any) {
	p := Problem{Severity: s, Position: o.where(field), Key: o.Key, Field: field, Message: fmt.Sprintf(format, args...)}
	b.problems = append(b.problems, p)
}

// dangle reports a reference to what does not exist.
func (b *builder) dangle(o *Object, field, format string, args ...any) {
	b.report(Warning, o, field, format, args...)
	b.problems[len(b.problems)-1].Dangling = true
}

// refuse leaves an object out.
func (b *builder) refuse(o *Object, field, format string, args ...any) {
	b.report(Refused, o, field, format, args...)
	if b.dropped == nil {
		b.dropped = make(map[Key]bool)
	}
	b.dropped[o.Key] = true
}

// drop takes what was refused out of a world.
func (b *builder) drop(w *world) {
	if len(b.dropped) == 0 {
		return
	}
	w.sidecars = slices.DeleteFunc(w.sidecars, func(s *sidecarObject) bool { return b.dropped[s.Key] })
	w.index.sidecars = sidecarsByNamespace(w.sidecars)
	for key := range b.dropped {
		delete(w.objects, key)
	}
}

// distinct keeps the first object of each key, and refuses the others by the first one's position.
func (b *builder) distinct(objects []*Object) map[Key]*Object {
	first := make(map[Key]*Object, len(objects))
	for _, o := range objects {
		if have, dup := first[o.Key]; dup {
			b.report(Refused, o, "", "is defined twice, first at %s", have.Position)
			continue
		}
		first[o.Key] = o
	}
	return first
}

func sortedObjects(m map[Key]*Object) []*Object {
	out := make([]*Object, 0, len(m))
	for _, o := range m {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *Object) int { return compareKeys(a.Key, b.Key) })
	return out
}

// exchange sorts the objects by key as an earlier world has them, from which this one differs in endpoints of Services only: an
// object that changed has the place of its predecessor.
func (w *world) exchange(prev *world) {
	list := slices.Clone(prev.sorted())
	for i, o := range w.order {
		if was := prev.order[i]; o != was {
			if at, ok := slices.BinarySearchFunc(list, was.Key, func(o *Object, k Key) int { return compareKeys(o.Key, k) }); ok {
				list[at] = o
			}
		}
	}
	w.sorted = func() []*Object { return list }
}

// resort sorts the objects by key as an earlier world has them sorted.
func (w *world) resort(prev *world) {
	if prev == nil {
		return
	}
	stands := func(o *Object) bool { return w.objects[o.Key] == o } // drop may have taken it out
	old, kept := prev.sorted(), make(map[*Object]struct{}, len(w.objects))
	for _, o := range old {
		if stands(o) {
			kept[o] = struct{}{}
		}
	}
	var fresh []*Object
	if len(kept) < len(w.objects) {
		for _, o := range w.objects {
			if _, ok := kept[o]; !ok {
				fresh = append(fresh, o)
			}
		}
	}
	byKey := func(a, b *Object) int { return compareKeys(a.Key, b.Key) }
	slices.SortFunc(fresh, byKey)
	list := merged(old, fresh, func(o *Object) bool { _, ok := kept[o]; return ok }, byKey)
	w.sorted = func() []*Object { return list }
}

// hash is over what can change a view: the order by age, keys, labels, annotations and specs of the objects, never where
// they stand.
func (w *world) hash() string {
	objects := slices.Clone(w.sorted())
	slices.SortFunc(objects, older)
	h := sha256.New()
	control, err := proto.MarshalOptions{Deterministic: true}.Marshal(w.control.settings)
	fmt.Fprintf(h, "%q %q %x %v\n", w.trustDomain, w.clusterDomain, control, err)
	for _, o := range objects {
		// Maps print sorted. A spec that does not marshal (invalid UTF-8) never got past Parse.
		spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(o.Spec)
		fmt.Fprintf(h, "%q %q %q %x %v\n", o.Key, o.Labels, o.Annotations, spec, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
