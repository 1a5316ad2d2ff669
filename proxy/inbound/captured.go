package inbound

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/socket"
)

// Captured is what the inbound listener of a pod runs: every connection to the pod is led to it, and where it was made to
// decides. Immutable; a new one is swapped in by pointer.
type Captured struct {
	// Ports are the ports that something is said of, Rest is for all others.
	Ports map[uint16]*Config
	Rest  *Config
	// Own reports whether an address is the pod's. A connection that was made to another is refused: the sidecar leads to its own
	// program only.
	Own func(netip.Addr) bool
	// Original is where a captured connection was made to.
	Original func(*net.TCPConn) (netip.AddrPort, error)
}

// NewCaptured builds the listener of a pod on an open socket; Run serves it.
func NewCaptured(ln net.Listener, src certs.Source, rec proxy.Recorder, c *Captured) *Listener {
	return build(ln, src, rec, &doors{captured: c})
}

// SwapCaptured is Swap for the listener of a pod.
func (l *Listener) SwapCaptured(c *Captured) { l.swap(&doors{captured: c}) }

// doors is what a listener runs: one port's configuration, or those of all ports of a pod.
type doors struct {
	one      *Config
	captured *Captured
}

// at is what runs for a port.
func (d *doors) at(port uint16) *Config {
	if d.one != nil {
		return d.one
	}
	if c := d.captured.Ports[port]; c != nil {
		return c
	}
	return d.captured.Rest
}

// stricter reports whether what goes on under old is to be judged again.
func (d *doors) stricter(old *doors) bool {
	differ := func(a, b *Config) bool { return a.Judge.Program != b.Judge.Program || a.Mode != b.Mode }
	if d.one != nil {
		return differ(d.one, old.one)
	}
	for port := range d.captured.Ports {
		if differ(d.at(port), old.at(port)) {
			return true
		}
	}
	for port := range old.captured.Ports {
		if differ(d.at(port), old.at(port)) {
			return true
		}
	}
	return differ(d.captured.Rest, old.captured.Rest)
}

// Why a connection to the listener of a pod is refused.
const (
	reasonNotCaptured = "not_captured" // it was made to the listener itself
	reasonNotOurs     = "not_this_pod" // it was made to an address that is not the pod's
)

// original learns where a connection was made to. One that was not led here would make the sidecar call itself, and one made
// elsewhere would make it a way into other pods.
func (c *Captured) original(raw net.Conn, s *session) bool {
	here := s.local
	to, err := netip.AddrPort{}, error(nil)
	if t := socket.TCP(raw); t != nil {
		to, err = c.Original(t)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	switch {
	case err != nil || !to.IsValid():
		s.l.rec.Refused(s.local, s.remote, reasonNotCaptured, err)
		return false
	case to == here || to.Port() == here.Port():
		s.l.rec.Refused(s.local, s.remote, reasonNotCaptured, nil)
		return false
	case !c.Own(to.Addr()):
		s.l.rec.Refused(s.local, s.remote, reasonNotOurs, fmt.Errorf("%s is no address of this pod", to.Addr()))
		return false
	}
	s.local = to
	return true
}
