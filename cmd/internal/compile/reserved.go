package compile

import (
	"net/netip"

	"github.com/signet-mesh/signet/mesh"
)

// The range of ports that Istio, and Signet with it, keeps for the mesh itself.
const (
	firstMeshPort = 15000
	lastMeshPort  = 15099
)

// MeshPort reports whether a port is of that range.
func MeshPort(port uint16) bool { return port >= firstMeshPort && port <= lastMeshPort }

// Reserved says where an HTTP_PROXY listener never lets a caller go. Immutable; safe for concurrent use. The nil
// *Reserved forbids everything.
type Reserved struct {
	hosts map[netip.Addr]struct{}     // the addresses of workloads, whose mesh ports are forbidden
	exact map[netip.AddrPort]struct{} // the mesh's own listeners
}

func newReserved(v *mesh.View, w *Workload) *Reserved {
	r := &Reserved{hosts: map[netip.Addr]struct{}{}, exact: map[netip.AddrPort]struct{}{}}
	for _, p := range append([]*mesh.Workload{v.Self}, v.Peers...) {
		for _, a := range p.Addresses() {
			r.hosts[a.Unmap()] = struct{}{}
		}
	}
	for i := range w.Outbound {
		r.exact[unmapped(w.Outbound[i].Bind)] = struct{}{}
	}
	return r
}

// With is the same and the given listeners besides: those of the control plane, or of the process itself.
func (r *Reserved) With(own ...netip.AddrPort) *Reserved {
	out := &Reserved{hosts: r.hosts, exact: make(map[netip.AddrPort]struct{}, len(r.exact)+len(own))}
	for a := range r.exact {
		out.exact[a] = struct{}{}
	}
	for _, a := range own {
		out.exact[unmapped(a)] = struct{}{}
	}
	return out
}

// Forbids judges an address that a caller's host resolved to: unspecified, link-local (cloud metadata at 169.254.169.254
// among it) and multicast addresses, the metadata services of AWS (IPv6), Alibaba and Oracle, the mesh's own listeners,
// and ports 15000 to 15099 on loopback and on the addresses of workloads.
func (r *Reserved) Forbids(a netip.AddrPort) bool {
	if r == nil || !a.IsValid() || a.Port() == 0 {
		return true
	}
	a = unmapped(a)
	if in, ok := embedded(a.Addr()); ok {
		a = netip.AddrPortFrom(in, a.Port())
	}
	ip := a.Addr()
	if ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || isMetadata(ip) {
		return true
	}
	if _, ok := r.exact[a]; ok {
		return true
	}
	if _, ok := r.exact[netip.AddrPortFrom(anyOf(ip), a.Port())]; ok && r.local(ip) {
		return true
	}
	return MeshPort(a.Port()) && r.local(ip)
}

// local reports whether an address is loopback or a workload's.
func (r *Reserved) local(ip netip.Addr) bool {
	_, ok := r.hosts[ip]
	return ok || ip.IsLoopback()
}

func anyOf(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func isMetadata(ip netip.Addr) bool {
	switch ip.WithZone("") {
	case netip.AddrFrom4([4]byte{100, 100, 100, 200}), netip.AddrFrom4([4]byte{192, 0, 0, 192}),
		netip.AddrFrom16([16]byte{0xfd, 0, 0x0e, 0xc2, 14: 0x02, 15: 0x54}):
		return true
	}
	return false
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// embedded is the IPv4 address that a translator would take out of an IPv6 one: NAT64 (RFC 6052, the well-known prefix
// 64:ff9b::/96 and the local 64:ff9b:1::/48 with a 96-bit prefix), 6to4 (RFC 3056) and the IPv4-compatible form (RFC 4291).
func embedded(ip netip.Addr) (netip.Addr, bool) {
	if !ip.Is6() || ip.IsUnspecified() || ip.IsLoopback() {
		return netip.Addr{}, false
	}
	b := ip.As16()
	switch {
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case [4]byte(b[:4]) == [4]byte{0, 0x64, 0xff, 0x9b}, [12]byte(b[:12]) == [12]byte{}:
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.Addr{}, false
}
