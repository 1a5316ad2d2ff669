package route

import (
	"cmp"
	"net/netip"
	"slices"
)

// Addresses finds what a captured connection was made to by its original destination. Immutable once it is used; safe for
// concurrent use. The nil *Addresses knows nothing.
type Addresses struct {
	// Complete says that an address that is not found means nothing to the mesh; else that is so of those that Answered and Own
	// named.
	Complete bool

	exact    map[netip.AddrPort]*VirtualHost
	any      map[netip.Addr]*VirtualHost // whatever the port
	known    map[netip.Addr]bool         // true: no range has it
	prefixes []block                     // longest first
}

// block is a range of addresses at one port.
type block struct {
	in   netip.Prefix
	port uint16
	host *VirtualHost
}

// NewAddresses makes an empty table, to be filled before it is used.
func NewAddresses() *Addresses {
	return &Addresses{exact: map[netip.AddrPort]*VirtualHost{}, any: map[netip.Addr]*VirtualHost{}, known: map[netip.Addr]bool{}}
}

// Add enters a virtual host at one port of a range of addresses. Whoever comes first has the address: it is returned, nil where
// the address was free. Of the other ports of the address, and of addresses in the range, nothing is said by that.
func (a *Addresses) Add(in netip.Prefix, port uint16, v *VirtualHost) *VirtualHost {
	in = netip.PrefixFrom(in.Addr().Unmap().WithZone(""), in.Bits()).Masked()
	if in.IsSingleIP() {
		at := netip.AddrPortFrom(in.Addr(), port)
		if have := a.exact[at]; have != nil {
			return have
		}
		a.exact[at] = v
		return nil
	}
	for i := range a.prefixes {
		if b := &a.prefixes[i]; b.in == in && b.port == port {
			return b.host
		}
	}
	a.prefixes = append(a.prefixes, block{in, port, v})
	slices.SortStableFunc(a.prefixes, func(x, y block) int { return cmp.Compare(y.in.Bits(), x.in.Bits()) })
	return nil
}

// AddHost enters a virtual host at all ports of an address that nothing else is entered for. The address is owned.
func (a *Addresses) AddHost(at netip.Addr, v *VirtualHost) {
	at = at.Unmap().WithZone("")
	if a.any[at] == nil {
		a.any[at] = v
	}
	a.known[at] = true
}

// Answered says that all that the mesh has at an address was entered.
func (a *Addresses) Answered(at netip.Addr) {
	at = at.Unmap().WithZone("")
	if !a.known[at] {
		a.known[at] = false
	}
}

// Own says it too, of an address that is one Service's or one pod's: no range has it.
func (a *Addresses) Own(at netip.Addr) { a.known[at.Unmap().WithZone("")] = true }

// Owned reports whether Own or AddHost named an address.
func (a *Addresses) Owned(at netip.Addr) bool { return a.known[at.Unmap().WithZone("")] }

// Lookup finds the virtual host at an address: the one with exactly that address and port, else the one that has all ports of
// the address, else, of an address that nobody owns, the smallest range that holds it at that port. known is true of an address
// of which all that the mesh has is entered: without a virtual host it means nothing. It allocates nothing.
func (a *Addresses) Lookup(to netip.AddrPort) (v *VirtualHost, known bool) {
	if a == nil {
		return nil, false
	}
	if v := a.exact[to]; v != nil {
		return v, true
	}
	ip := to.Addr()
	if v := a.any[ip]; v != nil {
		return v, true
	}
	owned, known := a.known[ip]
	if owned || !known && !a.Complete { // who has an address that was not asked for is not known: a pod may
		return nil, known
	}
	for i := range a.prefixes {
		if b := &a.prefixes[i]; b.port == to.Port() && b.in.Contains(ip) {
			return b.host, true
		}
	}
	return nil, true
}
