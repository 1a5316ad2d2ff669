package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is the name of ours, one for each family; what else the namespace has is left alone.
const table = "signet"

// socketBytes is how much the netlink socket may hold: MaxPorts and MaxRanges times their rules, and the kernel's answer to
// each.
const socketBytes = 8 << 20

// Install makes the rules those of the network namespace that the process is in, in place of what an earlier Install left:
// in one transaction, so that there is no moment without them and nothing changes on an error. IPv6 is left out where the
// namespace has none. Connections that are open go on as they are.
func Install(r Rules) error {
	six, err := hasIPv6()
	if err != nil {
		return fmt.Errorf("writing capture rules: %w", err)
	}
	if six {
		if err := addPassthrough6(); err != nil {
			return fmt.Errorf("writing capture rules: adding %s to the loopback interface: %w", Passthrough6, err)
		}
	}
	err = write(r, families(six), true)
	if r.DNS && errors.Is(err, unix.EOPNOTSUPP) { // a kernel without conntrack zones
		err = write(r, families(six), false)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("writing capture rules: the container must run as uid 0 with the capability NET_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("writing capture rules: does the node's kernel have nf_tables with NAT? %w", err)
	}
	return nil
}

// hasIPv6 reports whether an interface has an IPv6 address.
func hasIPv6() (bool, error) {
	b, err := os.ReadFile("/proc/net/if_inet6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(b)) != "", err
}

// addPassthrough6 makes ::6 an address of this host. All of 127.0.0.0/8 is anyway, but of IPv6 only ::1.
func addPassthrough6() error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	address := Passthrough6.AsSlice()
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.IFA_LOCAL, Data: address}, {Type: unix.IFA_ADDRESS, Data: address},
	})
	if err != nil {
		return err
	}
	// ifaddrmsg: family, prefix length, flags, scope, index of the interface; lo is always the first of its namespace.
	head := []byte{unix.AF_INET6, 128, unix.IFA_F_NODAD, unix.RT_SCOPE_HOST, 0, 0, 0, 0}
	head[4] = 1
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWADDR, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Replace},
		Data:   append(head, attributes...),
	})
	return err
}

// write replaces the tables of all families in one transaction.
func write(r Rules, fs []family, zones bool) error {
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Beyond the system's limit only with NET_ADMIN of the first user namespace; a few hundred rules fit without.
		_ = c.SetWriteBuffer(socketBytes)
		_ = c.SetReadBuffer(socketBytes)
		return nil
	}))
	if err != nil {
		return err
	}
	for _, f := range fs {
		// Deleting what is not there fails, adding what is there does not: so both.
		t := c.AddTable(&nftables.Table{Family: f.nft, Name: table})
		c.DelTable(t)
		c.AddTable(t)
		b := &builder{c: c, f: f, t: t}
		b.inbound(r)
		b.outbound(r)
		if r.DNS && zones {
			b.zones()
		}
	}
	return c.Flush()
}

// family is what differs between IPv4 and IPv6.
type family struct {
	nft         nftables.TableFamily
	source      uint32 // offset in the network header; the destination follows it
	bits        int
	loopback    netip.Prefix
	passthrough netip.Addr
}

// families are those that rules are written for.
func families(six bool) []family {
	out := []family{{nftables.TableFamilyIPv4, 12, 32, netip.MustParsePrefix("127.0.0.0/8"), Passthrough4}}
	if six {
		out = append(out, family{nftables.TableFamilyIPv6, 8, 128, netip.MustParsePrefix("::1/128"), Passthrough6})
	}
	return out
}
