package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// clusterLocal in a principal points to the mesh's own trust domain, whatever its name.
const clusterLocal = "cluster.local"

// expand writes a principal of this mesh once for each name of its trust domain. Principals of other trust domains, and
// those that leave theirs open (*), stay as they are. A trust domain with a leading '*' stays for the names it matches.
func (o *Options) expand(value string) []string {
	td, rest, ok := strings.Cut(value, "/")
	if !ok || td == "*" || o.TrustDomain == "" {
		return []string{value}
	}
	names := func(own string) bool {
		if tail, open := strings.CutPrefix(td, "*"); open {
			return strings.HasSuffix(own, tail)
		}
		return own == td
	}
	if td != clusterLocal && !names(o.TrustDomain) && !slices.ContainsFunc(o.Aliases, names) {
		return []string{value}
	}
	out := make([]string, 0, 1+len(o.Aliases))
	for i := -1; i < len(o.Aliases); i++ {
		own := o.TrustDomain
		if i >= 0 {
			own = o.Aliases[i]
		}
		v := own + "/" + rest
		if names(own) {
			v = value
		}
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// parseBlock reads an address or a CIDR block.
func parseBlock(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an IP address or CIDR block", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address or CIDR block", s)
	}
	if a := n.Addr(); a.Is4In6() {
		if n.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q is not an IP address or CIDR block", s)
		}
		n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
	}
	return n.Masked(), nil
}

// parseAccount reads NAMESPACE/NAME, or NAME in the policy's own namespace.
func parseAccount(s, own string) (serviceAccount, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok {
		ns, name = own, s
	}
	if ns == "" || name == "" || strings.ContainsAny(name, "/") {
		return serviceAccount{}, fmt.Errorf("%q is not NAMESPACE/SERVICEACCOUNT or SERVICEACCOUNT", s)
	}
	if strings.Contains(s, "*") {
		return serviceAccount{}, fmt.Errorf("%q: a service account takes no '*'", s)
	}
	return serviceAccount{ns, name}, nil
}

// key reads the key of a condition into what its clause looks at.
func key(k string) (c clause, err error) {
	switch k {
	case "source.ip":
		return clause{attr: sourceIP}, nil
	case "source.namespace":
		return clause{attr: namespace}, nil
	case "source.serviceAccount":
		return clause{attr: account}, nil
	case "source.principal":
		return clause{attr: principal}, nil
	case "source.trustDomain":
		return clause{attr: trustDomain}, nil
	case "remote.ip":
		return clause{attr: remoteIP}, nil
	case "destination.ip":
		return clause{attr: destinationIP}, nil
	case "destination.port":
		return clause{attr: destinationPort}, nil
	case "connection.sni":
		return clause{attr: sni}, nil
	case "request.auth.principal":
		return clause{attr: requestPrincipal}, nil
	case "request.auth.audiences":
		return clause{attr: audiences}, nil
	case "request.auth.presenter":
		return clause{attr: presenter}, nil
	}
	if name, ok := strings.CutPrefix(k, "request.headers["); ok && strings.HasSuffix(name, "]") {
		c.attr, c.name, err = headerKey(strings.ToLower(name[:len(name)-1]))
		return c, err
	}
	if names, ok := strings.CutPrefix(k, "request.auth.claims"); ok {
		c.attr = claim
		c.claim, err = claimKey(k, names)
		return c, err
	}
	return clause{}, fmt.Errorf("%q is not a supported attribute", k)
}

// headerKey maps the pseudo-headers Envoy shows as headers, and refuses what never reaches a policy as a header: framing
// and hop-by-hop fields.
func headerKey(name string) (attribute, string, error) {
	switch name {
	case "":
		return 0, "", errors.New("request.headers[] names no header")
	case "host", ":authority":
		return authority, "", nil
	case ":method":
		return method, "", nil
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
		"transfer-encoding", "upgrade", "content-length", "expect":
		return 0, "", fmt.Errorf("request.headers[%s] is not supported: the field belongs to the connection or the framing", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return 0, "", fmt.Errorf("request.headers[%s]: %q is not the name of a header", name, name)
		}
	}
	return header, name, nil
}
