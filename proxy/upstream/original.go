package upstream

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/signet-mesh/signet/certs"
)

// maxOriginals bounds the addresses of one Original cluster whose connections are kept; calls to others get a connection each.
const maxOriginals = 1024

// originals are the endpoints of an Original cluster: its targets, or where it has none one for each address that was called.
// Safe for concurrent use.
type originals struct {
	src   certs.Source
	opts  *Options
	spec  Spec
	fixed map[netip.AddrPort]*Endpoint // the targets; nil where there are none

	// called is replaced when an address is added, never changed: looking an address up takes no lock.
	called atomic.Pointer[map[netip.AddrPort]*Endpoint]
	mu     sync.Mutex // held to replace called; guards ended
	ended  bool
}

// original is the state of an Original cluster, kept over configurations where it has no targets and its template is the
// same. s.mu is held.
func (s *Set) original(spec *Spec, targets []*Endpoint, kept map[string]*originals) *originals {
	if len(spec.Targets) > 0 {
		o := &originals{fixed: make(map[netip.AddrPort]*Endpoint, len(targets))}
		for _, e := range targets {
			o.fixed[e.AddrPort()] = e
		}
		return o
	}
	key := poolKey(spec, &spec.Template) + spec.ConnectTimeout.String()
	o := s.originals[key]
	if o == nil || o.spec.Template.Party != spec.Template.Party {
		o = &originals{src: s.src, opts: &s.opts, spec: *spec, ended: s.closed}
		o.called.Store(&map[netip.AddrPort]*Endpoint{})
	}
	kept[key] = o
	return o
}

// at is the endpoint of an address; nil where a call to it is to be balanced.
func (o *originals) at(to netip.AddrPort) *Endpoint {
	if o.fixed != nil {
		return o.fixed[to]
	}
	if !to.IsValid() || to.Port() == 0 {
		return nil
	}
	if e := (*o.called.Load())[to]; e != nil {
		return e
	}
	return o.add(to)
}

// add makes the endpoint of an address.
func (o *originals) add(to netip.AddrPort) *Endpoint {
	t := o.spec.Template
	t.Address = to.String()
	e := newEndpoint(&o.spec, &t, newPool(o.src, o.opts, &o.spec, &t))
	o.mu.Lock()
	defer o.mu.Unlock()
	have := *o.called.Load()
	if other := have[to]; other != nil {
		return other
	}
	next := make(map[netip.AddrPort]*Endpoint, len(have)+1)
	for at, other := range have {
		if len(have) < maxOriginals || !other.pool.retire() {
			next[at] = other
		}
	}
	if o.ended || len(next) >= maxOriginals {
		e.pool.draining = true // it serves this call
	} else {
		next[to] = e
	}
	o.called.Store(&next)
	return e
}

// retire lets a pool keep no further connections if it has none now.
func (p *pool) retire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	unused := len(p.idle) == 0 && p.active.Load() == 0
	p.draining = p.draining || unused // whoever picked it just now
	return unused
}

// all lists the pools of addresses that were called.
func (o *originals) all() []*pool {
	var out []*pool
	if m := o.called.Load(); m != nil {
		for _, e := range *m {
			out = append(out, e.pool)
		}
	}
	return out
}

// end keeps no further connections, and lists the pools there are.
func (o *originals) end() []*pool {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	return o.all()
}
