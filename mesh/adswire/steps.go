package adswire

import (
	"maps"
	"slices"
)

// removalsPerStep keeps a response of nothing but names of MaxNameBytes below MaxMessageBytes.
const removalsPerStep = 10_000

// Versions is what a proxy is believed to hold: versions by type and name, the marker's included.
type Versions map[string]map[string]string

// Step is one delta response of a push: additions and changes, or removals, of one type.
type Step struct {
	Type    string
	Changed []Resource
	Removed []string
}

// Bytes is about the size of the response.
func (s Step) Bytes() int {
	n := 0
	for _, r := range s.Changed {
		n += r.Bytes()
	}
	for _, name := range s.Removed {
		n += len(name)
	}
	return n
}

// Fingerprint is equal for steps that say the same.
func (s Step) Fingerprint() string {
	parts := [][]byte{[]byte(s.Type)}
	for _, r := range s.Changed {
		parts = append(parts, []byte(r.Version))
	}
	parts = append(parts, nil)
	for _, name := range s.Removed {
		parts = append(parts, []byte(name))
	}
	return digest(parts...)
}

// Record notes that the proxy holds what the step brought.
func (v Versions) Record(s Step) {
	if v[s.Type] == nil {
		v[s.Type] = map[string]string{}
	}
	for _, r := range s.Changed {
		v[s.Type][r.Name] = r.Version
	}
	for _, name := range s.Removed {
		delete(v[s.Type], name)
	}
}

// Steps leads a proxy from what it holds to the set: additions and changes in the order of Types, each in responses of
// about ChunkBytes, then removals in the opposite order, and last the marker. There are none if the proxy holds all of
// it, the marker included.
func Steps(have Versions, want *Set, m Marker) ([]Step, error) {
	var steps, removals []Step
	for _, t := range types {
		byName := want.byType[t].byName
		steps = appendChanges(steps, t, have[t], byName)
		var gone []string
		for name := range have[t] {
			if _, ok := byName[name]; !ok {
				gone = append(gone, name)
			}
		}
		slices.Sort(gone)
		for names := range slices.Chunk(gone, removalsPerStep) {
			removals = append(removals, Step{Type: t, Removed: names})
		}
	}
	slices.Reverse(removals)
	steps = append(steps, removals...)
	if len(steps) == 0 && have[GenerationType][GenerationName] == m.Generation() {
		return nil, nil
	}
	last, err := m.Resource()
	if err != nil {
		return nil, err
	}
	return append(steps, Step{Type: GenerationType, Changed: []Resource{last}}), nil
}

func appendChanges(steps []Step, typ string, have map[string]string, want map[string]Resource) []Step {
	var names []string
	for name, r := range want {
		if have[name] != r.Version {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	size := 0
	for i, name := range names {
		r := want[name]
		if i == 0 || size+r.Bytes() > ChunkBytes {
			steps = append(steps, Step{Type: typ})
			size = 0
		}
		s := &steps[len(steps)-1]
		s.Changed = append(s.Changed, r)
		size += r.Bytes()
	}
	return steps
}

// Clone is a copy that shares nothing.
func (v Versions) Clone() Versions {
	out := make(Versions, len(v))
	for t, names := range v {
		out[t] = maps.Clone(names)
	}
	return out
}
