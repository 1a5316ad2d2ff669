// Package dns answers the DNS queries of a pod's programs for what only the mesh knows: hosts of ServiceEntries, with the
// addresses that they name or, where they name none, with addresses that are assigned here and mean something in this pod
// only. Everything else goes to the pod's own resolvers.
package dns

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Ranges from which addresses are assigned: Istio's 240.240.0.0/16 of the reserved class E, and 2001:2::/48, which is for
// benchmarks (RFC 5180). Neither is ever routed.
var (
	range4 = netip.MustParsePrefix("240.240.0.0/16")
	range6 = netip.MustParsePrefix("2001:2::/48")
)

// assignable is how many hosts can have an address: the last 16 bits, without all zeros and all ones.
const assignable = 1<<16 - 2

// Assigner remembers which address a host has. The zero Assigner is empty. Its owner serialises calls.
type Assigner struct {
	byHost map[string]uint16
	taken  map[uint16]string
}

// Assign gives each host an IPv4 and an IPv6 address. The same hosts get the same addresses wherever and whenever it is asked:
// the address is a hash of the host, and of hosts with the same hash the first by name gets it and the others the next free.
// Hosts beyond the size of the range get none.
func Assign(hosts []string) map[string][2]netip.Addr { return new(Assigner).Assign(hosts) }

// Assign is as the function of that name; hosts that got an address before keep it as long as each call names them.
func (a *Assigner) Assign(hosts []string) map[string][2]netip.Addr {
	wanted := map[string]bool{}
	for _, h := range hosts {
		wanted[strings.ToLower(h)] = true
	}
	if a.byHost == nil {
		a.byHost, a.taken = map[string]uint16{}, map[uint16]string{}
	}
	for h, n := range a.byHost {
		if !wanted[h] {
			delete(a.byHost, h)
			delete(a.taken, n)
		}
	}
	out := make(map[string][2]netip.Addr, len(wanted))
	for _, h := range slices.Sorted(maps.Keys(wanted)) {
		n, ok := a.place(h)
		if ok {
			out[h] = [2]netip.Addr{nth(range4, n), nth(range6, n)}
		}
	}
	return out
}

// place is the number of a host, a new one by linear probing where it has none.
func (a *Assigner) place(host string) (uint16, bool) {
	if n, ok := a.byHost[host]; ok {
		return n, true
	}
	if len(a.byHost) >= assignable {
		return 0, false
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(host))
	for n := sum.Sum32() % assignable; ; n = (n + 1) % assignable {
		number := uint16(n + 1)
		if _, used := a.taken[number]; !used {
			a.byHost[host], a.taken[number] = number, host
			return number, true
		}
	}
}

// nth is the address with that number in a range whose last 16 bits are free.
func nth(p netip.Prefix, n uint16) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(n>>8), byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}
