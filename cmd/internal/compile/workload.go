// Package compile says what one workload's sidecar runs: it turns a mesh.View into the plain, immutable values that the
// corridors take (listeners, route tables, clusters, the authorization program, the names of peers). Compile is pure: no
// I/O, no clock, and the same view gives the same result.
//
// It assumes that the objects of a view were judged (mesh.Build); what it meets and can't honour all the same is an error,
// never something left out.
package compile

import (
	"fmt"
	"net/netip"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/limit"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// OutboundPort is where a workload's HTTP proxy listens when no Sidecar gives it one.
const OutboundPort = 15001

// Workload is what one sidecar runs. Immutable.
type Workload struct {
	Self     *mesh.Workload
	Settings mesh.Settings
	// AllowAny says that unknown hosts pass through: the Sidecar's outboundTrafficPolicy, else the mesh's.
	AllowAny bool
	// Party is the workload itself, as metrics name it.
	Party    *proxy.Party
	Inbound  []Inbound
	Outbound []Outbound
	// Clusters are those of all listeners, sorted by name; every name that a route or listener mentions is among them, if
	// need be without an endpoint.
	Clusters []upstream.Spec
	Program  *authz.Program
	// Tokens verifies end users' tokens, nil where no RequestAuthentication selects the workload.
	Tokens *jwt.Authenticator
	// RouteLimits are the limits of routes, by route of the tables above.
	RouteLimits map[*route.Route]*limit.Set
	Parties     *Parties
	Reserved    *Reserved
	// Capture is what the sidecar of a pod runs by, nil for a workload whose listeners bind real ports. Inbound and Outbound then
	// say what is done with captured calls, and bind nothing.
	Capture *Capture
	// Warnings say what dangles: references to services or subsets that don't exist.
	Warnings []string
}

// Mode is how an inbound port treats TLS.
type Mode uint8

// The modes of PeerAuthentication. The zero value is the strictest.
const (
	Strict Mode = iota
	Permissive
	Disable
)

// String is Istio's spelling.
func (m Mode) String() string {
	switch m {
	case Permissive:
		return "PERMISSIVE"
	case Disable:
		return "DISABLE"
	}
	return "STRICT"
}

// Inbound is one listener that accepts for the workload (Sidecar.ingress).
type Inbound struct {
	Bind netip.AddrPort
	// HTTP is false for a port that is carried as TCP. With Detect the first bytes of a connection say whether it is HTTP.
	HTTP, Detect bool
	Mode         Mode
	// StrictBy names the PeerAuthentication that makes the port STRICT, nil if the port is not.
	StrictBy *authz.RuleRef
	// Cluster is inbound|PORT||, whose one target is the program.
	Cluster string
	// Limits are counted for requests to this port; nil for none.
	Limits *limit.Set
	// Service is the one that this port of the workload serves, for metrics; its zero value if there is none.
	Service *proxy.Destination
}

// Kind is what an outbound listener speaks.
type Kind uint8

// The kinds.
const (
	HTTPProxy Kind = iota // absolute-form and CONNECT; any port of the mesh
	HTTP                  // origin-form; hosts of one port
	TCP                   // one service
	Captured              // whatever was called: the original destination decides
)

// String is the protocol as a Sidecar writes it.
func (k Kind) String() string {
	switch k {
	case HTTPProxy:
		return "HTTP_PROXY"
	case HTTP:
		return "HTTP"
	case Captured:
		return "CAPTURED"
	}
	return "TCP"
}

// Outbound is one listener that the workload's programs call (Sidecar.egress, or the default HTTP proxy).
type Outbound struct {
	Bind netip.AddrPort
	Kind Kind
	// Table holds the hosts of HTTPProxy and HTTP. The default port of an authority without one is 80 for HTTPProxy, and
	// Bind.Port() for HTTP.
	Table *route.Table
	// Destinations and Service are those of TCP. Without destinations a connection is closed (flag UH).
	Destinations []route.Weighted
	Service      *proxy.Destination
}

// DefaultPort is the port that an authority without one means on this listener.
func (o *Outbound) DefaultPort() uint16 {
	if o.Kind == HTTPProxy || o.Kind == Captured {
		return 80
	}
	return o.Bind.Port()
}

// Compile makes what the workload of a view runs. An error names the object and what of it can't be run; nothing of the
// view is used then.
func Compile(v *mesh.View, parts Parts) (*Workload, error) {
	if v == nil || v.Self == nil || v.Self.ID.IsZero() {
		return nil, fmt.Errorf("compiling workload: the view names no workload with an identity")
	}
	c := newCompiler(v)
	c.parts = parts
	w := &Workload{Self: v.Self, Settings: v.Mesh, AllowAny: allowAny(v), Parties: c.parties, Party: c.parties.self}
	fail := func(err error) (*Workload, error) {
		return nil, fmt.Errorf("compiling workload %s/%s: %w", v.Self.Namespace, v.Self.Name, err)
	}
	var err error
	if err := c.clusters(); err != nil {
		return fail(err)
	}
	if w.Program, err = c.program(); err != nil {
		return fail(err)
	}
	if w.Tokens, err = c.tokens(); err != nil {
		return fail(err)
	}
	if err := c.listeners(w); err != nil {
		return fail(err)
	}
	w.RouteLimits = c.limited
	w.Clusters, w.Warnings = c.finish()
	w.Reserved = newReserved(v, w)
	return w, nil
}

// listeners makes what takes calls: of a pod by where they were made to, else by the sockets that a Sidecar names.
func (c *compiler) listeners(w *Workload) (err error) {
	if c.view.Self.Pod {
		return c.capture(w)
	}
	if w.Inbound, err = c.inbound(); err != nil {
		return err
	}
	if w.Outbound, err = c.outbound(); err != nil {
		return err
	}
	return c.ofSidecar(distinct(w))
}

// ofSidecar blames the Sidecar, where there is one.
func (c *compiler) ofSidecar(err error) error {
	if c.view.Sidecar == nil || err == nil {
		return err
	}
	return of(&c.view.Sidecar.Meta, "spec", err)
}

func allowAny(v *mesh.View) bool {
	if v.Sidecar != nil && v.Sidecar.Spec.GetOutboundTrafficPolicy() != nil {
		return v.Sidecar.Spec.OutboundTrafficPolicy.Mode == allowAnyMode
	}
	return v.Mesh.AllowAny
}

// distinct refuses two listeners on one address.
func distinct(w *Workload) error {
	seen := map[netip.AddrPort]string{}
	add := func(a netip.AddrPort, what string) error {
		if was, ok := seen[a]; ok {
			return fmt.Errorf("%s and %s listener both bind %s", was, what, a)
		}
		seen[a] = what
		return nil
	}
	for i := range w.Inbound {
		if err := add(w.Inbound[i].Bind, "ingress"); err != nil {
			return err
		}
	}
	for i := range w.Outbound {
		if err := add(w.Outbound[i].Bind, "egress "+w.Outbound[i].Kind.String()); err != nil {
			return err
		}
	}
	return nil
}
