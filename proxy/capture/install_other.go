//go:build !linux

package capture

import (
	"errors"
	"net"
	"net/netip"
)

// Install needs Linux.
func Install(Rules) error { return errors.New("writing capture rules: they need Linux") }

// Original is the local address: nothing is captured here.
func Original(c *net.TCPConn) (netip.AddrPort, error) {
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), nil
}
