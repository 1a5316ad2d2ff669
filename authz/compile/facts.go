package compile

import (
	"net/netip"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
)

// facts is one judgement's view of a connection and its request. It lives on the stack of Judge.
type facts struct {
	// wide is true while DENY, AUDIT and CUSTOM rules are judged: in doubt they match. ALLOW rules in doubt don't.
	wide bool

	principal, namespace, name, trustDomain, sni string

	source, remote, destination netip.Addr
	port                        uint16

	// canonical and decoded are the readings of the path, path the one in use (the decoded one if second is true);
	// ambiguous says that they differ.
	canonical, decoded, path string
	ambiguous, second        bool
	method                   string
	// authority is as the request has it.
	authority string
	headers   authz.Headers
	token     *jwt.Token
}

func (f *facts) read(c *authz.Connection, r *authz.Request) {
	id := c.Peer.ID
	f.principal, f.namespace, f.name, f.trustDomain = id.Principal(), id.Namespace(), id.ServiceAccount(), id.TrustDomain()
	f.source, f.destination = c.SourceIP.Unmap(), c.DestinationIP.Unmap()
	f.port, f.sni = c.DestinationPort, c.SNI
	f.remote = f.source
	if r == nil {
		return
	}
	f.canonical, f.decoded = r.Path, r.DecodedPath
	if f.decoded == "" {
		f.decoded = f.canonical
	}
	f.ambiguous = f.canonical != f.decoded
	f.method, f.authority, f.headers, f.token = r.Method, r.Host, r.Headers, r.Token
	if r.RemoteIP.IsValid() {
		f.remote = r.RemoteIP.Unmap()
	}
}

// hosts are the further readings of the authority: without its port, and without trailing dots as well.
func (f *facts) hosts() (portless, dotless string) {
	portless = withoutPort(f.authority)
	return portless, strings.TrimRight(portless, ".")
}

// withoutPort is a host without what follows its last ':', unless that is part of an IPv6 address.
func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		return host[:i]
	}
	return host
}

func (f *facts) address(a attribute) netip.Addr {
	switch a {
	case sourceIP:
		return f.source
	case remoteIP:
		return f.remote
	default:
		return f.destination
	}
}

func (f *facts) text(a attribute) string {
	switch a {
	case principal:
		return f.principal
	case namespace:
		return f.namespace
	case trustDomain:
		return f.trustDomain
	case sni:
		return f.sni
	case method:
		return f.method
	case path:
		return f.path
	case authority:
		return f.authority
	}
	return ""
}
