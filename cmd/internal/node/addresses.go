package node

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy/capture"
)

// addressesAfter is how long the interfaces are not asked again for an address that they did not have.
const addressesAfter = time.Second

// addresses are a pod's: those that Kubernetes knows, and those of its interfaces, all of which are captured. A network that
// Kubernetes does not know (Multus) may give the pod one later.
type addresses struct {
	pod  []netip.Addr
	list func() ([]net.Addr, error) // net.InterfaceAddrs

	interfaces atomic.Pointer[[]netip.Addr]
	mu         sync.Mutex
	asked      time.Time // guarded by mu
}

func newAddresses(pod []netip.Addr) *addresses {
	return &addresses{pod: unmapped(pod), list: net.InterfaceAddrs}
}

// own reports whether an address is the pod's. Loopback addresses are not: they mean the host that says them.
func (a *addresses) own(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if slices.Contains(a.pod, addr) {
		return true
	}
	if now := a.interfaces.Load(); now != nil && slices.Contains(*now, addr) {
		return true
	}
	return slices.Contains(a.ask(), addr)
}

// ask lists the interfaces' addresses anew, or gives those of a moment ago.
func (a *addresses) ask() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.interfaces.Load()
	if last != nil && time.Since(a.asked) < addressesAfter {
		return *last
	}
	listed, err := a.list()
	a.asked = time.Now()
	if err != nil && last != nil {
		return *last
	}
	out := []netip.Addr{}
	for _, l := range listed {
		n, ok := l.(*net.IPNet)
		if !ok {
			continue
		}
		addr, _ := netip.AddrFromSlice(n.IP)
		if addr = addr.Unmap(); !addr.IsLoopback() && addr != capture.Passthrough6 {
			out = append(out, addr)
		}
	}
	a.interfaces.Store(&out)
	return out
}
