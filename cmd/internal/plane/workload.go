package plane

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/signet-mesh/signet/mesh"
)

// Workload is one that the control plane gives certificates to: a WorkloadEntry with a service account.
type Workload struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	ID        string     `json:"id"` // SPIFFE ID
	Address   netip.Addr `json:"address"`
	// Position is FILE:LINE:COLUMN of the WorkloadEntry.
	Position string `json:"position"`
}

// Workloads lists those of a snapshot by namespace and name.
func Workloads(s *mesh.Snapshot) []Workload {
	at := map[mesh.Key]string{}
	for _, o := range s.Objects() {
		at[o.Key] = o.Position.String()
	}
	out := []Workload{}
	for _, w := range s.Workloads() {
		if w.ID.IsZero() {
			continue
		}
		key := mesh.Key{Group: mesh.GroupNetworking, Kind: mesh.KindWorkloadEntry, Namespace: w.Namespace, Name: w.Name}
		out = append(out, Workload{Namespace: w.Namespace, Name: w.Name, ID: w.ID.String(), Address: w.Address, Position: at[key]})
	}
	slices.SortFunc(out, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// tellWorkloads tells OnWorkloads of each new list until ctx ends. What it tells is in force already: a workload that is
// told of can join.
func (p *Plane) tellWorkloads(ctx context.Context) {
	var last []Workload
	for {
		_, changed := p.state.Watch()
		if now := Workloads(p.state.Snapshot()); last == nil || !slices.Equal(now, last) {
			p.cfg.OnWorkloads(now)
			last = now
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
