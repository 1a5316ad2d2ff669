package source

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/signet-mesh/signet/mesh"
)

// apply reads what changed and puts it in force.
func (s *Source) apply() {
	changed, retell := s.look(s.dirty.take())
	if changed || s.Current() == nil {
		s.build()
	}
	if changed || retell {
		s.settle(s.last)
	}
}

// look reads each item again, and reports whether the snapshot may change, or only what is told of it.
func (s *Source) look(items map[item]struct{}) (changed, retell bool) {
	services := map[string]bool{}
	for i := range items {
		switch i.what {
		case whatPod:
			changed = s.lookPod(i.key, services) || changed
		case whatService:
			services[i.key] = true
		case whatNamespace:
			retell = true // it may have come to our revision, or left it
		case whatConfig:
			changed = s.keep(s.configKey(), s.judgeConfig(s.records[s.configKey()])) || changed
		default:
			for _, key := range s.expand(i) {
				changed = s.lookAuthored(i.what, key) || changed
			}
		}
	}
	for key := range services {
		changed = s.lookService(key) || changed
	}
	return changed, retell
}

// expand is the keys that an item stands for.
func (s *Source) expand(i item) []string {
	if i.key != wholeKind {
		return []string{i.key}
	}
	var out []string
	if r := s.kinds.at(i.what); r != nil {
		out = r.GetIndexer().ListKeys()
	}
	for key := range s.records {
		if key.Kind == string(i.what) {
			out = append(out, key.Namespace+"/"+key.Name)
		}
	}
	return out
}

// lookPod reads a pod, and names the Services that its change touches.
func (s *Source) lookPod(name string, services map[string]bool) bool {
	namespace, pod, _ := strings.Cut(name, "/")
	key := podKey(namespace, pod)
	touched := []string{name}
	for _, o := range []*mesh.Object{s.objects[key], podObject(s.pod(namespace, pod))} {
		for _, a := range addressesIn(o) {
			touched = append(touched, namespace+"|"+a)
		}
	}
	for _, by := range touched {
		found, err := s.slices.GetIndexer().ByIndex(byPod, by)
		for _, o := range found {
			if slice, ok := o.(*discoveryv1.EndpointSlice); ok && err == nil {
				services[namespace+"/"+slice.Labels[discoveryv1.LabelServiceName]] = true
			}
		}
	}
	return s.set(key, podObject(s.pod(namespace, pod)))
}

func (s *Source) lookService(name string) bool {
	namespace, service, _ := strings.Cut(name, "/")
	o, ok, err := s.services.GetIndexer().GetByKey(name)
	v, is := o.(*corev1.Service)
	if err != nil || !ok || !is {
		return s.set(serviceKey(namespace, service), nil)
	}
	found, err := s.slices.GetIndexer().ByIndex(byService, name)
	if err != nil {
		return false
	}
	var all []*discoveryv1.EndpointSlice
	for _, o := range found {
		if slice, ok := o.(*discoveryv1.EndpointSlice); ok {
			all = append(all, slice)
		}
	}
	return s.set(serviceKey(namespace, service), s.serviceObject(v, all))
}

// set takes an object of a core kind, nil if there is none any more. One that says what the one before said stays itself.
func (s *Source) set(key mesh.Key, o *mesh.Object) bool {
	before := s.objects[key]
	switch {
	case o == nil && before == nil:
		return false
	case o == nil:
		delete(s.objects, key)
		return true
	case before != nil && before.Created.Equal(o.Created) && maps.Equal(before.Annotations, o.Annotations) && proto.Equal(before.Spec, o.Spec):
		return false
	}
	s.objects[key] = o
	return true
}

func (s *Source) lookAuthored(w what, name string) bool {
	namespace, object, _ := strings.Cut(name, "/")
	key := mesh.Key{Group: authoredKinds[w], Kind: string(w), Namespace: namespace, Name: object}
	u, known := s.kinds.get(w, name)
	if !known {
		return false // it will be named again when its kind was read
	}
	if u == nil {
		return s.keep(key, nil)
	}
	return s.keep(key, s.judge(key, u, s.records[key]))
}

// keep takes what is known of an authored object, nil if it is gone.
func (s *Source) keep(key mesh.Key, r *record) bool {
	before := s.records[key]
	if r == before {
		return false
	}
	if r == nil {
		delete(s.records, key)
	} else {
		s.records[key] = r
	}
	return true
}

// attempt is one set of objects that a snapshot is built of.
type attempt struct {
	objects  []*mesh.Object
	snapshot *mesh.Snapshot // what follows is of it
	problems []mesh.Problem
}

// try builds a snapshot. What needs the whole mesh compiled for every workload (mesh.BuildOptions.Check) is not asked: it takes
// seconds in a cluster of thousands of pods, while every change must be in force within tens of milliseconds. Each object was
// judged by itself, and a proxy that can't run its part refuses it, keeps what it has and says so.
func (s *Source) try(objects []*mesh.Object, previous *mesh.Snapshot) attempt {
	a := attempt{objects: objects}
	a.snapshot, a.problems = mesh.Build(objects, mesh.BuildOptions{TrustDomain: s.cfg.TrustDomain, ClusterDomain: s.cfg.ClusterDomain,
		Control: s.cfg.Control, Previous: previous})
	return a
}

// build makes the next snapshot.
func (s *Source) build() {
	objects := make([]*mesh.Object, 0, len(s.objects)+len(s.records)+1)
	for _, o := range s.objects {
		objects = append(objects, o)
	}
	for key, r := range s.records {
		if o := r.standIn(); o != nil && key != s.configKey() {
			objects = append(objects, o)
		}
	}
	var config *mesh.Object
	if r := s.records[s.configKey()]; r != nil {
		config = r.standIn()
	}
	if config = s.rooted(config); config != nil {
		objects = append(objects, config)
	}
	s.last = s.fallBack(s.try(objects, s.Current()))
	s.current.Store(s.last.snapshot)
}

// standIn is what is put in force for an object: itself, its last good version, or a quarantine; nil for nothing.
func (r *record) standIn() *mesh.Object {
	if r.newest != nil {
		return r.newest
	}
	if r.last != nil {
		return r.last
	}
	for _, p := range mesh.Refusals(r.problems) {
		if q := mesh.Quarantine(p); q != nil {
			q.Position = mesh.Position{}
			return q
		}
	}
	return nil
}

// fallBack tries again with the last good versions of what does not stand beside the others. It is taken only if nothing else
// comes to harm.
func (s *Source) fallBack(first attempt) attempt {
	replaced := map[*mesh.Object]*mesh.Object{}
	for key, r := range s.records { // most of what stands is no record: pods, Services
		stands := first.snapshot.Object(key)
		if key != s.configKey() && r.newest != nil && r.last != nil && r.last != r.newest && (stands == nil || stands.Quarantined()) {
			replaced[r.newest] = r.last
		}
	}
	if len(replaced) == 0 {
		return first
	}
	again := slices.Clone(first.objects)
	for i, o := range again {
		again[i] = cmp.Or(replaced[o], o)
	}
	second := s.try(again, first.snapshot)
	for _, o := range second.snapshot.Objects() {
		if before := first.snapshot.Object(o.Key); o.Quarantined() && before != nil && !before.Quarantined() {
			return first
		}
	}
	for _, o := range first.snapshot.Objects() {
		if !o.Quarantined() && second.snapshot.Object(o.Key) == nil {
			return first
		}
	}
	warnings := slices.DeleteFunc(second.problems, func(p mesh.Problem) bool { return p.Severity == mesh.Refused })
	second.problems = append(mesh.Refusals(first.problems), warnings...)
	return second
}

// settle notes what became of each authored object and tells whom it concerns.
func (s *Source) settle(a attempt) {
	byKey := map[mesh.Key][]mesh.Problem{}
	for _, p := range a.problems {
		p.Position = mesh.Position{}
		byKey[p.Key] = append(byKey[p.Key], p)
	}
	var all []Authored
	var problems []mesh.Problem
	kept := map[mesh.Key]saved{}
	for key, r := range s.records {
		o := a.snapshot.Object(key)
		if key == s.configKey() && r.newest != nil {
			o = r.newest // it may have been given a root namespace
		}
		one := Authored{Key: key, Resource: s.kinds.resource(what(key.Kind)), UID: r.uid, Generation: r.generation, Object: o,
			Problems: append(slices.Clone(r.problems), byKey[key]...), Effect: r.effect(o)}
		switch one.Effect {
		case InForce:
			r.last, r.lastText = r.newest, r.text
		case LastGood:
			kept[key] = saved{UID: r.uid, text: r.lastText}
		}
		if key == s.configKey() || s.Ours(key.Namespace) {
			all = append(all, one)
			problems = append(problems, one.Problems...)
		}
	}
	slices.SortFunc(all, func(a, b Authored) int { return compareKeys(a.Key, b.Key) })
	slices.SortStableFunc(problems, func(a, b mesh.Problem) int { return compareKeys(a.Key, b.Key) })
	s.authored.set(all)
	s.good.set(kept)
	s.report(all)
	if s.cfg.OnChange != nil {
		s.cfg.OnChange(s.Current(), problems)
	}
}

func (r *record) effect(stands *mesh.Object) Effect {
	switch {
	case stands == nil:
		return Absent
	case stands.Quarantined():
		return Quarantined
	case stands == r.newest:
		return InForce
	}
	return LastGood
}

func compareKeys(a, b mesh.Key) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Group, b.Group), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
}

// report logs each problem when it appears, and forgets those that are gone.
func (s *Source) report(all []Authored) {
	now := map[string]bool{}
	for i := range all {
		for k := range all[i].Problems {
			p := &all[i].Problems[k]
			text := p.Error()
			if now[text] = true; s.told[text] {
				continue
			}
			if p.Severity == mesh.Warning {
				s.log.Warn(text)
			} else {
				s.log.Error(text, "effect", all[i].Effect.String())
			}
		}
	}
	s.told = now
}

// String says it to people.
func (e Effect) String() string {
	switch e {
	case InForce:
		return "in force"
	case LastGood:
		return "the last good version stays in force"
	case Quarantined:
		return "quarantined: it denies what it selects until it is mended"
	}
	return "it is not in force"
}
