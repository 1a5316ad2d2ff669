// Package capture leads a pod's traffic through its sidecar without touching the programs in it: nftables rules written
// through netlink, and the address that a captured connection was made to.
package capture

import "net/netip"

// The ports of a sidecar in a pod; Istio's, so that firewalls and dashboards fit.
const (
	AdminPort    = 15000 // loopback only: status, why, pprof
	OutboundPort = 15001
	InboundPort  = 15006
	MetricsPort  = 15020 // metrics (the program's merged in), health, rewritten probes
	ReadyPort    = 15021
	DNSPort      = 15053
)

// UID is the user that a sidecar runs as; its own traffic is left alone.
const UID = 1337

// Passthrough4 and Passthrough6 are the addresses from which a sidecar calls its own pod's programs: such connections are
// not captured again.
var (
	Passthrough4 = netip.AddrFrom4([4]byte{127, 0, 0, 6})
	Passthrough6 = netip.AddrFrom16([16]byte{15: 6})
)
