// Package route holds the immutable route tables of the outbound corridor: which virtual host an authority names, which
// of its routes a request takes, and what that route asks for (destinations, rewrite, redirect, retries, header
// operations). It is the compiled form of Istio's VirtualService; nothing in it does I/O or reads a clock.
//
// What depends on the workload alone (gateways, sourceLabels, sourceNamespace, match port) is resolved before a table is
// built: a table is made for one listener of one workload.
package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// MaxHostBytes is the longest host that is looked up (RFC 1035 section 2.3.4 allows 253 and a trailing dot); a longer one
// is unknown.
const MaxHostBytes = 254

// VirtualHost is one (host, port) of the mesh with its routes in order. Immutable once it is in a Table.
type VirtualHost struct {
	// Host is an exact name, "*.suffix", or "*" for any.
	Host string
	Port uint16
	// HTTP says that the port is declared HTTP. Where it is false only CONNECT (Tunnel) may be used.
	HTTP bool
	// Detect says that the port declares nothing: the first bytes of a connection say whether it is HTTP (HTTP is true then).
	Detect bool
	// Routes are tried in order; the first that matches wins.
	Routes []*Route
	// Tunnel is where a CONNECT to this host and port goes: TCP over mTLS. Empty refuses CONNECT.
	Tunnel []Weighted
	// Service names the host in metrics, also when a route answers by itself. May be nil.
	Service *proxy.Destination
}

// Table finds the virtual host of an authority. Immutable; safe for concurrent use. The nil *Table knows no host.
type Table struct {
	exact    map[string][]*VirtualHost // lower-case host -> its ports
	suffixes map[string][]*VirtualHost // ".x" of "*.x" -> its ports
	any      []*VirtualHost            // "*"
	size     int
}

// NewTable builds a table. A host and port that come twice are an error that names both, and so are a host longer than
// MaxHostBytes, an empty one, and a '*' anywhere but alone or as the whole first label.
func NewTable(hosts []*VirtualHost) (*Table, error) {
	t := &Table{exact: make(map[string][]*VirtualHost, len(hosts)), suffixes: map[string][]*VirtualHost{}, size: len(hosts)}
	for _, v := range hosts {
		host := strings.TrimSuffix(strings.ToLower(v.Host), ".")
		var err error
		switch {
		case host == "*":
			t.any, err = addPort(t.any, v)
		case host == "" || len(host) > MaxHostBytes:
			return nil, fmt.Errorf("building route table: host %q must have 1 to %d bytes", v.Host, MaxHostBytes)
		case strings.HasPrefix(host, "*.") && !strings.Contains(host[1:], "*") && len(host) > 2:
			t.suffixes[host[1:]], err = addPort(t.suffixes[host[1:]], v)
		case strings.Contains(host, "*"):
			return nil, fmt.Errorf("building route table: host %q: '*' may only be the whole first label", v.Host)
		default:
			t.exact[host], err = addPort(t.exact[host], v)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func addPort(ports []*VirtualHost, v *VirtualHost) ([]*VirtualHost, error) {
	if byPort(ports, v.Port) != nil {
		return nil, fmt.Errorf("building route table: host %q has port %d twice", v.Host, v.Port)
	}
	return append(ports, v), nil
}

func byPort(ports []*VirtualHost, port uint16) *VirtualHost {
	for _, v := range ports {
		if v.Port == port {
			return v
		}
	}
	return nil
}

// Len is how many virtual hosts the table holds.
func (t *Table) Len() int {
	if t == nil {
		return 0
	}
	return t.size
}

// Lookup finds the virtual host that an authority ("host" or "host:port") names: the exact host, else the longest
// wildcard "*.x", else "*", each only if it has the port asked for. The case of the host and one trailing dot don't
// matter. An authority without a port means defaultPort. It allocates nothing, and its cost grows with the labels of the
// host, not with the table.
func (t *Table) Lookup(authority string, defaultPort uint16) (*VirtualHost, bool) {
	if t == nil {
		return nil, false
	}
	host, port, ok := SplitAuthority(authority, defaultPort)
	if !ok || len(host) > MaxHostBytes {
		return nil, false
	}
	var buf [MaxHostBytes]byte
	lower := buf[:len(host)]
	for i := range len(host) {
		lower[i] = lowerASCII(host[i])
	}
	if n := len(lower); n > 0 && lower[n-1] == '.' {
		lower = lower[:n-1]
	}
	if len(lower) == 0 {
		return nil, false
	}
	if v := byPort(t.exact[string(lower)], port); v != nil {
		return v, true
	}
	if len(t.suffixes) > 0 {
		for i := 1; i < len(lower); i++ { // a wildcard stands for at least one byte
			if lower[i] != '.' {
				continue
			}
			if v := byPort(t.suffixes[string(lower[i:])], port); v != nil {
				return v, true
			}
		}
	}
	v := byPort(t.any, port)
	return v, v != nil
}

// SplitAuthority splits "host", "host:port", "[v6]" or "[v6]:port" strictly; a missing port is defaultPort. The brackets of
// an IPv6 literal are not part of the host it returns. ok is false for an empty host, a malformed or zero port, and user
// information ('@').
func SplitAuthority(authority string, defaultPort uint16) (host string, port uint16, ok bool) {
	host, port = authority, defaultPort
	rest := ""
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return "", 0, false
		}
		host, rest = authority[1:end], authority[end+1:]
		if rest != "" && rest[0] != ':' {
			return "", 0, false
		}
	} else if i := strings.IndexByte(authority, ':'); i >= 0 {
		host, rest = authority[:i], authority[i:]
	}
	if host == "" || strings.IndexByte(host, '@') >= 0 {
		return "", 0, false
	}
	if rest != "" {
		if port, ok = parsePort(rest[1:]); !ok {
			return "", 0, false
		}
	}
	return host, port, true
}

func parsePort(s string) (uint16, bool) {
	if s == "" || len(s) > 5 {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return uint16(n), n > 0 && n <= 65535
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Hosts are the virtual hosts by host and port, for the admin page. The caller must not change them.
func (t *Table) Hosts() []*VirtualHost {
	if t == nil {
		return nil
	}
	out := slices.Clone(t.any)
	for _, m := range []map[string][]*VirtualHost{t.exact, t.suffixes} {
		for _, ports := range m {
			out = append(out, ports...)
		}
	}
	slices.SortFunc(out, func(a, b *VirtualHost) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	return out
}
