package outbound

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/telemetry"
	"github.com/signet-mesh/signet/proxy/upstream"
)

const resolveTimeout = 5 * time.Second

// Handle implements forward.Corridor: steps 3 to 8 for one request.
func (s *session) Handle(x *forward.Exchange) *proxy.Failure {
	c := s.l.config.Load()
	if c.Kind == Captured {
		return s.handleCaptured(x)
	}
	if x.Req.Method == "CONNECT" {
		return s.connect(x, c)
	}
	if fail := s.canonicalise(x, c); fail != nil {
		return fail
	}
	// 4 match
	host, ok := c.Table.Lookup(x.Req.Authority, c.DefaultPort)
	if !ok {
		return s.unknown(x, c)
	}
	return s.match(x, c, host)
}

// canonicalise is step 3, with what every request is given.
func (s *session) canonicalise(x *forward.Exchange, c *Config) *proxy.Failure {
	if fail := c.Judge.Canonicalise(&x.Req, &x.Scratch); fail != nil {
		return fail
	}
	x.Rec.Path = x.Req.Path
	x.Rec.RequestID = telemetry.EnsureRequestID(&x.Req)
	if x.Req.Get("x-forwarded-proto") == "" {
		x.Req.Add("x-forwarded-proto", "http")
	}
	return nil
}

// match is step 4 for a request whose host is known, and what follows.
func (s *session) match(x *forward.Exchange, c *Config, host *route.VirtualHost) *proxy.Failure {
	if host.Service != nil {
		x.Rec.Service = host.Service
	}
	if !host.HTTP {
		f := proxy.Fail(proxy.NoRoute, "port_not_http", nil)
		f.Body = fmt.Sprintf("port %d of %s is not declared HTTP: use CONNECT, or a TCP listener", host.Port, host.Host)
		return f
	}
	r := host.Match(&route.Request{Head: &x.Req})
	if r == nil {
		return proxy.Fail(proxy.NoRoute, "", nil)
	}
	x.Rec.RouteName = r.Name
	// 5 limit
	if fail := s.limit(x, c, r); fail != nil {
		return fail
	}
	switch r.Action {
	case route.Redirect:
		x.Resp.Reset()
		x.Resp.Add("location", r.Location(&x.Req, host.Port))
		r.ApplyResponse(&x.Resp, nil)
		x.Rec.Detail = "direct_response"
		x.Respond(r.Redirect.Code, "")
		return nil
	case route.Direct:
		x.Resp.Reset()
		r.ApplyResponse(&x.Resp, nil)
		x.Rec.Detail = "direct_response"
		x.Respond(r.Direct.Status, string(r.Direct.Body))
		return nil
	}
	return s.forward(x, c, r)
}

// limit is step 5: it counts the request against the limits of its route, whose caller is the workload itself.
func (s *session) limit(x *forward.Exchange, c *Config, r *route.Route) *proxy.Failure {
	limits := c.Limits[r]
	if limits == nil {
		return nil
	}
	x.Auth = authz.Connection{Peer: identity.Peer{ID: c.ID}, SourceIP: s.remote.Addr(), DestinationIP: s.local.Addr(), DestinationPort: s.local.Port()}
	x.Judged = authz.Request{Method: x.Req.Method, Host: x.Req.Authority, Path: x.Req.Path, Headers: &x.Req, Query: x.Req.Query,
		Minor: x.Req.Minor, Received: x.Rec.Start}
	return x.Limit(limits)
}

// forward is steps 6 to 8: one destination of the route, one endpoint of it.
func (s *session) forward(x *forward.Exchange, c *Config, r *route.Route) *proxy.Failure {
	w := r.Pick(rand.Uint64())
	if w == nil {
		return proxy.Fail(proxy.NoHealthyUpstream, "", nil)
	}
	cluster := c.Clusters[w.Cluster]
	if cluster == nil {
		return proxy.Fail(proxy.NoHealthyUpstream, "cluster_not_found", nil)
	}
	to := s.toward(cluster, x.Rec.Service)
	x.Rec.Service = cluster.Destination()
	r.ApplyRequest(&x.Req, w)
	return x.Forward(authz.Egress(), &forward.Plan{
		Cluster: cluster, To: to, Route: r, Destination: w, Retry: &r.Retry, Timeout: r.Timeout,
	})
}

// connect is CONNECT: TCP over mTLS to a mesh host, plain TCP to an unknown one where that is allowed.
func (s *session) connect(x *forward.Exchange, c *Config) *proxy.Failure {
	if c.Kind != HTTPProxy {
		f := proxy.Fail(proxy.NoRoute, "connect_not_here", nil)
		f.Body = "CONNECT is served by the workload's HTTP_PROXY listener"
		return f
	}
	host, ok := c.Table.Lookup(x.Req.Authority, c.DefaultPort)
	if !ok {
		return s.unknown(x, c)
	}
	if host.Service != nil {
		x.Rec.Service = host.Service
	}
	w := route.PickWeighted(host.Tunnel, rand.Uint64())
	if w == nil || c.Clusters[w.Cluster] == nil {
		return proxy.Fail(proxy.NoHealthyUpstream, "", nil)
	}
	cluster := c.Clusters[w.Cluster]
	x.Rec.Service = cluster.Destination()
	u, fail := forward.Dial(s.life, cluster, &x.Rec)
	if fail != nil {
		return fail
	}
	s.join(x, u)
	return nil
}

func (s *session) join(x *forward.Exchange, u *upstream.Conn) {
	x.Rec.TCP, x.Rec.UpstreamLocal = true, u.Local()
	s.l.rec.Opened(&x.Rec)
	x.Connect(u)
}

// unknown serves a host that is not in the registry, as outboundTrafficPolicy says.
func (s *session) unknown(x *forward.Exchange, c *Config) *proxy.Failure {
	if !c.AllowAny {
		x.Rec.Service, x.Rec.UpstreamCluster = &blackHoleService, blackHole
		f := proxy.Fail(proxy.UnknownHost, "", nil)
		f.Body = fmt.Sprintf("host %q is not in the mesh's registry, and outboundTrafficPolicy is REGISTRY_ONLY", x.Req.Authority)
		return f
	}
	x.Rec.Service, x.Rec.UpstreamCluster = &passthroughService, passthrough
	u, fail := s.dialUnknown(x, c)
	if fail != nil {
		return fail
	}
	x.Rec.UpstreamHost = u.Remote()
	if x.Req.Method == "CONNECT" {
		s.join(x, u)
		return nil
	}
	return x.Forward(authz.Egress(), &forward.Plan{Conn: u})
}

var (
	passthroughService = proxy.Destination{Service: passthrough, ServiceName: passthrough}
	blackHoleService   = proxy.Destination{Service: blackHole, ServiceName: blackHole}
)

// dialUnknown resolves the host once, judges every address and dials the ones that may be reached: what was judged is what
// is dialled.
func (s *session) dialUnknown(x *forward.Exchange, c *Config) (*upstream.Conn, *proxy.Failure) {
	host, port, ok := route.SplitAuthority(x.Req.Authority, c.DefaultPort)
	if !ok {
		return nil, proxy.Fail(proxy.BadRequest, "bad_authority", nil)
	}
	ctx := s.life
	addrs, err := resolve(ctx, host)
	if err != nil {
		f := proxy.Fail(proxy.UpstreamConnect, "dns_resolution_failure", err)
		f.Body = fmt.Sprintf("host %q is not in the mesh's registry and could not be resolved", host)
		return nil, f
	}
	fail := proxy.Fail(proxy.UpstreamConnect, "", nil)
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, port)
		if c.Forbids == nil || c.Forbids(at) {
			f := proxy.Fail(proxy.ForbiddenTarget, "", nil)
			f.Body = "the proxy does not lead to " + net.JoinHostPort(host, strconv.Itoa(int(port))) + ": it is the mesh's own, link-local or a metadata address"
			return nil, f
		}
	}
	for _, a := range addrs {
		local := c.Address
		if local.IsLoopback() && !a.IsLoopback() {
			local = netip.Addr{} // nothing beyond this host answers to a loopback address
		}
		var u *upstream.Conn
		if u, fail = c.Dialer.DialPlain(ctx, time.Time{}, netip.AddrPortFrom(a, port), local, c.ConnectTimeout); fail == nil {
			return u, nil
		}
	}
	return nil, fail
}

func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(trimBrackets(host)); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs[:min(len(addrs), 4)], nil
}

func trimBrackets(h string) string {
	if len(h) > 1 && h[0] == '[' && h[len(h)-1] == ']' {
		return h[1 : len(h)-1]
	}
	return h
}
