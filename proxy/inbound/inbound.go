// Package inbound is the corridor in front of a workload's program:
//
//	1 accept   2 identify   3 canonicalise   4 authorize   5 limit   6 forward   7 record
//
// The numbers are those of docs/architecture.md. A step returns a typed failure; proxy's table answers it; one place records.
package inbound

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// Mode is PeerAuthentication's mtls.mode for one port. The zero value is the strictest.
type Mode uint8

// The modes.
const (
	Strict     Mode = iota // mTLS only
	Permissive             // mTLS with an istio ALPN is ours, plaintext is served without an identity, other TLS is the program's
	Disable                // plaintext only, TLS is the program's
)

// ALPN protocols that the inbound side speaks. Under PERMISSIVE only the first two mark a connection as the mesh's.
const (
	ALPNHTTP1 = "istio-http/1.1"
	ALPNTCP   = "istio"
)

const handshakeTimeout = 10 * time.Second

// Config is what one inbound port runs. Immutable; a new one is swapped in by pointer.
type Config struct {
	Bind     netip.AddrPort
	Protocol mesh.Protocol
	Mode     Mode
	// Cluster has the program as its one target.
	Cluster *upstream.Cluster
	// Judge holds the program of policies and the verifier of tokens.
	Judge judge.Judge
	// Limits are counted for each request that is authorized; nil for none.
	Limits *limit.Set
	// ID is the workload's own identity, Self and Service what metrics say of it.
	ID      identity.ID
	Self    *proxy.Party
	Service *proxy.Destination
	// Source says what metrics know of a caller; never nil results.
	Source func(identity.Peer, netip.Addr) *proxy.Party
	// Detection is how long first bytes are awaited under PERMISSIVE.
	Detection time.Duration
}

// Listener serves one inbound port, or all ports of a pod.
type Listener struct {
	config atomic.Pointer[doors]
	tls    *tls.Config
	rec    proxy.Recorder
	fl     *forward.Listener
	life   context.Context
}

// New builds a listener on an open socket; Run serves it.
func New(ln net.Listener, src certs.Source, rec proxy.Recorder, c *Config) *Listener {
	return build(ln, src, rec, &doors{one: c})
}

func build(ln net.Listener, src certs.Source, rec proxy.Recorder, d *doors) *Listener {
	l := &Listener{rec: rec, tls: certs.ServerTLS(src, certs.ServerOptions{
		ALPN:   []string{ALPNHTTP1, ALPNTCP, "http/1.1"},
		Accept: certs.SameTrustDomain(src),
	})}
	l.config.Store(d)
	l.fl = forward.NewListener(ln, l.serve)
	return l
}

// Swap replaces the configuration: new requests are judged by it at once, and what is in flight is judged again.
func (l *Listener) Swap(c *Config) {
	l.swap(&doors{one: c})
}

func (l *Listener) swap(d *doors) {
	if old := l.config.Swap(d); d.stricter(old) {
		l.fl.Rejudge(func(a *authz.Connection, r *authz.Request) *forward.Denial {
			return d.at(a.DestinationPort).again(l.life, a, r)
		})
	}
}

// Leave asks callers to go elsewhere while they are still served.
func (l *Listener) Leave() { l.fl.Leave() }

// again is what is asked of a live connection when the configuration changes.
func (c *Config) again(ctx context.Context, a *authz.Connection, r *authz.Request) *forward.Denial {
	if c.Mode == Strict && !a.Peer.Proven() {
		return &forward.Denial{Detail: reasonPlaintext}
	}
	if by, detail := c.Judge.Again(ctx, a, r); by != nil {
		return &forward.Denial{By: by.By, Detail: detail}
	}
	return nil
}

// Run serves until ctx ends and everything in flight is done or cut off.
func (l *Listener) Run(ctx context.Context) error {
	l.life = ctx
	return l.fl.Run(ctx)
}

// session is what the corridor knows of one connection.
type session struct {
	l        *Listener
	source   *proxy.Party
	security proxy.Security
	xfcc     string // the x-forwarded-client-cert value, "" for plaintext
	local    netip.AddrPort
	remote   netip.AddrPort
	auth     authz.Connection
	shadows  []proxy.Shadow
}

// serve is steps 1 and 2: it learns who calls and hands the connection to the HTTP or the TCP part.
func (l *Listener) serve(raw net.Conn, live *forward.Live) {
	s := &session{l: l, local: addrPort(raw.LocalAddr()), remote: addrPort(raw.RemoteAddr())}
	if d := l.config.Load(); d.captured != nil && !d.captured.original(raw, s) {
		return
	}
	c := s.config()
	conn, preread, http, ok := l.identify(raw, c, s)
	if !ok {
		return
	}
	defer conn.Close()
	s.source = c.Source(s.auth.Peer, s.remote.Addr())
	s.auth.SourceIP = s.remote.Addr()
	s.auth.DestinationIP, s.auth.DestinationPort = s.local.Addr(), s.local.Port()
	if !http {
		if preread, http = s.serveTCP(conn, preread, live); !http {
			return
		}
	}
	x := forward.New(conn, live, preread, (*corridor)(s))
	x.Auth = s.auth
	x.Serve(l.life)
}

// config is what runs for the port that was called.
func (s *session) config() *Config { return s.l.config.Load().at(s.local.Port()) }

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
