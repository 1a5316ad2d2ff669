package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// RouteAnswer is what the caller's sidecar does with a request.
type RouteAnswer struct {
	Workload string `json:"workload"` // NAMESPACE/NAME
	SPIFFEID string `json:"spiffeID,omitempty"`
	Address  string `json:"address"`
	// Mistake is why the question has no answer here; everything below is empty then.
	Mistake  string `json:"mistake,omitempty"`
	Listener string `json:"listener,omitempty"` // KIND ADDRESS:PORT
	Host     string `json:"host,omitempty"`     // as it was looked up
	// Outcome is forward, redirect, direct-response, no-route, unknown-host, passthrough, not-http or bad-path.
	Outcome string `json:"outcome,omitempty"`
	// Route is the name of the route, Match its condition on the path.
	Route string `json:"route,omitempty"`
	Match string `json:"match,omitempty"`
	// Status and Location are the answer of a route that answers by itself.
	Status       int           `json:"status,omitempty"`
	Location     string        `json:"location,omitempty"`
	Destinations []Destination `json:"destinations,omitempty"`
	// Reaches says that a destination leads to the server that was asked about.
	Reaches bool `json:"reaches"`
	// MTLS says that the server is dialled with mutual TLS.
	MTLS bool `json:"mtls"`
	// SNI is the server name of the chosen cluster.
	SNI string `json:"sni,omitempty"`
	// Forwarded is the request as the server gets it; nil if it gets none.
	Forwarded *Forwarded `json:"forwarded,omitempty"`
	// Limits are those of the route.
	Limits []LimitAnswer `json:"limits,omitempty"`
	Notes  []string      `json:"notes,omitempty"`
}

// Destination is one of the clusters of a route.
type Destination struct {
	Cluster string `json:"cluster"` // outbound|PORT|SUBSET|HOST
	Weight  uint32 `json:"weight"`
	// Endpoints are the addresses behind it.
	Endpoints []Endpoint `json:"endpoints"`
	// Reaches says that the server asked about is among them.
	Reaches bool `json:"reaches"`
}

// Endpoint is one address of a cluster.
type Endpoint struct {
	Address  string   `json:"address"`
	Workload string   `json:"workload,omitempty"` // NAMESPACE/NAME
	MTLS     bool     `json:"mtls"`
	Expect   []string `json:"expect,omitempty"` // the identities of which it must prove one
}

// Forwarded is a request after the operations of its route.
type Forwarded struct {
	Method  string   `json:"method"`
	Host    string   `json:"host"`
	Path    string   `json:"path"`
	Headers []Header `json:"headers"`
}

// The outcomes of a route.
const (
	outcomeForward     = "forward"
	outcomeRedirect    = "redirect"
	outcomeDirect      = "direct-response"
	outcomeNoRoute     = "no-route"
	outcomeUnknown     = "unknown-host"
	outcomePassthrough = "passthrough"
	outcomeNotHTTP     = "not-http"
	outcomeBadPath     = "bad-path"
)

// Route says what the sidecar of a workload does with a request of its program. It picks the listener that knows the host:
// the HTTP proxy first.
func Route(w *compile.Workload, q *Question) RouteAnswer {
	r := router{w: w, a: RouteAnswer{Workload: nameOf(w), SPIFFEID: w.Self.ID.String(), Address: w.Self.Address.String()}}
	var err error
	r.ip, _ = netip.ParseAddr(q.ToIP)
	if r.to, r.port, err = splitTo(q.To); err == nil {
		err = r.run(q)
	}
	if err != nil {
		r.a.Mistake = err.Error()
	}
	return r.a
}

// router is the state of one Route.
type router struct {
	w    *compile.Workload
	to   string     // NAMESPACE/NAME asked about
	port uint16     // 0: not given
	ip   netip.Addr // of to; invalid where its name says enough
	// called is the address that a pod calls, where that decides: a host that is one, or the server's behind a headless Service.
	called netip.AddrPort
	a      RouteAnswer
}

func (r *router) run(q *Question) error {
	host := q.Host
	if host == "" {
		if host = r.defaultHost(); host == "" {
			if r.tcp() {
				return nil
			}
			r.a.Outcome = outcomeUnknown
			r.note("no host that %s may call leads to %s", r.a.Workload, q.To)
			return nil
		}
	}
	h, err := q.head(host)
	if err != nil {
		return err
	}
	r.a.Host = h.Authority
	var s judge.Scratch
	if f := judge.New(r.w.Settings, nil, nil).Canonicalise(h, &s); f != nil {
		r.a.Outcome, r.a.Status = outcomeBadPath, f.Code.Answer().Status
		return nil
	}
	if h.Get("x-forwarded-proto") == "" {
		h.Add("x-forwarded-proto", "http")
	}
	v := r.lookup(h.Authority)
	if v == nil {
		v = r.address(h.Authority)
	}
	if v == nil {
		r.a.Outcome = outcomeUnknown
		if r.w.AllowAny {
			r.a.Outcome = outcomePassthrough
			r.note("host %q is not in the mesh's registry: it is dialled as it is, without mutual TLS", h.Authority)
		} else {
			r.a.Status = proxy.UnknownHost.Answer().Status
			r.note("host %q is not in the mesh's registry, and outboundTrafficPolicy is REGISTRY_ONLY", h.Authority)
		}
		return nil
	}
	r.match(v, h)
	return nil
}

// lookup finds the host on the HTTP listeners, the proxy first.
func (r *router) lookup(authority string) *route.VirtualHost {
	for _, kind := range []compile.Kind{compile.HTTPProxy, compile.Captured, compile.HTTP} {
		for i := range r.w.Outbound {
			o := &r.w.Outbound[i]
			if o.Kind != kind {
				continue
			}
			if r.a.Listener == "" {
				r.a.Listener = kind.String() + " " + o.Bind.String()
			}
			if v, ok := o.Table.Lookup(authority, o.DefaultPort()); ok {
				r.a.Listener = kind.String() + " " + o.Bind.String()
				return v
			}
		}
	}
	return nil
}

// address finds what a pod calls whose host is no service's: an address, or a name that a headless Service has, whose pod then is
// the server that was asked about. Without a port the latter is called at the server's.
func (r *router) address(authority string) *route.VirtualHost {
	host, port, ok := route.SplitAuthority(authority, 80)
	if r.w.Capture == nil || !ok {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		r.called = netip.AddrPortFrom(a.Unmap(), port)
		v, _ := r.w.Capture.Addresses.Lookup(r.called)
		return v
	}
	if _, explicit, _ := route.SplitAuthority(authority, 0); explicit == 0 {
		port = r.port
	}
	_, service, _ := strings.Cut(host, ".")
	for _, name := range []string{host, service} {
		if v := r.lookup(name + ":" + strconv.Itoa(int(port))); v != nil && r.headless(v) {
			return v
		}
	}
	return nil
}

// headless says whether a virtual host is a headless Service's: calls go to the pod that its name resolved to.
func (r *router) headless(v *route.VirtualHost) bool {
	if r.w.Capture == nil || v.Service == nil {
		return false
	}
	c := r.cluster(compile.ClusterName(uint32(v.Port), "", v.Service.Service))
	return c != nil && c.Original && len(c.Targets) > 0
}

// resolve takes the server that was asked about for the pod that the name of a headless Service resolves to.
func (r *router) resolve(v *route.VirtualHost) {
	if r.called.IsValid() || !r.ip.IsValid() || !r.headless(v) {
		return
	}
	r.called = netip.AddrPortFrom(r.ip, cmp.Or(r.port, v.Port))
	r.note("%s is headless, a call goes to the pod that its name resolves to: %s at %s is taken", v.Service.Service, r.to, r.called)
}

func (r *router) match(v *route.VirtualHost, h *proxy.Head) {
	r.resolve(v)
	if !v.HTTP && r.w.Capture != nil {
		r.a.Outcome = outcomeForward
		r.destinations(v.Tunnel)
		r.note("port %d of %s is not declared HTTP: it is carried as TCP", v.Port, v.Host)
		return
	}
	if !v.HTTP {
		r.a.Outcome = outcomeNotHTTP
		r.destinations(v.Tunnel)
		r.note("port %d of %s is not declared HTTP: it is reached by CONNECT or a TCP listener", v.Port, v.Host)
		return
	}
	m := v.Match(&route.Request{Head: h})
	if m == nil {
		r.a.Outcome, r.a.Status = outcomeNoRoute, proxy.NoRoute.Answer().Status
		r.note("no route of %s matches", v.Host)
		return
	}
	r.a.Route, r.a.Match = m.Name, m.Condition.URI.String()
	switch m.Action {
	case route.Redirect:
		r.a.Outcome, r.a.Status, r.a.Location = outcomeRedirect, m.Redirect.Code, m.Location(h, v.Port)
		return
	case route.Direct:
		r.a.Outcome, r.a.Status = outcomeDirect, m.Direct.Status
		return
	}
	r.a.Outcome = outcomeForward
	if set := r.w.RouteLimits[m]; set != nil {
		req := authz.Request{Method: h.Method, Host: h.Authority, Path: h.Path, Query: h.Query, Headers: h}
		r.a.Limits = limitAnswers(set.Explain(&authz.Connection{SourceIP: r.w.Self.Address}, &req), false)
	}
	chosen := r.destinations(m.Destinations)
	m.ApplyRequest(h, chosen)
	f := &Forwarded{Method: h.Method, Host: h.Authority, Path: h.Path + h.Query}
	for _, field := range h.Fields {
		f.Headers = append(f.Headers, Header(field))
	}
	r.a.Forwarded = f
}

// destinations describes where a route leads, and gives the heaviest destination that reaches the server, else the heaviest.
func (r *router) destinations(ws []route.Weighted) *route.Weighted {
	var chosen *route.Weighted
	for i := range ws {
		w := &ws[i]
		d := Destination{Cluster: w.Cluster, Weight: w.Weight, Endpoints: []Endpoint{}}
		if len(ws) == 1 && d.Weight == 0 {
			d.Weight = 100
		}
		if c := r.cluster(w.Cluster); c != nil {
			for _, t := range r.targets(c) {
				d.Endpoints = append(d.Endpoints, r.endpoint(&t, &d, d.Weight > 0))
			}
		}
		better := chosen == nil || d.Reaches && !r.a.Reaches || d.Reaches == r.a.Reaches && w.Weight > chosen.Weight
		if better {
			chosen = w
		}
		r.a.Reaches = r.a.Reaches || d.Reaches
		r.a.Destinations = append(r.a.Destinations, d)
	}
	if chosen != nil && r.a.MTLS {
		r.a.SNI = r.cluster(chosen.Cluster).SNI
	}
	if !r.a.Reaches {
		r.note("the route does not lead to %s", r.target())
	}
	return chosen
}

// targets are the endpoints of a cluster, or the one that has the address that is called where that decides.
func (r *router) targets(c *upstream.Spec) []upstream.Target {
	if !c.Original || !r.called.IsValid() {
		return c.Targets
	}
	for _, t := range c.Targets {
		if t.Address == r.called.String() {
			return []upstream.Target{t}
		}
	}
	if len(c.Targets) > 0 {
		return nil
	}
	one := c.Template
	one.Address = r.called.String()
	return []upstream.Target{one}
}

func (r *router) target() string {
	if r.port == 0 {
		return r.to
	}
	return r.to + ":" + strconv.Itoa(int(r.port))
}

// endpoint describes a target; one that is the server asked about marks its destination, if that gets traffic at all.
func (r *router) endpoint(t *upstream.Target, d *Destination, counts bool) Endpoint {
	e := Endpoint{Address: t.Address, MTLS: t.MTLS}
	if t.Party != nil && t.Party.Workload != "" {
		e.Workload = t.Party.Namespace + "/" + t.Party.Workload
	}
	for _, id := range t.Expect {
		e.Expect = append(e.Expect, id.String())
	}
	if !counts || !r.leads(t) {
		return e
	}
	d.Reaches, r.a.MTLS = true, r.a.MTLS || t.MTLS
	if p := r.w.Parties.Workload(r.to); t.MTLS && p != nil && !slices.Contains(e.Expect, p.Principal) {
		r.note("the sidecar of %s refuses the connection: the endpoint must prove %s and %s is %s",
			r.a.Workload, strings.Join(e.Expect, " or "), r.to, cmp.Or(p.Principal, "nobody"))
	}
	return e
}

// leads reports whether a target is the server that was asked about.
func (r *router) leads(t *upstream.Target) bool {
	a, err := netip.ParseAddrPort(t.Address)
	if err != nil || r.port != 0 && a.Port() != r.port {
		return false
	}
	return r.ip.IsValid() && a.Addr() == r.ip || t.Party != nil && t.Party.Namespace+"/"+t.Party.Workload == r.to
}

func (r *router) cluster(name string) *upstream.Spec {
	i := slices.IndexFunc(r.w.Clusters, func(s upstream.Spec) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.w.Clusters[i]
}

// defaultHost is the first exact host whose own endpoints have the server among them: HOST for the port that needs no
// naming, else HOST:PORT; "" if there is none. A cluster that was made for a subset does not count.
func (r *router) defaultHost() string {
	for i := range r.w.Outbound {
		o := &r.w.Outbound[i]
		for _, v := range o.Table.Hosts() {
			if !v.HTTP || strings.Contains(v.Host, "*") || v.Service == nil || v.Service.Service != v.Host {
				continue
			}
			c := r.cluster(compile.ClusterName(uint32(v.Port), "", v.Host))
			if c == nil || !slices.ContainsFunc(c.Targets, func(t upstream.Target) bool { return r.leads(&t) }) {
				continue
			}
			if v.Port == o.DefaultPort() {
				return v.Host
			}
			return v.Host + ":" + strconv.Itoa(int(v.Port))
		}
	}
	return ""
}

// tcp looks for a TCP way to the server: a listener, or a host that CONNECT reaches.
func (r *router) tcp() bool {
	try := func(listener string, ws []route.Weighted, v *route.VirtualHost) bool {
		probe := router{w: r.w, to: r.to, port: r.port, ip: r.ip, a: r.a}
		if v != nil {
			probe.resolve(v)
		}
		if probe.destinations(ws); !probe.a.Reaches {
			return false
		}
		probe.a.Outcome, probe.a.Listener = outcomeForward, listener
		r.a = probe.a
		return true
	}
	for i := range r.w.Outbound {
		if o := &r.w.Outbound[i]; o.Kind == compile.TCP && try("TCP "+o.Bind.String(), o.Destinations, nil) {
			return true
		}
	}
	for i := range r.w.Outbound {
		o := &r.w.Outbound[i]
		for _, v := range o.Table.Hosts() {
			by := "CONNECT "
			if o.Kind == compile.Captured {
				by = "captured "
			}
			if !v.HTTP && try(by+v.Host+":"+strconv.Itoa(int(v.Port))+" at "+o.Bind.String(), v.Tunnel, v) {
				return true
			}
		}
	}
	return false
}

func (r *router) note(format string, args ...any) {
	r.a.Notes = append(r.a.Notes, fmt.Sprintf(format, args...))
}
