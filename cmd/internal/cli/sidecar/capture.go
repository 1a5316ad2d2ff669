package sidecar

import (
	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/proxy/capture"
)

// captureCommand is the init container of a pod.
func captureCommand() *cobra.Command {
	written := capture.Default()
	var dns bool
	c := &cobra.Command{
		Use:   "capture",
		Short: "Lead a pod's traffic through its sidecar",
		Long: `Write the nftables rules that lead the traffic of this network namespace through the sidecar in it. It runs as
the init container of a pod, as uid 0 with the capability NET_ADMIN, and changes nothing but the tables named
signet; running it again replaces them in one step.

Lists are separated by commas; * means all where it says so, an empty value means none. They have the meaning of
Istio's annotations traffic.sidecar.istio.io/*. The sidecar's own ports and traffic are always left alone.

Exit codes: 0 done, 1 a failure, 2 a mistake in a flag.`,
		Example: `  signet-proxy capture --exclude-outbound-ports 5432 --exclude-inbound-ports 9090`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			rules, err := capture.Parse(written)
			if err != nil {
				return cli.Mistake(err)
			}
			rules.DNS = dns
			return capture.Install(rules)
		},
	}
	f := c.Flags()
	f.StringVar(&written.IncludeOutboundPorts, "include-outbound-ports", written.IncludeOutboundPorts, "ports led through the sidecar wherever they go to, or *")
	f.StringVar(&written.ExcludeOutboundPorts, "exclude-outbound-ports", written.ExcludeOutboundPorts, "ports of other hosts that are left alone")
	f.StringVar(&written.IncludeOutboundRanges, "include-outbound-ranges", written.IncludeOutboundRanges, "CIDR ranges led through the sidecar, or *")
	f.StringVar(&written.ExcludeOutboundRanges, "exclude-outbound-ranges", written.ExcludeOutboundRanges, "CIDR ranges that are left alone")
	f.StringVar(&written.IncludeInboundPorts, "include-inbound-ports", written.IncludeInboundPorts, "ports of this pod that the sidecar stands in front of, or *")
	f.StringVar(&written.ExcludeInboundPorts, "exclude-inbound-ports", written.ExcludeInboundPorts, "ports of this pod that are left alone")
	f.BoolVar(&dns, "dns", false, "lead DNS queries through the sidecar")
	return c
}
