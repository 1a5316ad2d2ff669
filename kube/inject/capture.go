package inject

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// trafficPrefix begins Istio's annotations of capture.
const trafficPrefix = "traffic.sidecar.istio.io/"

// maxListEntries is how many ports or ranges one list may have.
const maxListEntries = 1024

// captureList is one list of Capture: its name as Istio writes it, the flag of `signet-proxy capture`, what it holds.
type captureList struct {
	name, flag string
	value      **string
	ports      bool
}

// lists are the lists of c, in the order of the flags.
func (c *Capture) lists() []captureList {
	return []captureList{
		{"includeOutboundPorts", "--include-outbound-ports", &c.IncludeOutboundPorts, true},
		{"excludeOutboundPorts", "--exclude-outbound-ports", &c.ExcludeOutboundPorts, true},
		{"includeOutboundIPRanges", "--include-outbound-ranges", &c.IncludeOutboundIPRanges, false},
		{"excludeOutboundIPRanges", "--exclude-outbound-ranges", &c.ExcludeOutboundIPRanges, false},
		{"includeInboundPorts", "--include-inbound-ports", &c.IncludeInboundPorts, true},
		{"excludeInboundPorts", "--exclude-inbound-ports", &c.ExcludeInboundPorts, true},
	}
}

// check judges all lists; name gives the name that an error calls a list by.
func (c *Capture) check(name func(string) string) error {
	for _, l := range c.lists() {
		if *l.value == nil {
			continue
		}
		clean, err := l.parse(**l.value)
		if err != nil {
			return fmt.Errorf("%s: %w", name(l.name), err)
		}
		*l.value = &clean
	}
	return nil
}

// parse returns the list without blanks.
func (l *captureList) parse(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", nil
	}
	entries := strings.Split(s, ",")
	if len(entries) > maxListEntries {
		return "", fmt.Errorf("%d entries, more than %d", len(entries), maxListEntries)
	}
	for i, e := range entries {
		e = strings.TrimSpace(e)
		entries[i] = e
		switch {
		case e == "*" && len(entries) > 1:
			return "", fmt.Errorf(`"*" stands alone`)
		case e == "*" && strings.HasPrefix(l.name, "exclude") && !l.ports:
			return "", fmt.Errorf(`%q: want addresses or CIDR ranges`, e)
		case e == "*":
		case l.ports:
			if n, err := strconv.ParseUint(e, 10, 16); err != nil || n == 0 {
				return "", fmt.Errorf("%q is no port: want 1 to 65535, separated by commas", e)
			}
		default:
			if err := checkRange(e); err != nil {
				return "", err
			}
		}
	}
	return strings.Join(entries, ","), nil
}

func checkRange(s string) error {
	if _, err := netip.ParsePrefix(s); err == nil {
		return nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return nil
	}
	return fmt.Errorf("%q is no address and no CIDR range", s)
}

// over is c with what annotations say on top.
func (c Capture) over(annotations map[string]string) (Capture, error) {
	for _, l := range c.lists() {
		if v, ok := annotations[trafficPrefix+l.name]; ok {
			*l.value = &v
		}
	}
	err := c.check(func(name string) string { return "annotation " + trafficPrefix + name })
	return c, err
}

// args are the arguments of `signet-proxy capture`.
func (c Capture) args(dns bool) []string {
	args := []string{"capture"}
	for _, l := range c.lists() {
		if *l.value != nil {
			args = append(args, l.flag+"="+**l.value)
		}
	}
	if dns {
		args = append(args, "--dns")
	}
	return args
}
