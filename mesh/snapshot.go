package mesh

import "sync"

// Snapshot is a whole mesh at one moment: every object that stands, and what was read of it. Immutable.
type Snapshot struct {
	world *world
	hash  func() string
}

func newSnapshot(w *world) *Snapshot {
	return &Snapshot{world: w, hash: sync.OnceValue(w.hash)}
}

// View is what the sidecar of the WorkloadEntry or pod namespace/name runs on; false if there is no such workload or it has no
// service account.
func (s *Snapshot) View(namespace, name string) (*View, bool) {
	v := s.world.view(viewOf{self: namespace + "/" + name})
	return v, v != nil
}

// Demand is View with no more than the names in asked mean: hosts or IP addresses, each in the form that Name gives. A host is
// a service's (also NAME, NAME.NAMESPACE and NAME.NAMESPACE.svc, and the name of a pod below that of its headless Service); an
// address is that of the ServiceEntry of the workload's own namespace or of the Service that is called there, else that of the pod
// that has it, else that of any ServiceEntry, else in the range of a service.
// What the Sidecar does not import and what is not exported to the workload's namespace means nothing.
//
// Services come with the VirtualServices and DestinationRules of their hosts, and with the services that those VirtualServices
// lead to, as if they had been asked for. View.Asked has an answer for every name; of Peers there are the workload itself and
// those asked for by address. What judges and limits the workload's own inbound side is complete.
func (s *Snapshot) Demand(namespace, name string, asked []string) (*View, bool) {
	v := s.world.view(viewOf{self: namespace + "/" + name, demand: true, asked: asked})
	return v, v != nil
}

// TrustDomain is the trust domain the snapshot was built for.
func (s *Snapshot) TrustDomain() string { return s.world.trustDomain }

// ClusterDomain is what the names of Kubernetes' Services end in.
func (s *Snapshot) ClusterDomain() string { return s.world.clusterDomain }

// Settings is the honoured subset of MeshConfig.
func (s *Snapshot) Settings() Settings { return s.world.settings }

// Objects are all objects that stand, sorted by key. The slice must not be modified.
func (s *Snapshot) Objects() []*Object { return s.world.sorted() }

// Object is the one of a key that stands, nil if there is none.
func (s *Snapshot) Object(key Key) *Object { return s.world.objects[key] }

// Workloads are all WorkloadEntries and pods, sorted by namespace and name. The slice must not be modified.
func (s *Snapshot) Workloads() []*Workload { return s.world.workloads }

// ServiceAccount is the service account of one WorkloadEntry or pod; false if there is no such workload or it names none.
func (s *Snapshot) ServiceAccount(namespace, workload string) (string, bool) {
	l := s.world.byName[namespace+"/"+workload]
	if l == nil || l.ServiceAccount == "" {
		return "", false
	}
	return l.ServiceAccount, true
}

// Holds reports whether any WorkloadEntry or pod of the namespace names the service account.
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
func (s *Snapshot) Hash() string { return s.hash() }
