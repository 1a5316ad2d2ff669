package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ip6OriginalDst is IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h; the IPv4 option has the same number.
const ip6OriginalDst = 80

// Original is the address that a captured connection was made to (SO_ORIGINAL_DST). Of a connection that was not captured
// it is the local address.
func Original(c *net.TCPConn) (netip.AddrPort, error) {
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", err)
	}
	var out netip.AddrPort
	var asked error
	ask := original4
	if local.Addr().Is6() {
		ask = original6
	}
	if err := raw.Control(func(fd uintptr) { out, asked = ask(int(fd)) }); err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", err)
	}
	switch {
	case asked == nil:
		return out, nil
	case errors.Is(asked, unix.ENOENT), errors.Is(asked, unix.ENOPROTOOPT), errors.Is(asked, unix.EOPNOTSUPP):
		return local, nil // conntrack does not know it, or is not there
	}
	return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", asked)
}

// original4 reads a sockaddr_in through the option whose type in x/sys is big enough for it: ipv6_mreq has 20 bytes, the
// first 16 of which the kernel fills.
func original4(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := m.Multiaddr // family 2, port 2, address 4
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// original6 reads a sockaddr_in6 through ip6_mtuinfo, which begins with one.
func original6(fd int) (netip.AddrPort, error) {
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, ip6OriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], m.Addr.Port) // as it lies in memory: network order
	return netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), binary.BigEndian.Uint16(port[:])), nil
}
