package upstream

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
)

const (
	defaultIdleTimeout = time.Hour // Envoy's HttpProtocolOptions.idle_timeout default
	defaultMaxIdle     = 512
)

// Options tune a Set. The zero value is the default.
type Options struct {
	// Log gets a line for a failed dial, at most one a second for each endpoint; nil discards.
	Log *slog.Logger
	// IdleTimeout closes connections that nobody used for so long; 0 means 1 h (Envoy's idle_timeout default).
	IdleTimeout time.Duration
	// MaxAge closes connections at the first release after so long; 0 means never.
	MaxAge time.Duration
	// MaxIdlePerEndpoint bounds the idle connections kept to one endpoint; 0 means 512.
	MaxIdlePerEndpoint int
	// Lookup finds the addresses of a name and how long they are good for (0: unknown); nil asks the servers of
	// /etc/resolv.conf.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)
	// Private is the directory of the sidecar's own Unix sockets, "" for none: what is bound there is not called, whatever path
	// or link a target names.
	Private string
	// Forbids says what the name of a target must not resolve to; nil forbids nothing.
	Forbids func(netip.AddrPort) bool
}

// Set owns all pools of one sidecar. Safe for concurrent use.
type Set struct {
	src  certs.Source
	opts Options

	names resolver

	mu        sync.Mutex // guards what follows; never taken on the request path
	pools     map[string]*pool
	originals map[string]*originals
	dynamic   []*dynamic // the clusters of the last Update whose names are resolved
	closed    bool
}

// NewSet builds an empty set that dials with the certificates of src.
func NewSet(src certs.Source, opts Options) *Set {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.IdleTimeout <= 0 {
		opts.IdleTimeout = defaultIdleTimeout
	}
	if opts.MaxIdlePerEndpoint <= 0 {
		opts.MaxIdlePerEndpoint = defaultMaxIdle
	}
	if opts.Lookup == nil {
		opts.Lookup = lookup
	}
	return &Set{src: src, opts: opts, pools: map[string]*pool{}, originals: map[string]*originals{}, names: newResolver()}
}

// Update replaces the configuration and returns its clusters by name. Pools whose target, TLS and local address are
// unchanged keep their connections and counters; those no longer named are drained: idle connections are closed now, busy
// ones when they are given back, and a dial that runs gets one second more. Clusters returned earlier stay usable.
func (s *Set) Update(specs []Spec) map[string]*Cluster {
	s.mu.Lock()
	next := make(map[string]*pool, len(s.pools))
	kept := map[string]*originals{}
	clusters := make(map[string]*Cluster, len(specs))
	s.dynamic = nil
	for i := range specs {
		clusters[specs[i].Name] = s.cluster(&specs[i], next, kept)
	}
	gone := s.replace(next)
	var ended []*pool
	for key, o := range s.originals {
		if kept[key] != o {
			ended = append(ended, o.end()...)
		}
	}
	s.originals = kept
	s.retainNames()
	s.mu.Unlock()
	for _, p := range gone {
		p.leave()
	}
	for _, p := range ended {
		p.drain()
	}
	return clusters
}

// replace puts the pools of a configuration in place and lists those that it does not name. s.mu is held.
func (s *Set) replace(next map[string]*pool) (gone []*pool) {
	for key, p := range s.pools {
		if next[key] != p {
			gone = append(gone, p)
		}
	}
	s.pools = next
	return gone
}

// cluster builds one cluster and enters its pools, kept or new, into next. s.mu is held.
func (s *Set) cluster(spec *Spec, next map[string]*pool, kept map[string]*originals) *Cluster {
	if spec.Resolve {
		return s.resolved(spec, next)
	}
	c := newCluster(spec, s.endpoints(spec, spec.Targets, next))
	if spec.Original {
		c.original = s.original(spec, c.Endpoints(), kept)
	}
	return c
}

// endpoints are those of targets whose addresses are IP addresses. s.mu is held.
func (s *Set) endpoints(spec *Spec, targets []Target, next map[string]*pool) []*Endpoint {
	endpoints := make([]*Endpoint, len(targets))
	for i := range targets {
		t := &targets[i]
		key := poolKey(spec, t)
		p := next[key]
		if p == nil {
			p = s.pools[key]
		}
		if p == nil {
			p = newPool(s.src, &s.opts, spec, t)
			p.draining = s.closed
		}
		next[key] = p
		endpoints[i] = newEndpoint(spec, t, p)
	}
	return endpoints
}

func newEndpoint(spec *Spec, t *Target, p *pool) *Endpoint {
	e := &Endpoint{pool: p, timeout: spec.ConnectTimeout, weight: uint64(max(t.Weight, 1)), party: t.Party, zone: t.Zone}
	if e.timeout <= 0 {
		e.timeout = DefaultConnectTimeout
	}
	if t.Party == nil {
		e.party = &proxy.Party{}
	}
	return e
}

// poolKey names what a connection depends on: two targets of equal keys may share connections.
func poolKey(spec *Spec, t *Target) string {
	var b strings.Builder
	put := func(s string) {
		b.WriteString(s)
		b.WriteByte(0)
	}
	put(spec.Name)
	put(t.Address)
	put(spec.Local.String())
	put(spec.Local6.String())
	if t.MTLS {
		put("mtls")
		put(spec.ALPN)
		put(spec.StreamALPN)
		put(spec.SNI)
		for _, id := range t.Expect {
			put(id.String())
		}
	}
	return b.String()
}

// Run closes idle connections past their time, and those that the server closed, until ctx ends; then it closes all idle
// ones and lets none come back. It returns nil.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(min(max(s.opts.IdleTimeout/4, 10*time.Millisecond), 30*time.Second))
	defer tick.Stop()
	var resolving sync.WaitGroup
	defer resolving.Wait()
	resolving.Go(func() { s.resolve(ctx) })
	for {
		select {
		case <-ctx.Done():
			for _, p := range s.close() {
				p.drain()
			}
			return nil
		case now := <-tick.C:
			for _, p := range s.all() {
				p.sweep(now)
			}
		}
	}
}

// all lists the pools of the moment.
func (s *Set) all() []*pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*pool, 0, len(s.pools))
	for _, p := range s.pools {
		out = append(out, p)
	}
	for _, o := range s.originals {
		out = append(out, o.all()...)
	}
	return out
}

// close marks the set closed and lists its pools.
func (s *Set) close() []*pool {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.all()
}

// DialPlain opens a plain TCP connection that belongs to no cluster (passthrough to hosts that the mesh does not know);
// Release closes it. timeout 0 means DefaultConnectTimeout; deadline zero means none.
func (s *Set) DialPlain(ctx context.Context, deadline time.Time, address netip.AddrPort, local netip.Addr, timeout time.Duration) (*Conn, *proxy.Failure) {
	if timeout <= 0 {
		timeout = DefaultConnectTimeout
	}
	l := newLine(address.String(), local)
	return l.open(ctx, deadline, timeout)
}
