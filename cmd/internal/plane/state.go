package plane

import (
	"sync"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsserver"
)

// State is the configuration in force and what was found wrong in it: the adsserver.Source and attest.Workloads of this
// process. Safe for concurrent use.
type State struct {
	findings findings

	mu      sync.Mutex // guards what follows
	current *mesh.Snapshot
	changed chan struct{}
}

// NewState has no configuration yet.
func NewState() *State { return &State{changed: make(chan struct{})} }

// Set replaces the configuration and the problems. Watchers are woken if the snapshot is another one.
func (s *State) Set(snapshot *mesh.Snapshot, problems []mesh.Problem) {
	s.findings.set(snapshot, problems)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == snapshot {
		return
	}
	s.current = snapshot
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch implements adsserver.Source.
func (s *State) Watch() (adsserver.Views, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil, s.changed
	}
	return s.current, s.changed
}

// quarantined counts the objects that stand in for refused ones.
func (s *State) quarantined() float64 {
	n := 0
	if snapshot := s.Snapshot(); snapshot != nil {
		for _, o := range snapshot.Objects() {
			if o.Quarantined() {
				n++
			}
		}
	}
	return float64(n)
}

// Snapshot is the configuration in force, nil before the first.
func (s *State) Snapshot() *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// ServiceAccount implements attest.Workloads.
func (s *State) ServiceAccount(namespace, workload string) (string, bool) {
	if snapshot := s.Snapshot(); snapshot != nil {
		return snapshot.ServiceAccount(namespace, workload)
	}
	return "", false
}

// Holds implements attest.Workloads.
func (s *State) Holds(namespace, serviceAccount string) bool {
	snapshot := s.Snapshot()
	return snapshot != nil && snapshot.Holds(namespace, serviceAccount)
}
