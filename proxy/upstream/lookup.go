package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// resolvConf says whom to ask for names (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// lookup asks the host's name servers for the addresses of a name: IPv4 ones where this host has a way to them and the name
// has any, else IPv6 ones. The package's own resolver would do, but does not say how long an answer is good for; it is asked
// where there is nothing to read in /etc/resolv.conf, and for names of /etc/hosts.
func lookup(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil || len(conf.Servers) == 0 {
		return lookupSystem(ctx, host)
	}
	var last error
	for _, family := range families() {
		for _, fqdn := range conf.NameList(host) {
			addrs, ttl, err := query(ctx, conf, fqdn, family)
			if len(addrs) > 0 {
				return addrs, ttl, nil
			}
			last = errors.Join(last, err)
		}
	}
	if addrs, ttl, err := lookupSystem(ctx, host); err == nil {
		return addrs, ttl, nil
	}
	return nil, 0, errors.Join(fmt.Errorf("resolving %q: no address", host), last)
}

func lookupSystem(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return addrs, 0, err
}

// families are the record types to ask for, in order of preference: those of the protocols that this host has a route for,
// both where it has none. Nothing is sent to learn that.
func families() []uint16 {
	var out []uint16
	for _, f := range []struct {
		network, address string
		record           uint16
	}{{"udp4", "192.0.2.1:53", dns.TypeA}, {"udp6", "[2001:db8::1]:53", dns.TypeAAAA}} {
		if c, err := net.Dial(f.network, f.address); err == nil {
			_ = c.Close()
			out = append(out, f.record)
		}
	}
	if len(out) == 0 {
		return []uint16{dns.TypeA, dns.TypeAAAA}
	}
	return out
}

// query asks one server after the other, over TCP where the answer does not fit a datagram.
func query(ctx context.Context, conf *dns.ClientConfig, fqdn string, record uint16) ([]netip.Addr, time.Duration, error) {
	m := new(dns.Msg)
	m.SetQuestion(fqdn, record)
	var last error
	for _, server := range conf.Servers {
		at := net.JoinHostPort(server, conf.Port)
		c := dns.Client{Timeout: 2 * time.Second}
		answer, _, err := c.ExchangeContext(ctx, m, at)
		if err == nil && answer.Truncated {
			c.Net = "tcp"
			answer, _, err = c.ExchangeContext(ctx, m, at)
		}
		switch {
		case err != nil:
			last = err
		case answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError:
			addrs, ttl := addresses(answer)
			return addrs, ttl, nil
		default:
			last = fmt.Errorf("resolving %q: %s answers %s", fqdn, at, dns.RcodeToString[answer.Rcode])
		}
	}
	return nil, 0, last
}

// addresses are those of an answer, and the shortest time that a record on the way to them is good for.
func addresses(answer *dns.Msg) (out []netip.Addr, ttl time.Duration) {
	for _, rr := range answer.Answer {
		if t := time.Duration(rr.Header().Ttl) * time.Second; ttl == 0 || t < ttl {
			ttl = t
		}
		var ip net.IP
		switch r := rr.(type) {
		case *dns.A:
			ip = r.A
		case *dns.AAAA:
			ip = r.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a.Unmap())
		}
	}
	return out, ttl
}
