package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/socket"
)

// Demander asks the control plane what a name means.
type Demander interface {
	// Demand returns once the listener was given a configuration that knows the name, or an error that says why none came.
	Demand(ctx context.Context, name string) error
}

// Capture is what the outbound listener of a pod runs besides. Immutable.
type Capture struct {
	// Addresses finds what was called, Hosts what was called at an address that means nothing: by Host field or server name,
	// and port.
	Addresses *route.Addresses
	Hosts     *route.Table
	// Demand asks for what Addresses does not know, and for hosts that are not in Asked; nil where everything is known.
	Demand Demander
	Asked  map[string]mesh.Answer
	// Uses and UsesAt are where the use of what was asked for is noted: by Answer.UsedAs, and of addresses that were asked for.
	Uses   map[string]*mesh.LastUse
	UsesAt map[netip.Addr]*mesh.LastUse
	// Own reports whether an address is the pod's: nobody else is served, and its mesh ports are not led to.
	Own func(netip.Addr) bool
	// Namespace and ClusterDomain complete the short names of Services.
	Namespace, ClusterDomain string
	// Detection is how long first bytes are awaited.
	Detection time.Duration
	// Original is where a captured connection was made to.
	Original func(*net.TCPConn) (netip.AddrPort, error)
}

// reasonNotCaptured is why a connection is refused that was made to the listener itself.
const reasonNotCaptured = "not_captured"

// The ports that the mesh keeps for itself.
const (
	firstMeshPort = 15000
	lastMeshPort  = 15099
)

// serverFirst are ports of protocols whose server speaks first. At an address that means nothing nobody waits there for the
// client's first bytes. Istio names SMTP, MySQL and MongoDB.
var serverFirst = [...]uint16{21, 22, 25, 110, 143, 3306, 27017}

// serveCaptured is steps 1 and 2: it learns where a connection was made to, and what that is.
func (s *session) serveCaptured(c *Config, conn net.Conn, live *forward.Live) {
	if err := c.Capture.admit(s, conn); err != nil {
		s.l.rec.Refused(s.local, s.remote, reasonNotCaptured, err)
		return
	}
	s.local = s.to // as logs show it
	host, c, fail := s.called()
	switch {
	case fail != nil:
	case host != nil && !host.HTTP:
		s.serveTCP(c, conn, &called{destinations: host.Tunnel, service: host.Service}, live)
		return
	case host != nil && !host.Detect:
		forward.New(conn, live, nil, s).Serve(s.l.life)
		return
	}
	s.serveDetected(c, conn, host, fail, live)
}

// admit reads the original destination, and refuses callers that are not of this pod, and calls that would go round in circles.
func (c *Capture) admit(s *session, conn net.Conn) error {
	if a := s.remote.Addr().WithZone(""); !a.IsLoopback() && !c.Own(a) {
		return fmt.Errorf("%s is no address of this pod", a)
	}
	t := socket.TCP(conn)
	if t == nil {
		return errors.New("no TCP connection")
	}
	to, err := c.Original(t)
	if err != nil {
		return err
	}
	s.to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	switch {
	case !s.to.IsValid() || s.to.Port() == 0 || s.to == s.local:
		return errors.New("the connection was made to the listener itself")
	case s.to.Port() >= firstMeshPort && s.to.Port() <= lastMeshPort && (s.to.Addr().IsLoopback() || c.Own(s.to.Addr())):
		return fmt.Errorf("%s is the sidecar's own", s.to)
	}
	return nil
}

// serveDetected serves a call of which the first bytes say what it is: one to a port that declares nothing, or to an address
// that means nothing, which is known then by the host that it names. fail is why such an address is refused.
func (s *session) serveDetected(c *Config, conn net.Conn, host *route.VirtualHost, fail *proxy.Failure, live *forward.Live) {
	within := c.Capture.Detection
	var preread []byte
	spoken := forward.Silent
	if host != nil || !slices.Contains(serverFirst[:], s.to.Port()) {
		var err error
		if preread, spoken, err = forward.Detect(conn, nil, within); err != nil && !errors.Is(err, io.EOF) {
			return // the program went away before it said anything
		}
	}
	if spoken == forward.HTTP1 && !(host == nil && toProxy(preread)) {
		forward.New(conn, live, preread, s).Serve(s.l.life)
		return
	}
	if host == nil && fail == nil && spoken == forward.TLS {
		var name string
		if preread, name = s.serverName(conn, preread, within); name != "" {
			host, c, fail = s.named(c, name)
		}
	}
	s.serveTCP(c, conn, s.carried(c, host, fail, preread), live)
}

// toProxy reports whether a request is for an HTTP proxy, which gets it as it is: its target is a whole URL.
func toProxy(b []byte) bool {
	_, target, _ := bytes.Cut(b, []byte{' '})
	return bytes.HasPrefix(target, []byte("http://")) || bytes.HasPrefix(target, []byte("https://"))
}

// carried is what a connection is for that is carried as it is.
func (s *session) carried(c *Config, host *route.VirtualHost, fail *proxy.Failure, preread []byte) *called {
	switch {
	case fail != nil:
		fail = proxy.Fail(proxy.NoHealthyUpstream, fail.Detail, fail.Cause)
		return &called{fail: fail, cluster: blackHole, service: &blackHoleService, preread: preread}
	case host != nil:
		return &called{destinations: host.Tunnel, service: host.Service, preread: preread}
	case !c.AllowAny:
		return &called{fail: proxy.Fail(proxy.NoHealthyUpstream, "registry_only", nil), cluster: blackHole, service: &blackHoleService}
	}
	return &called{cluster: passthrough, service: &passthroughService, preread: preread}
}

// called finds what has the address that was called: nil for an address that means nothing. It asks the control plane where
// that is not known. The configuration is the one that the answer is of.
func (s *session) called() (*route.VirtualHost, *Config, *proxy.Failure) {
	c := s.l.config.Load()
	host, known := c.Capture.Addresses.Lookup(s.to)
	if known {
		c.Capture.usedAt(host, s.to.Addr())
	} else if c.Capture.Demand != nil {
		if fail := s.demand(c, s.to.Addr().String()); fail != nil {
			return nil, c, fail
		}
		c = s.l.config.Load()
		host, _ = c.Capture.Addresses.Lookup(s.to)
	}
	// The mesh's ports of other pods are not captured there: metrics and health are served in plaintext.
	if host != nil && host.Port == 0 && s.to.Port() >= firstMeshPort && s.to.Port() <= lastMeshPort {
		return nil, c, nil
	}
	return host, c, nil
}

// calledHost is what a request is for: what has the address that was called, whatever host the request names, else the host
// that it names. Nil, without a failure, is what passes through to where it was made.
func (s *session) calledHost(authority string) (*route.VirtualHost, *Config, *proxy.Failure) {
	host, c, fail := s.called()
	if host != nil || fail != nil {
		return host, c, fail
	}
	return s.named(c, authority)
}

// named finds a host at the port that was called.
func (s *session) named(c *Config, authority string) (*route.VirtualHost, *Config, *proxy.Failure) {
	find := func() *route.VirtualHost {
		if v, ok := c.Capture.Hosts.Lookup(authority, s.to.Port()); ok && v.Port == s.to.Port() {
			return v
		}
		return nil
	}
	v := find()
	if v != nil {
		c.Capture.usedBy(v, authority)
	} else if c.Capture.Demand != nil {
		for _, name := range c.Capture.unasked(authority) {
			if fail := s.demand(c, name); fail != nil {
				return nil, c, fail
			}
			c = s.l.config.Load()
		}
		v = find()
	}
	if v == nil && !c.AllowAny {
		f := proxy.Fail(proxy.UnknownHost, "registry_only", nil)
		f.Body = fmt.Sprintf("neither %s nor host %q is in the mesh's registry, and outboundTrafficPolicy is REGISTRY_ONLY", s.to, authority)
		return nil, c, f
	}
	return v, c, nil
}

// demand asks what a name means. A call is refused where that can't be learnt: it might be for a workload of the mesh, which
// nobody calls in plaintext by mistake.
func (s *session) demand(c *Config, name string) *proxy.Failure {
	err := c.Capture.Demand.Demand(s.life, name)
	if err == nil {
		return nil
	}
	f := proxy.Fail(proxy.UnknownHost, "control_plane_unavailable", err)
	f.Status = 503
	f.Body = fmt.Sprintf("%s is not known here yet, and the control plane could not be asked: %v", name, err)
	return f
}

// handleCaptured is steps 3 to 8 for one request on a captured connection.
func (s *session) handleCaptured(x *forward.Exchange) *proxy.Failure {
	if x.Req.Method == "CONNECT" {
		f := proxy.Fail(proxy.NoRoute, "connect_not_here", nil)
		f.Body = "CONNECT is no request for a port that declares HTTP"
		return f
	}
	host, c, fail := s.calledHost(x.Req.Authority)
	if fail != nil {
		x.Rec.Service, x.Rec.UpstreamCluster = &blackHoleService, blackHole
		return fail
	}
	if host == nil { // none of the mesh's: it goes on as it came
		x.Rec.Service = &passthroughService
		cluster := c.Clusters[passthrough]
		if cluster == nil {
			return proxy.Fail(proxy.NoHealthyUpstream, "", nil)
		}
		return x.Forward(authz.Egress(), &forward.Plan{Cluster: cluster, To: s.to})
	}
	if fail := s.canonicalise(x, c); fail != nil {
		return fail
	}
	return s.match(x, c, host)
}

// usedAt notes a call to an address, at which there may be a virtual host. It allocates nothing.
func (c *Capture) usedAt(v *route.VirtualHost, at netip.Addr) {
	if v != nil {
		if u := c.Uses[v.Host]; u != nil {
			u.Touch()
			return
		}
	}
	c.UsesAt[at].Touch()
}

// usedBy notes a call to a virtual host by a name that may be one of several. It allocates nothing.
func (c *Capture) usedBy(v *route.VirtualHost, authority string) {
	u := c.Uses[v.Host]
	if u == nil && v.Service != nil { // a short form of a Service's host
		u = c.Uses[v.Service.Service]
	}
	if u == nil {
		var buf [route.MaxHostBytes]byte
		u = c.Uses[string(lowered(&buf, authority))]
	}
	u.Touch()
}

// lowered is the host of an authority in lower case and without a final dot, in buf; nil where it can be no host.
func lowered(buf *[route.MaxHostBytes]byte, authority string) []byte {
	host, _, ok := route.SplitAuthority(authority, 80)
	if !ok || len(host) > route.MaxHostBytes {
		return nil
	}
	lower := append(buf[:0], host...)
	for i, b := range lower {
		if 'A' <= b && b <= 'Z' {
			lower[i] = b + 'a' - 'A'
		}
	}
	if n := len(lower); n > 0 && lower[n-1] == '.' {
		lower = lower[:n-1]
	}
	return lower
}

// unasked are the names that a host may stand for and that nobody asked for yet. The use of those that were is noted. It allocates
// nothing for a full name that was asked.
func (c *Capture) unasked(authority string) []string {
	var buf [route.MaxHostBytes]byte
	lower := lowered(&buf, authority)
	if c.was(lower) && slices.Contains(lower, '.') {
		return nil
	}
	return slices.DeleteFunc(c.forms(string(lower)), func(name string) bool { return c.was([]byte(name)) })
}

// was reports whether a name was asked for, and if so notes its use.
func (c *Capture) was(name []byte) bool {
	answer, ok := c.Asked[string(name)]
	if !ok {
		return false
	}
	u := c.Uses[answer.Host]
	if u == nil {
		u = c.Uses[string(name)]
	}
	u.Touch()
	return true
}

// forms are the full names that a host may stand for; none for an address and for what can be no host.
func (c *Capture) forms(host string) []string {
	if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.ContainsFunc(host, notInNames) {
		return nil
	}
	switch dots := strings.Count(host, "."); {
	case dots == 0:
		return []string{host + "." + c.Namespace + ".svc." + c.ClusterDomain}
	case dots == 1:
		return []string{host, host + ".svc." + c.ClusterDomain}
	case strings.HasSuffix(host, ".svc"):
		return []string{host + "." + c.ClusterDomain}
	}
	return []string{host}
}

func notInNames(r rune) bool {
	return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
}

// serverName reads on until a ClientHello is whole and gives the name in it, "" where there is none. What was read is returned
// too: it belongs to the server.
func (s *session) serverName(conn net.Conn, b []byte, within time.Duration) (hello []byte, name string) {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	defer conn.SetReadDeadline(time.Time{})
	for {
		h, more, err := certs.ReadClientHello(b)
		if err != nil || !more || len(b) >= maxHello {
			return b, h.ServerName
		}
		b = slices.Grow(b, 4096)
		n, err := conn.Read(b[len(b):min(cap(b), maxHello)])
		b = b[:len(b)+n]
		if n == 0 && err != nil {
			return b, ""
		}
	}
}

// maxHello bounds what is read of a ClientHello.
const maxHello = 16<<10 + 512
