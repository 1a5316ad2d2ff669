package mesh

import (
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
}

// Build judges objects against each other and makes the snapshot of those that stand. Problems of severity Refused name
// objects that were left out (a duplicate key, the newer of two Sidecars that select one workload, ...); references to
// what does not exist are Dangling warnings. The input is not modified.
func Build(objects []*Object, opts BuildOptions) (*Snapshot, []Problem) {
	s, problems := build(objects, opts)
	var refusals []Problem
	// Each round leaves at least one object out for good.
	for range len(objects) {
		found := s.world.together()
		if len(found) == 0 && opts.Check != nil {
			found = opts.Check(s)
		}
		left, more := without(s.objects, found)
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
	w := newWorld(stand, opts.TrustDomain)
	w.control = newControl(opts.Control)
	b.sidecars(w)
	w.sidecars = slices.DeleteFunc(w.sidecars, b.drop)
	b.listeners(w, w.workloads)
	w.sidecars = slices.DeleteFunc(w.sidecars, b.drop)
	for key := range b.dropped {
		delete(w.objects, key)
	}
	b.workloads(w)
	b.references(w)
	s := &Snapshot{world: w, objects: sortedObjects(w.objects), hash: w.hash(nil)}
	return s, b.problems
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

func (b *builder) drop(s *sidecarObject) bool { return b.dropped[s.Key] }

// distinct keeps the first object of each key, and refuses the others by the first one's position.
func (b *builder) distinct(objects []*Object) []*Object {
	first := make(map[Key]*Object, len(objects))
	out := make([]*Object, 0, len(objects))
	for _, o := range objects {
		if have, dup := first[o.Key]; dup {
			b.report(Refused, o, "", "is defined twice, first at %s", have.Position)
			continue
		}
		first[o.Key] = o
		out = append(out, o)
	}
	return out
}

func sortedObjects(m map[Key]*Object) []*Object {
	out := make([]*Object, 0, len(m))
	for _, o := range m {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *Object) int { return compareKeys(a.Key, b.Key) })
	return out
}

// hash is over what can change a view: the order by age, keys, labels, annotations and specs of the objects, never where
// they stand. nil means all objects.
func (w *world) hash(objects []*Object) string {
	if objects == nil {
		objects = sortedObjects(w.objects)
	}
	objects = slices.Clone(objects)
	slices.SortFunc(objects, older)
	h := sha256.New()
	control, err := proto.MarshalOptions{Deterministic: true}.Marshal(w.control.settings)
	fmt.Fprintf(h, "%q %x %v\n", w.trustDomain, control, err)
	for _, o := range objects {
		// Maps print sorted. A spec that does not marshal (invalid UTF-8) never got past Parse.
		spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(o.Spec)
		fmt.Fprintf(h, "%q %q %q %x %v\n", o.Key, o.Labels, o.Annotations, spec, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
