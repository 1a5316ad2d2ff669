package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of what annotations may name.
const (
	MaxPorts  = 1000
	MaxRanges = 1000
)

// Ports is a list of ports, or all of them. The zero Ports is none.
type Ports struct {
	All  bool
	List []uint16 // sorted, each once; empty where All is set
}

// Ranges is a list of address ranges, or all of them. The zero Ranges is none.
type Ranges struct {
	All  bool
	List []netip.Prefix // masked, sorted, each once; empty where All is set
}

// Rules say what of a pod's traffic is led through its sidecar. Each field means what Istio's annotation
// traffic.sidecar.istio.io/ of that name means. Rules are made by Parse or Default.
type Rules struct {
	// IncludeOutboundPorts are led through the sidecar wherever they go to, beside what IncludeOutboundRanges names.
	IncludeOutboundPorts Ports
	// ExcludeOutboundPorts are left alone, whatever else is said.
	ExcludeOutboundPorts Ports
	// IncludeOutboundRanges are the destinations that are led through the sidecar.
	IncludeOutboundRanges Ranges
	// ExcludeOutboundRanges are left alone; they win over both inclusions.
	ExcludeOutboundRanges Ranges
	// IncludeInboundPorts are the program's ports in front of which the sidecar stands.
	IncludeInboundPorts Ports
	// ExcludeInboundPorts are left alone, beside the sidecar's own ports.
	ExcludeInboundPorts Ports
	// DNS leads every DNS query of the programs to the sidecar.
	DNS bool
}

// Annotated are the annotations as they are written: comma lists, "*" where that has a meaning, "" for none.
type Annotated struct {
	IncludeOutboundPorts, ExcludeOutboundPorts   string
	IncludeOutboundRanges, ExcludeOutboundRanges string
	IncludeInboundPorts, ExcludeInboundPorts     string
}

// Default are the annotations' values where there are none.
func Default() Annotated { return Annotated{IncludeOutboundRanges: "*", IncludeInboundPorts: "*"} }

// annotation is the prefix under which people know these values; errors name them by it.
const annotation = "traffic.sidecar.istio.io/"

// Parse judges the annotations' values. Its errors name the annotation and the value.
func Parse(a Annotated) (Rules, error) {
	var r Rules
	for _, p := range []struct {
		name, text string
		star       bool
		into       *Ports
	}{
		{"includeOutboundPorts", a.IncludeOutboundPorts, true, &r.IncludeOutboundPorts},
		{"excludeOutboundPorts", a.ExcludeOutboundPorts, false, &r.ExcludeOutboundPorts},
		{"includeInboundPorts", a.IncludeInboundPorts, true, &r.IncludeInboundPorts},
		{"excludeInboundPorts", a.ExcludeInboundPorts, false, &r.ExcludeInboundPorts},
	} {
		ports, err := ParsePorts(p.text, p.star)
		if err != nil {
			return Rules{}, fmt.Errorf("reading %s%s: %w", annotation, p.name, err)
		}
		*p.into = ports
	}
	for _, p := range []struct {
		name, text string
		star       bool
		into       *Ranges
	}{
		{"includeOutboundIPRanges", a.IncludeOutboundRanges, true, &r.IncludeOutboundRanges},
		{"excludeOutboundIPRanges", a.ExcludeOutboundRanges, false, &r.ExcludeOutboundRanges},
	} {
		ranges, err := ParseRanges(p.text, p.star)
		if err != nil {
			return Rules{}, fmt.Errorf("reading %s%s: %w", annotation, p.name, err)
		}
		*p.into = ranges
	}
	return r, nil
}

// ParsePorts reads a comma list of ports; "*" means all where star allows it, "" means none.
func ParsePorts(text string, star bool) (Ports, error) {
	var out Ports
	words, all, err := split(text, star, "ports")
	if err != nil || all {
		return Ports{All: all}, err
	}
	if len(words) > MaxPorts {
		return Ports{}, fmt.Errorf("%d ports: the limit is %d", len(words), MaxPorts)
	}
	for _, w := range words {
		n, err := strconv.ParseUint(w, 10, 16)
		if err != nil || n == 0 || w[0] == '+' {
			return Ports{}, fmt.Errorf("%q: want a port from 1 to 65535", w)
		}
		out.List = append(out.List, uint16(n))
	}
	slices.Sort(out.List)
	out.List = slices.Compact(out.List)
	return out, nil
}

// ParseRanges reads a comma list of CIDR ranges; "*" means all where star allows it, "" means none.
func ParseRanges(text string, star bool) (Ranges, error) {
	var out Ranges
	words, all, err := split(text, star, "ranges")
	if err != nil || all {
		return Ranges{All: all}, err
	}
	if len(words) > MaxRanges {
		return Ranges{}, fmt.Errorf("%d ranges: the limit is %d", len(words), MaxRanges)
	}
	for _, w := range words {
		p, err := netip.ParsePrefix(w)
		if a, e := netip.ParseAddr(w); e == nil && a.Zone() == "" { // one address, as iptables takes it
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() {
			return Ranges{}, fmt.Errorf("%q: want a CIDR range such as 10.0.0.0/8 or fd00::/8", w)
		}
		out.List = append(out.List, p.Masked())
	}
	slices.SortFunc(out.List, netip.Prefix.Compare)
	out.List = slices.Compact(out.List)
	return out, nil
}

// split cuts a comma list. Empty elements are skipped, as Istio does.
func split(text string, star bool, what string) (words []string, all bool, err error) {
	for w := range strings.SplitSeq(text, ",") {
		switch w = strings.TrimSpace(w); {
		case w == "":
		case w == "*":
			all = true
		default:
			words = append(words, w)
		}
	}
	switch {
	case all && !star:
		return nil, false, fmt.Errorf("%q: \"*\" has no meaning here; list the %s", text, what)
	case all && len(words) > 0:
		return nil, false, fmt.Errorf("%q: \"*\" and %s exclude each other", text, what)
	}
	return words, all, nil
}
