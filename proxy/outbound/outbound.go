// Package outbound is the corridor that a workload's programs call:
//
//	1 accept   2 original destination   3 canonicalise   4 match   5 limit   6 pick   7 mTLS   8 forward   9 record
//
// The numbers are those of docs/architecture.md. A listener is the programs' HTTP proxy (HTTP_PROXY), the hosts of one port
// (HTTP), one service (TCP), or in a pod whatever its programs call (CAPTURED): only that one has step 2.
package outbound

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// Kind is what a listener speaks.
type Kind uint8

// The kinds.
const (
	HTTPProxy Kind = iota // absolute-form and CONNECT; any port of the mesh
	HTTP                  // origin-form; hosts of one port
	TCP                   // one service
	Captured              // whatever was called: the original destination decides
)

// Dialer reaches what the mesh does not know.
type Dialer interface {
	// DialPlain opens a plain TCP connection that belongs to no cluster.
	DialPlain(ctx context.Context, deadline time.Time, address netip.AddrPort, local netip.Addr, timeout time.Duration) (*upstream.Conn, *proxy.Failure)
}

// Config is what one outbound listener runs. Immutable; a new one is swapped in by pointer.
type Config struct {
	Kind        Kind
	Table       *route.Table
	DefaultPort uint16
	// Destinations and Service are those of TCP.
	Destinations []route.Weighted
	Service      *proxy.Destination
	Clusters     map[string]*upstream.Cluster
	// AllowAny lets unknown hosts pass through; else they are refused.
	AllowAny bool
	// Forbids says where no caller is ever taken, whatever a name resolves to.
	Forbids        func(netip.AddrPort) bool
	Dialer         Dialer
	ConnectTimeout time.Duration
	Judge          judge.Judge
	// Limits are those of routes, by route of Table.
	Limits map[*route.Route]*limit.Set
	// ID is the workload's own identity: the caller, to the limits of routes. Self is what metrics say of it, Address the one
	// that its sidecar dials from.
	ID      identity.ID
	Self    *proxy.Party
	Address netip.Addr
	// Capture is that of Captured.
	Capture *Capture
}

// Destinations of what the mesh does not know, as Istio counts them.
const (
	passthrough = "PassthroughCluster"
	blackHole   = "BlackHoleCluster"
)

// Listener serves one outbound listener.
type Listener struct {
	config atomic.Pointer[Config]
	rec    proxy.Recorder
	fl     *forward.Listener
	life   context.Context
}

// New builds a listener on an open socket; Run serves it.
func New(ln net.Listener, rec proxy.Recorder, c *Config) *Listener {
	l := &Listener{rec: rec}
	l.config.Store(c)
	l.fl = forward.NewListener(ln, l.serve)
	return l
}

// Swap replaces the configuration: the next request is served by it.
func (l *Listener) Swap(c *Config) { l.config.Store(c) }

// Run serves until ctx ends and everything in flight is done or cut off.
func (l *Listener) Run(ctx context.Context) error {
	l.life = ctx
	return l.fl.Run(ctx)
}

func (l *Listener) serve(conn net.Conn, live *forward.Live) {
	s := &session{l: l, life: live.Life(), local: addrPort(conn.LocalAddr()), remote: addrPort(conn.RemoteAddr())}
	c := l.config.Load()
	if c.Kind == Captured {
		s.serveCaptured(c, conn, live)
		return
	}
	if err := onThisHost(s.local.Addr(), s.remote.Addr()); err != nil {
		l.rec.Refused(s.local, s.remote, reasonNotLocal, err)
		return
	}
	if c.Kind == TCP {
		s.serveTCP(c, conn, &called{destinations: c.Destinations, service: c.Service}, live)
		return
	}
	forward.New(conn, live, nil, s).Serve(l.life)
}

// reasonNotLocal is why a caller from another host is refused.
const reasonNotLocal = "not_local"

// onThisHost is nil if a caller's address belongs to this host. Outbound listeners lend the workload's identity to whoever
// calls them, so they serve the programs beside them and nobody from the network, whatever address they bind.
func onThisHost(local, remote netip.Addr) error {
	if remote == local || remote.IsLoopback() {
		return nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("listing this host's addresses: %w", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(net.IP(remote.WithZone("").AsSlice())) {
			return nil
		}
	}
	return fmt.Errorf("%s is not an address of this host: outbound listeners serve local programs only", remote)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// session is one connection of a program. It implements forward.Corridor.
type session struct {
	l             *Listener
	life          context.Context // until the connection is cut off
	local, remote netip.AddrPort
	to            netip.AddrPort // where a captured connection was made to
}

var (
	unknownParty   = proxy.Party{}
	unknownService = proxy.Destination{}
)

func (s *session) describe(r *proxy.Record, c *Config) {
	r.Side, r.Security = proxy.SourceSide, proxy.SecurityUnknown
	r.Source, r.Destination, r.Service = c.Self, &unknownParty, &unknownService
	r.DownstreamLocal, r.DownstreamRemote = s.local, s.remote
}

// Recorder implements forward.Corridor.
func (s *session) Recorder() proxy.Recorder { return s.l.rec }

// Begin implements forward.Corridor.
func (s *session) Begin(x *forward.Exchange) { s.describe(&x.Rec, s.l.config.Load()) }

// toward is where a call was made to, if that is of the service whose cluster it goes to: a route that leads elsewhere leaves
// the address behind.
func (s *session) toward(c *upstream.Cluster, service *proxy.Destination) netip.AddrPort {
	if c.Destination() == service || c.Name() == passthrough {
		return s.to
	}
	return netip.AddrPort{}
}

// called is what a TCP connection is for.
type called struct {
	destinations []route.Weighted
	service      *proxy.Destination
	// fail is why it is refused, nil if it is not.
	fail *proxy.Failure
	// cluster is where an unknown call goes or would go, "" for a known one.
	cluster string
	preread []byte
}

// serveTCP carries a connection to one service, or to where it was made.
func (s *session) serveTCP(c *Config, conn net.Conn, to *called, live *forward.Live) {
	rec := proxy.Record{TCP: true, Start: time.Now(), Flag: "-"}
	s.describe(&rec, c)
	if to.service != nil {
		rec.Service = to.service
	}
	defer func() {
		rec.Duration = time.Since(rec.Start)
		s.l.rec.Record(&rec)
	}()
	name := to.cluster
	if w := route.PickWeighted(to.destinations, rand.Uint64()); w != nil {
		name = w.Cluster
	}
	cluster := c.Clusters[name]
	if fail := to.fail; fail != nil || cluster == nil {
		if fail == nil {
			fail = proxy.Fail(proxy.NoHealthyUpstream, "", nil)
		}
		rec.UpstreamCluster = to.cluster
		s.l.rec.Opened(&rec)
		forward.Note(&rec, fail, live)
		return
	}
	u, fail := forward.Way{Cluster: cluster, To: s.toward(cluster, rec.Service)}.Dial(live.Life(), &rec)
	s.l.rec.Opened(&rec) // under the endpoint's name, as its end will be
	if fail == nil {
		fail = forward.TCPOver(u, conn, to.preread, live, &rec)
	}
	forward.Note(&rec, fail, live)
}
