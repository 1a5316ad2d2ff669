package dir

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/signet-mesh/signet/mesh"
)

// apply puts what the files say in force: good objects, for refused ones the last good version or a quarantine, and while
// the directory is not at rest also what vanished.
func (d *Dir) apply(atRest bool) (*mesh.Snapshot, []mesh.Problem) {
	fresh, problems, held := d.gather()
	objects := fresh
	have := make(map[mesh.Key]bool, len(fresh))
	for _, o := range fresh {
		have[o.Key] = true
	}
	add := func(o *mesh.Object) {
		if o != nil && !have[o.Key] {
			have[o.Key] = true
			objects = append(objects, o)
		}
	}
	for _, o := range d.lastGood() {
		if held[o.Position.File] {
			add(o)
		}
	}
	effect := make(map[mesh.Key]string)
	for _, p := range mesh.Refusals(problems) {
		d.standIn(p, have, add, effect)
	}
	d.pending = false
	for _, o := range d.lastGood() {
		if !have[o.Key] && !atRest {
			d.pending = true
			add(o)
		}
	}
	s, more := d.build(objects, effect)
	problems = append(problems, more...)
	d.report(problems, effect)
	d.keep(s)
	return s, problems
}

// gather unites all files in the order of their names; held names the files whose last good objects stay.
func (d *Dir) gather() (objects []*mesh.Object, problems []mesh.Problem, held map[string]bool) {
	held = make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[name]
		objects = append(objects, f.objects...)
		problems = append(problems, f.problems...)
		if f.held {
			held[name] = true
		}
	}
	return objects, problems, held
}

// lastGood are the last good objects in the order of their keys' text.
func (d *Dir) lastGood() []*mesh.Object {
	return slices.SortedFunc(maps.Values(d.good), func(a, b *mesh.Object) int {
		return slices.Compare([]string{a.Group, a.Kind, a.Namespace, a.Name}, []string{b.Group, b.Kind, b.Namespace, b.Name})
	})
}

// standIn finds what takes the place of a refused object, and notes what became of it.
func (d *Dir) standIn(p mesh.Problem, have map[mesh.Key]bool, add func(*mesh.Object), effect map[mesh.Key]string) {
	if p.WholeFile() || effect[p.Key] != "" {
		return
	}
	switch q := mesh.Quarantine(p); {
	case have[p.Key]:
		effect[p.Key] = "another definition stands"
	case d.good[p.Key] != nil:
		effect[p.Key] = "the last good version stays in force"
		add(d.good[p.Key])
	case q != nil:
		effect[p.Key] = quarantined(q.Kind)
		add(q)
	default:
		effect[p.Key] = "it is not in force"
	}
}

// quarantined says what the quarantine of a kind does.
func quarantined(kind string) string {
	switch kind {
	case mesh.KindPeerAuthentication:
		return "quarantined: it is STRICT until it is mended"
	case mesh.KindRegoPolicy:
		return "quarantined: it denies whatever it is asked until it is mended"
	}
	return "quarantined: it denies what it selects until it is mended"
}

// build judges objects against each other. What that refuses gets its last good version once, if it has another one.
func (d *Dir) build(objects []*mesh.Object, effect map[mesh.Key]string) (*mesh.Snapshot, []mesh.Problem) {
	opts := mesh.BuildOptions{TrustDomain: d.config.TrustDomain, Check: d.config.Check, Control: d.config.Control}
	s, problems := mesh.Build(objects, opts)
	standing := make(map[mesh.Key]bool)
	for _, o := range s.Objects() {
		standing[o.Key] = !o.Quarantined()
	}
	again := slices.Clone(objects)
	replaced := make(map[mesh.Key]bool)
	for i, o := range again {
		if last := d.good[o.Key]; !standing[o.Key] && last != nil && last != o && !o.Quarantined() {
			again[i], replaced[o.Key] = last, true
		}
	}
	if len(replaced) > 0 {
		second, more := mesh.Build(again, opts)
		// What has no good version is refused again, which is no reason to close what has one.
		worse := func(p mesh.Problem) bool { return replaced[p.Key] || standing[p.Key] }
		if refusals := mesh.Refusals(more); !slices.ContainsFunc(refusals, worse) {
			for key := range replaced {
				effect[key] = "the last good version stays in force"
			}
			warnings := slices.DeleteFunc(more, func(p mesh.Problem) bool { return p.Severity == mesh.Refused })
			s, problems = second, append(mesh.Refusals(problems), warnings...)
		}
	}
	for _, o := range s.Objects() {
		if o.Quarantined() {
			effect[o.Key] = quarantined(o.Kind)
		}
	}
	return s, problems
}

// keep remembers what stands as the last good versions.
func (d *Dir) keep(s *mesh.Snapshot) {
	d.current.Store(s)
	clear(d.good)
	for _, o := range s.Objects() {
		if !o.Quarantined() {
			d.good[o.Key] = o
		}
	}
	defined := make(map[mesh.Key]bool)
	for _, f := range d.files {
		for _, o := range f.objects {
			defined[o.Key] = true
		}
	}
	maps.DeleteFunc(d.created, func(k mesh.Key, _ time.Time) bool { return d.good[k] == nil && !defined[k] })
	d.save()
}

// report logs each problem when it appears, and forgets those that are gone.
func (d *Dir) report(problems []mesh.Problem, effect map[mesh.Key]string) {
	now := make(map[string]bool, len(problems))
	for i := range problems {
		p := &problems[i]
		text := p.Error()
		if now[text] = true; d.told[text] {
			continue
		}
		switch {
		case p.Severity == mesh.Warning:
			d.log.Warn(text)
		case p.WholeFile():
			d.log.Error(text, "effect", "what the file held stays in force")
		default:
			d.log.Error(text, "effect", cmp.Or(effect[p.Key], "it is not in force"))
		}
	}
	d.told = now
}
