package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := Parse(Annotated{IncludeOutboundPorts: " 443,80 ,80,", ExcludeOutboundPorts: "5432", IncludeOutboundRanges: "10.1.2.3/8,fd00::1/8,192.0.2.7",
		ExcludeOutboundRanges: "10.9.0.0/16", IncludeInboundPorts: "*", ExcludeInboundPorts: ""})
	if err != nil {
		t.Fatal(err)
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("fd00::/8")}
	if !slices.Equal(got.IncludeOutboundPorts.List, []uint16{80, 443}) || !slices.Equal(got.IncludeOutboundRanges.List, ranges) ||
		!got.IncludeInboundPorts.All || got.ExcludeInboundPorts.All || len(got.ExcludeInboundPorts.List) > 0 {
		t.Errorf("%+v", got)
	}
	if d, err := Parse(Default()); err != nil || !d.IncludeOutboundRanges.All || !d.IncludeInboundPorts.All || d.IncludeOutboundPorts.All {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestParseRefuses(t *testing.T) {
	many := strings.Builder{}
	for i := range MaxPorts + 1 {
		fmt.Fprintf(&many, "%d,", i+1)
	}
	for _, c := range []struct {
		in   Annotated
		want string
	}{
		{Annotated{IncludeOutboundPorts: "0"}, `includeOutboundPorts: "0": want a port from 1 to 65535`},
		{Annotated{ExcludeOutboundPorts: "80,http"}, `excludeOutboundPorts: "http": want a port`},
		{Annotated{ExcludeInboundPorts: "65536"}, `excludeInboundPorts: "65536"`},
		{Annotated{ExcludeInboundPorts: "+80"}, `excludeInboundPorts: "+80"`},
		{Annotated{ExcludeInboundPorts: "8000-8010"}, `"8000-8010"`},
		{Annotated{ExcludeInboundPorts: "*"}, `excludeInboundPorts: "*": "*" has no meaning here`},
		{Annotated{IncludeInboundPorts: "*,80"}, `exclude each other`},
		{Annotated{IncludeInboundPorts: many.String()}, `1001 ports: the limit is 1000`},
		{Annotated{IncludeOutboundRanges: "10.0.0.0/33"}, `includeOutboundIPRanges: "10.0.0.0/33": want a CIDR range`},
		{Annotated{IncludeOutboundRanges: "::ffff:10.0.0.0/104"}, `"::ffff:10.0.0.0/104"`},
		{Annotated{ExcludeOutboundRanges: "fe80::1%eth0"}, `"fe80::1%eth0"`},
		{Annotated{ExcludeOutboundRanges: "*"}, `excludeOutboundIPRanges: "*"`},
	} {
		if _, err := Parse(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60v: %v, want %q", c.in, err, c.want)
		}
	}
}
