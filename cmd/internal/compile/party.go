package compile

import (
	"cmp"
	"net/netip"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

// Parties names workloads for metrics: by what they proved and where they are, never by what they say. Immutable; safe for
// concurrent use. Compiled anew with each view, it holds one value for each workload, so that recorders may key on it.
type Parties struct {
	self       *proxy.Party
	byWorkload map[string]*proxy.Party // NAMESPACE/NAME
	byPlace    map[place]*proxy.Party  // nil value: several workloads
	byID       map[identity.ID]*proxy.Party
	unknown    *proxy.Party
	same       map[proxy.Party]*proxy.Party // used while it is compiled
}

type place struct {
	id   identity.ID
	addr netip.Addr
}

func newParties(self *mesh.Workload, peers []*mesh.Workload) *Parties {
	p := &Parties{byWorkload: map[string]*proxy.Party{}, byPlace: map[place]*proxy.Party{},
		byID: map[identity.ID]*proxy.Party{}, unknown: &proxy.Party{}}
	for _, w := range peers {
		p.add(w)
	}
	if p.self = p.byWorkload[workloadKey(self)]; p.self == nil {
		p.self = p.add(self)
	}
	for id, party := range p.byID {
		if party == nil { // several workloads share it: only what the identity itself says
			p.byID[id] = &proxy.Party{Namespace: id.Namespace(), Principal: id.String()}
		}
	}
	return p
}

func (p *Parties) add(w *mesh.Workload) *proxy.Party {
	party := p.one(*partyOf(w))
	p.byWorkload[workloadKey(w)] = party
	if w.ID.IsZero() {
		return party
	}
	for _, a := range w.Addresses() {
		at := place{w.ID, a.Unmap()}
		if have, twice := p.byPlace[at]; twice && have != party {
			p.byPlace[at] = nil
		} else {
			p.byPlace[at] = party
		}
	}
	if have, twice := p.byID[w.ID]; twice && have != party {
		p.byID[w.ID] = nil
	} else {
		p.byID[w.ID] = party
	}
	return party
}

// one is the value that stands for all workloads of which metrics say the same: the pods of one Deployment.
func (p *Parties) one(party proxy.Party) *proxy.Party {
	if p.same == nil {
		p.same = map[proxy.Party]*proxy.Party{}
	}
	if p.same[party] == nil {
		p.same[party] = &party
	}
	return p.same[party]
}

func workloadKey(w *mesh.Workload) string { return w.Namespace + "/" + w.Name }

// Workload is the party of NAMESPACE/NAME; nil if the mesh has no such workload.
func (p *Parties) Workload(key string) *proxy.Party { return p.byWorkload[key] }

// Source names a caller: the one workload with that identity at that address, else the only one with that identity, else
// just namespace and principal of the identity. A caller that proved nothing is unknown. Never nil.
func (p *Parties) Source(peer identity.Peer, addr netip.Addr) *proxy.Party {
	if !peer.Proven() {
		return p.unknown
	}
	if party := p.byPlace[place{peer.ID, addr.Unmap()}]; party != nil {
		return party
	}
	if party := p.byID[peer.ID]; party != nil {
		return party
	}
	return &proxy.Party{Namespace: peer.ID.Namespace(), Principal: peer.ID.String()}
}

// partyOf reads the labels that Istio's metrics read; the canonical service and revision by Istio's precedence.
func partyOf(w *mesh.Workload) *proxy.Party {
	name := cmp.Or(w.Owner, w.Name) // of a pod its Deployment: series don't come and go with pods
	p := &proxy.Party{Workload: name, Namespace: w.Namespace, Principal: w.ID.String(),
		App: w.Labels["app"], Version: w.Labels["version"]}
	p.CanonicalService = first(w.Labels, name, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	p.CanonicalRevision = first(w.Labels, "latest", "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	return p
}

func first(labels map[string]string, fallback string, keys ...string) string {
	for _, k := range keys {
		if v := labels[k]; v != "" {
			return v
		}
	}
	return fallback
}

// All are the parties that records may name, the workload's own among them.
func (p *Parties) All() []*proxy.Party {
	out := make([]*proxy.Party, 0, len(p.byWorkload)+len(p.byID)+1)
	for _, party := range p.byWorkload {
		out = append(out, party)
	}
	for _, party := range p.byID {
		out = append(out, party)
	}
	return append(out, p.unknown)
}
