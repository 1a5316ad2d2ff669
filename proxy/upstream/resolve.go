package upstream

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// How long the addresses of a name are used before it is looked up again: as long as its records say, within these bounds.
// Without an answer what was known goes on, and the name is asked for again after resolveRetry.
const (
	resolveFloor   = 5 * time.Second
	resolveCeiling = 5 * time.Minute
	resolveRetry   = 2 * time.Second
	resolveTimeout = 5 * time.Second
	// resolveAtOnce bounds the lookups that run at a time, maxAddresses the addresses taken of one answer.
	resolveAtOnce = 8
	maxAddresses  = 64
)

// resolver knows the addresses of names. Its members are guarded by Set.mu.
type resolver struct {
	known map[string]*hostname
	wake  chan struct{} // holds a token when there is a name that was never looked up
}

func newResolver() resolver {
	return resolver{known: map[string]*hostname{}, wake: make(chan struct{}, 1)}
}

// hostname is one name. Guarded by Set.mu.
type hostname struct {
	addrs []netip.Addr // what was answered last, sorted
	due   time.Time    // when it is looked up again
	busy  bool
	asked chan struct{} // closed after the first lookup
	done  bool          // asked is closed
	quiet bool          // its failure was logged
}

// dynamic is a cluster whose members follow the names of its targets.
type dynamic struct {
	spec    Spec
	cluster *Cluster
	names   []string
}

// resolved builds a cluster of names, from what is known of them. s.mu is held.
func (s *Set) resolved(spec *Spec, next map[string]*pool) *Cluster {
	d := &dynamic{spec: *spec}
	for i := range spec.Targets {
		if host, _, ok := splitName(spec.Targets[i].Address); ok && !slices.Contains(d.names, host) {
			d.names = append(d.names, host)
			s.names.want(host)
		}
	}
	d.cluster = newCluster(spec, s.endpoints(spec, s.expand(d), next))
	if len(d.names) > 0 {
		d.cluster.pending = s.names.known[d.names[0]].asked // one name that is known is enough to go on
	}
	s.dynamic = append(s.dynamic, d)
	return d.cluster
}

// want enters a name.
func (r *resolver) want(host string) {
	if r.known[host] != nil {
		return
	}
	r.known[host] = &hostname{asked: make(chan struct{})}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// splitName splits NAME:port; false for an address that is none.
func splitName(address string) (host string, port uint16, ok bool) {
	if strings.HasPrefix(address, unixScheme) {
		return "", 0, false
	}
	if _, err := netip.ParseAddrPort(address); err == nil {
		return "", 0, false
	}
	i := strings.LastIndexByte(address, ':')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(address[i+1:], 10, 16)
	return strings.ToLower(address[:i]), uint16(n), err == nil && n > 0
}

// expand are the targets of a cluster with an address in place of each name. s.mu is held.
func (s *Set) expand(d *dynamic) []Target {
	var out []Target
	for i := range d.spec.Targets {
		t := d.spec.Targets[i]
		host, port, ok := splitName(t.Address)
		if !ok {
			out = append(out, t)
			continue
		}
		for _, a := range s.names.known[host].addrs {
			at := netip.AddrPortFrom(a, port)
			if s.opts.Forbids != nil && s.opts.Forbids(at) {
				continue
			}
			t.Address = at.String()
			out = append(out, t)
		}
	}
	return out
}

// retainNames forgets the names that no cluster has. s.mu is held.
func (s *Set) retainNames() {
	used := map[string]bool{}
	for _, d := range s.dynamic {
		for _, n := range d.names {
			used[n] = true
		}
	}
	for host, n := range s.names.known {
		if !used[host] {
			delete(s.names.known, host)
			n.answered()
		}
	}
}

func (n *hostname) answered() {
	if !n.done {
		n.done = true
		close(n.asked)
	}
}

// resolve looks names up as they are due, until ctx ends. It owns the goroutines of the lookups.
func (s *Set) resolve(ctx context.Context) {
	var lookups sync.WaitGroup
	defer lookups.Wait()
	slots := make(chan struct{}, resolveAtOnce)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, host := range s.due(time.Now()) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			lookups.Go(func() {
				defer func() { <-slots }()
				s.lookup(ctx, host)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.names.wake:
		}
	}
}

// due takes the names whose time has come.
func (s *Set) due(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for host, n := range s.names.known {
		if !n.busy && !n.due.After(now) {
			n.busy = true
			out = append(out, host)
		}
	}
	return out
}

// lookup asks for one name and makes its clusters follow.
func (s *Set) lookup(ctx context.Context, host string) {
	asking, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, ttl, err := s.opts.Lookup(asking, host)
	addrs = usable(addrs)
	s.mu.Lock()
	n := s.names.known[host]
	if n == nil || ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	n.busy = false
	var gone []*pool
	switch {
	case err != nil || len(addrs) == 0:
		n.due = time.Now().Add(resolveRetry)
		if !n.quiet {
			s.opts.Log.Warn("resolving the name of an endpoint failed; what was answered before goes on", slog.String("host", host),
				slog.Int("known", len(n.addrs)), slog.Any("error", err))
		}
		n.quiet = true
	default:
		ttl = min(max(ttl, resolveFloor), resolveCeiling)
		n.due, n.quiet = time.Now().Add(ttl+rand.N(ttl/10)), false
		if !slices.Equal(addrs, n.addrs) {
			n.addrs = addrs
			gone = s.follow(host)
		}
	}
	n.answered()
	s.mu.Unlock()
	for _, p := range gone {
		p.drain()
	}
}

// usable sorts an answer, and leaves out what can't be an endpoint.
func usable(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, min(len(addrs), maxAddresses))
	for _, a := range addrs {
		if a = a.Unmap(); a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && len(out) < maxAddresses {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// follow gives new members to the clusters of a name, and lists the pools that nobody has any more. s.mu is held.
func (s *Set) follow(host string) (gone []*pool) {
	for _, d := range s.dynamic {
		if !slices.Contains(d.names, host) {
			continue
		}
		next := map[string]*pool{}
		d.cluster.members.Store(newMembers(s.endpoints(&d.spec, s.expand(d), next)))
		for key, p := range s.pools {
			if strings.HasPrefix(key, d.spec.Name+"\x00") && next[key] != p {
				gone = append(gone, p)
				delete(s.pools, key)
			}
		}
		maps.Copy(s.pools, next)
	}
	return gone
}
