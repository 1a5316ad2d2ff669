package adsserver

import (
	"maps"
	"net/netip"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// asked are the names that a proxy asked for, at most adswire.MaxAsked: the one asked for longest ago goes first.
type asked struct {
	last uint64
	at   map[string]uint64
	list []string // what names gives, nil when at has changed
}

func (a *asked) add(name string) {
	a.last++
	a.at[name], a.list = a.last, nil
	if len(a.at) <= adswire.MaxAsked {
		return
	}
	oldest := name
	for n, at := range a.at {
		if at < a.at[oldest] {
			oldest = n
		}
	}
	delete(a.at, oldest)
}

func (a *asked) remove(name string) {
	delete(a.at, name)
	a.list = nil
}

// names are all of them, which nobody modifies.
func (a *asked) names() []string {
	if a.list == nil {
		a.list = slices.Collect(maps.Keys(a.at))
	}
	return a.list
}

// ask notes the names that a proxy asks for and those that it no longer needs. The first request of the type makes it a proxy
// on demand, which begins with what it used before.
func (st *stream) ask(r *discovery.DeltaDiscoveryRequest) error {
	first := st.asked == nil
	if first {
		st.asked = &asked{at: map[string]uint64{}}
		if used := st.srv.cfg.Used; used != nil {
			names := used.Names(st.namespace, st.name)
			for _, n := range slices.Backward(names[:min(len(names), adswire.MaxAsked)]) {
				if n, ok := mesh.Name(n); ok {
					st.asked.add(n)
				}
			}
		}
	}
	if n := len(r.GetResourceNamesSubscribe()); n > adswire.MaxAsked {
		return status.Errorf(codes.InvalidArgument, "%d names asked for at once, at most %d", n, adswire.MaxAsked)
	}
	for _, n := range r.GetResourceNamesUnsubscribe() {
		st.asked.remove(n)
	}
	for _, n := range r.GetResourceNamesSubscribe() {
		if have, ok := mesh.Name(n); !ok || have != n {
			return status.Errorf(codes.InvalidArgument, "asking for %.253q: want a host in lower case or an IP address", n)
		}
		st.asked.add(n)
	}
	changed := first || len(r.GetResourceNamesSubscribe())+len(r.GetResourceNamesUnsubscribe()) > 0
	if !changed || !st.push.subscribed[adswire.GenerationType] { // the view is looked at when the marker is subscribed to
		return nil
	}
	return st.look()
}

// note tells Used which hosts the proxy asked for that are a service's; of an address it is the service's host.
func (st *stream) note(v *mesh.View) {
	if st.srv.cfg.Used == nil {
		return
	}
	hosts := map[string]bool{}
	for name, a := range v.Asked {
		if a.Host == "" {
			continue
		}
		if _, err := netip.ParseAddr(name); err == nil {
			name = a.Host
		}
		if name, ok := mesh.Name(name); ok { // a wildcard can't be asked for
			hosts[name] = true
		}
	}
	now := slices.Sorted(maps.Keys(hosts))
	if len(now) > 0 && !slices.Equal(now, st.noted) {
		st.noted = now
		st.srv.cfg.Used.Note(st.namespace, st.name, now)
	}
}
