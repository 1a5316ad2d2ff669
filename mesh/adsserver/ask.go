package adsserver

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

const (
	// askGap is the least time between two looks at what a proxy asked for. There are askLooksAtOnce, and in the long run askLooks a
	// second: what is asked for meanwhile is answered together. One with 1,000 names takes up to 20 ms of a core.
	askGap         = 5 * time.Millisecond
	askLooks       = 5
	askLooksAtOnce = 20
	// askNames is how many names a second a proxy may ask for in the long run, adswire.MaxAsked at once. Beyond it its requests wait.
	askNames = 200
)

// asked are the names that a proxy asked for, at most adswire.MaxAsked: the one asked for longest ago goes first.
type asked struct {
	last uint64
	at   map[string]uint64
	list []string // what names gives, nil when at has changed

	// stale: there are names that the view was not made for. due is when it may be looked at, zero if that was not asked yet.
	// looked is when it was looked at last, and no request is read before nextRead.
	stale                 bool
	due, looked, nextRead time.Time
	looks, names          *rate.Limiter
}

func newAsked() *asked {
	return &asked{at: map[string]uint64{}, looks: rate.NewLimiter(askLooks, askLooksAtOnce), names: rate.NewLimiter(askNames, adswire.MaxAsked)}
}

func (a *asked) add(name string) {
	a.last++
	a.at[name], a.list = a.last, nil
}

// trim forgets what is too much.
func (a *asked) trim() {
	over := len(a.at) - adswire.MaxAsked
	if over <= 0 {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(a.at), func(x, y string) int { return cmp.Compare(a.at[x], a.at[y]) })
	for _, n := range oldest[:over] {
		delete(a.at, n)
	}
	a.list = nil
}

func (a *asked) remove(name string) {
	delete(a.at, name)
	a.list = nil
}

// all are the names, which nobody modifies, for a look at what they mean.
func (a *asked) all() []string {
	a.stale = false
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
		st.asked = newAsked()
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
	st.asked.trim()
	if n := len(r.GetResourceNamesSubscribe()) + len(r.GetResourceNamesUnsubscribe()); first || n > 0 {
		now := time.Now()
		st.asked.stale = true
		st.asked.nextRead = now.Add(st.asked.names.ReserveN(now, min(n, adswire.MaxAsked)).DelayFrom(now))
	}
	return nil
}

// answer looks at what was asked for, once the proxy has answered what it was sent before and it is time. Its error ends the
// stream.
func (st *stream) answer() error {
	a := st.asked
	if a == nil || !st.push.idle() {
		return nil
	}
	if !a.stale {
		a.due = time.Time{}
		return nil
	}
	now := time.Now()
	if a.due.IsZero() {
		a.due = now.Add(max(a.looks.ReserveN(now, 1).DelayFrom(now), a.looked.Add(askGap).Sub(now)))
	}
	if now.Before(a.due) {
		return nil
	}
	a.due, a.looked = time.Time{}, now
	return st.look()
}

// pace gives the requests, nil while the proxy has asked for too much, and when serve must go on at the latest, nil for whenever.
func (st *stream) pace() (<-chan *discovery.DeltaDiscoveryRequest, <-chan time.Time) {
	a := st.asked
	if a == nil {
		return st.requests, nil
	}
	now, next, requests := time.Now(), time.Time{}, st.requests
	if now.Before(a.nextRead) {
		requests, next = nil, a.nextRead
	}
	if st.push.idle() && !a.due.IsZero() && (next.IsZero() || a.due.Before(next)) {
		next = a.due
	}
	if next.IsZero() {
		return requests, nil
	}
	return requests, time.After(next.Sub(now))
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
