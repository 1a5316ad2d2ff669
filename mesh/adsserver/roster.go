package adsserver

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// NACK is a proxy's refusal of something it was sent.
type NACK struct {
	Time time.Time
	// Type is the type URL; adswire.GenerationType where the proxy could read everything but not run on it.
	Type string
	// Detail is the proxy's own message, at most 4 KiB.
	Detail string
}

// ProxyStatus is what is known of one proxy.
type ProxyStatus struct {
	Node      string // NAMESPACE/WORKLOAD
	ID        identity.ID
	Remote    string // address of the caller
	Connected bool
	// Since is when the stream began, or for a proxy that is not connected when it ended.
	Since time.Time
	// Wanted is the generation that was last computed for the proxy, Acked the one it said it runs on; "" for none.
	Wanted, Acked string
	// LastNACK is nil if nothing was refused since a generation was last acknowledged.
	LastNACK *NACK
}

// InSync reports whether the proxy is connected and runs on what was last computed for it.
func (p ProxyStatus) InSync() bool { return p.Connected && p.Wanted != "" && p.Wanted == p.Acked }

// roster knows the proxies by node, and that each has one stream.
type roster struct {
	mu      sync.Mutex
	streams int
	proxies map[string]*seat
}

// seat is one node's place. All of it is guarded by the roster's mutex.
type seat struct {
	status ProxyStatus
	stream *stream // nil when not connected
	// wanted and acked are the resources of the generations of those names in status; nil for none.
	wanted, acked *adswire.Set
}

// enter counts a stream whose node is known, until leave; false if there are as many as may be.
func (r *roster) enter(limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.streams >= limit {
		return false
	}
	r.streams++
	return true
}

func (r *roster) leave() {
	r.mu.Lock()
	r.streams--
	r.mu.Unlock()
}

// sit gives the node's seat to a stream and ends the stream that had it.
func (r *roster) sit(st *stream, remote string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proxies == nil {
		r.proxies = map[string]*seat{}
	}
	s := r.proxies[st.node]
	if s == nil {
		s = &seat{status: ProxyStatus{Node: st.node}}
		r.proxies[st.node] = s
	}
	if s.stream != nil {
		close(s.stream.replaced)
	}
	s.stream = st
	s.status.ID, s.status.Remote, s.status.Connected, s.status.Since = st.id, remote, true, time.Now()
	s.status.Wanted, s.status.Acked = "", ""
	s.wanted, s.acked = nil, nil
}

// rise takes the seat from a stream that ended, unless another has it already. gone removes it altogether.
func (r *roster) rise(st *stream, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.proxies[st.node]
	if s == nil || s.stream != st {
		return
	}
	s.stream, s.wanted, s.acked = nil, nil, nil
	s.status.Connected, s.status.Since = false, time.Now()
	if gone {
		delete(r.proxies, st.node)
	}
}

// note changes the status of a stream's proxy, unless the seat is another stream's by now.
func (r *roster) note(st *stream, change func(*ProxyStatus)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.proxies[st.node]; s != nil && s.stream == st {
		change(&s.status)
	}
}

// want notes what was computed for a stream's proxy.
func (r *roster) want(st *stream, generation string, set *adswire.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.proxies[st.node]; s != nil && s.stream == st {
		s.status.Wanted, s.wanted = generation, set
	}
}

// ack notes the generation that a stream's proxy runs on.
func (r *roster) ack(st *stream, generation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.proxies[st.node]
	if s == nil || s.stream != st {
		return
	}
	if s.status.Acked = generation; generation == s.status.Wanted {
		s.status.LastNACK, s.acked = nil, s.wanted
	}
}

// Tally is how many proxies of this server run on one object.
type Tally struct {
	// Version is that of the object's content, the same wherever it is encoded; "" if it can't be.
	Version string
	// Wanted is how many connected proxies have the object in what was last computed for them, and Acked how many of those
	// acknowledged a generation that has it as it is now.
	Acked, Wanted int
	// Refusal is NODE: what a proxy that has it otherwise said when it refused to run on more, of the first such node by name; ""
	// if none did. It may be about another object of the same generation, which then is what this one waits for.
	Refusal string
}

// Programmed counts for each object. A proxy that still has an older version counts as wanted only. A change is seen here when
// the streams have looked at it, within milliseconds of the Source's. It takes about 0.1 us for a proxy and an object, and
// holds no stream up meanwhile. Of Services and Pods of Kubernetes, which travel in parts, it says nothing useful.
func (s *Server) Programmed(objects ...*mesh.Object) []Tally {
	type sets struct {
		wanted, acked *adswire.Set // never modified
		refusal       string
	}
	s.roster.mu.Lock()
	all := make([]sets, 0, len(s.roster.proxies))
	for _, seat := range s.roster.proxies {
		if seat.wanted == nil {
			continue
		}
		one := sets{wanted: seat.wanted, acked: seat.acked}
		if n := seat.status.LastNACK; n != nil {
			one.refusal = seat.status.Node + ": " + n.Detail
		}
		all = append(all, one)
	}
	s.roster.mu.Unlock()
	out := make([]Tally, len(objects))
	for i, o := range objects {
		version, err := s.encoder.Version(o)
		if err != nil {
			continue
		}
		out[i].Version = version
		typ, name := adswire.TypeOf(o.Key), o.Namespace+"/"+o.Name
		for _, p := range all {
			if p.wanted.Version(typ, name) == "" {
				continue
			}
			out[i].Wanted++
			if p.acked != nil && p.acked.Version(typ, name) == version {
				out[i].Acked++
			} else if p.refusal != "" && (out[i].Refusal == "" || p.refusal < out[i].Refusal) {
				out[i].Refusal = p.refusal
			}
		}
	}
	return out
}

// sweepEvery is how often proxies are forgotten whose workloads are gone: mostly their streams end before, so that no stream sees it.
const sweepEvery = 5 * time.Minute

// Status lists the proxies seen whose workload still exists, by node, and forgets the others.
func (s *Server) Status() []ProxyStatus {
	views, _ := s.cfg.Source.Watch()
	s.roster.mu.Lock()
	out := make([]ProxyStatus, 0, len(s.roster.proxies))
	for _, seat := range s.roster.proxies {
		out = append(out, seat.status)
	}
	s.roster.mu.Unlock()
	out = slices.DeleteFunc(out, func(p ProxyStatus) bool { return !p.Connected && s.forget(views, p.Node) })
	slices.SortFunc(out, func(a, b ProxyStatus) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// forget drops the seat of a node that is not connected and whose workload is gone.
func (s *Server) forget(views Views, node string) bool {
	if views == nil {
		return false
	}
	ns, name, _ := strings.Cut(node, "/")
	if _, ok := views.Demand(ns, name, nil); ok {
		return false
	}
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	if seat := s.roster.proxies[node]; seat != nil && seat.stream == nil {
		delete(s.roster.proxies, node)
	}
	return true
}

// Proxy is the status of one node; false if it never connected.
func (s *Server) Proxy(node string) (ProxyStatus, bool) {
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	seat := s.roster.proxies[node]
	if seat == nil {
		return ProxyStatus{}, false
	}
	return seat.status, true
}
