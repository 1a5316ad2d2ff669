package mesh

// Snapshot is a whole mesh at one moment: every object that stands, and what was read of it. Immutable.
type Snapshot struct {
	world   *world
	objects []*Object
	hash    string
}

// View is what the sidecar of the WorkloadEntry namespace/name runs on; false if there is no such workload or it has no
// service account.
func (s *Snapshot) View(namespace, name string) (*View, bool) {
	v := s.world.view(namespace+"/"+name, nil)
	return v, v != nil
}

// TrustDomain is the trust domain the snapshot was built for.
func (s *Snapshot) TrustDomain() string { return s.world.trustDomain }

// Settings is the honoured subset of MeshConfig.
func (s *Snapshot) Settings() Settings { return s.world.settings }

// Objects are all objects that stand, sorted by key. The slice must not be modified.
func (s *Snapshot) Objects() []*Object { return s.objects }

// Workloads are all WorkloadEntries, sorted by namespace and name. The slice must not be modified.
func (s *Snapshot) Workloads() []*Workload { return s.world.workloads }

// ServiceAccount is the service account of one WorkloadEntry; false if there is no such workload or it names none.
func (s *Snapshot) ServiceAccount(namespace, workload string) (string, bool) {
	l := s.world.byName[namespace+"/"+workload]
	if l == nil || l.ServiceAccount == "" {
		return "", false
	}
	return l.ServiceAccount, true
}

// Holds reports whether any WorkloadEntry of the namespace names the service account.
func (s *Snapshot) Holds(namespace, serviceAccount string) bool {
	for _, l := range s.world.byNamespace[namespace] {
		if serviceAccount != "" && l.ServiceAccount == serviceAccount {
			return true
		}
	}
	return false
}

// Hash is the hex SHA-256 of everything in the snapshot that can change a view; equal for equal content, whatever the
// files and their order.
func (s *Snapshot) Hash() string { return s.hash }
