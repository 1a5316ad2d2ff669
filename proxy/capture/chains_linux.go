package capture

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// register is the one that every expression uses.
const register = 1

// adminPorts are the sidecar's own ports, in front of which nothing stands. 15090 is that of Istio's Envoy: dashboards may
// still ask there, and are told at once that nobody listens.
var ownPorts = [...]uint16{AdminPort, OutboundPort, InboundPort, MetricsPort, ReadyPort, DNSPort, 15090}

// builder adds the rules of one family to a transaction. Each base chain is read from the top; the first verdict counts.
type builder struct {
	c     *nftables.Conn
	f     family
	t     *nftables.Table
	chain *nftables.Chain
}

func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) {
	b.chain = b.c.AddChain(&nftables.Chain{Name: name, Table: b.t, Type: kind, Hooknum: hook, Priority: priority})
}

func (b *builder) rule(parts ...[]expr.Any) {
	r := &nftables.Rule{Table: b.t, Chain: b.chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	b.c.AddRule(r)
}

// inbound are the rules for what comes to the pod.
func (b *builder) inbound(r Rules) {
	b.base("inbound", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	for _, p := range ownPorts {
		b.rule(tcp(), destPort(expr.CmpOpEq, p), leave())
	}
	for _, p := range r.ExcludeInboundPorts.List {
		b.rule(tcp(), destPort(expr.CmpOpEq, p), leave())
	}
	if r.IncludeInboundPorts.All {
		b.rule(tcp(), redirect(InboundPort))
	}
	for _, p := range r.IncludeInboundPorts.List {
		b.rule(tcp(), destPort(expr.CmpOpEq, p), redirect(InboundPort))
	}
}

// outbound are the rules for what the pod's processes send.
func (b *builder) outbound(r Rules) {
	b.base("outbound", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	for _, p := range r.ExcludeOutboundPorts.List {
		b.rule(tcp(), destPort(expr.CmpOpEq, p), leave())
		b.rule(udp(), destPort(expr.CmpOpEq, p), leave())
	}
	// What the sidecar sends to its own pod's programs.
	b.rule(loopback(), b.sourceIs(b.f.passthrough), leave())
	// The sidecar calls a service that this pod serves: such a call arrives as any other, in front of the policies. The rest of
	// what stays on the host is nobody's business, save queries to a resolver there.
	notDNS := []expr.Any{}
	if r.DNS {
		notDNS = destPort(expr.CmpOpNeq, 53)
	}
	b.rule(tcp(), loopback(), b.dest(expr.CmpOpNeq, b.f.loopback), owner(expr.MetaKeySKUID, expr.CmpOpEq), notDNS, redirect(InboundPort))
	b.rule(tcp(), loopback(), owner(expr.MetaKeySKUID, expr.CmpOpNeq), notDNS, leave())
	// The sidecar's own.
	b.rule(owner(expr.MetaKeySKUID, expr.CmpOpEq), leave())
	b.rule(owner(expr.MetaKeySKGID, expr.CmpOpEq), leave())
	if r.DNS {
		b.rule(udp(), destPort(expr.CmpOpEq, 53), redirect(DNSPort))
		b.rule(tcp(), destPort(expr.CmpOpEq, 53), redirect(DNSPort))
	}
	b.rule(tcp(), b.dest(expr.CmpOpEq, b.f.loopback), leave())
	for _, p := range b.ours(r.ExcludeOutboundRanges) {
		b.rule(tcp(), b.dest(expr.CmpOpEq, p), leave())
	}
	if r.IncludeOutboundPorts.All || r.IncludeOutboundRanges.All {
		b.rule(tcp(), redirect(OutboundPort))
		return
	}
	for _, p := range r.IncludeOutboundPorts.List {
		b.rule(tcp(), destPort(expr.CmpOpEq, p), redirect(OutboundPort))
	}
	for _, p := range b.ours(r.IncludeOutboundRanges) {
		b.rule(tcp(), b.dest(expr.CmpOpEq, p), redirect(OutboundPort))
	}
}

// Conntrack zones keep apart the programs' queries and the sidecar's: a socket of the sidecar may get the source port that a
// program's query had a moment ago, and conntrack, which remembers that query as one to be redirected, would lead the
// sidecar's to itself.
const (
	zoneSidecar  = 1
	zonePrograms = 2
)

func (b *builder) zones() {
	b.base("zones-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	b.rule(udp(), destPort(expr.CmpOpEq, 53), owner(expr.MetaKeySKUID, expr.CmpOpEq), zone(zoneSidecar), leave())
	b.rule(udp(), destPort(expr.CmpOpEq, 53), owner(expr.MetaKeySKGID, expr.CmpOpEq), zone(zoneSidecar), leave())
	b.rule(udp(), sourcePort(DNSPort), owner(expr.MetaKeySKUID, expr.CmpOpEq), zone(zonePrograms), leave())
	b.rule(udp(), destPort(expr.CmpOpEq, 53), zone(zonePrograms))
	b.base("zones-in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	b.rule(udp(), sourcePort(53), zone(zoneSidecar))
}

// ours are the ranges of this family.
func (b *builder) ours(r Ranges) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range r.List {
		if p.Addr().BitLen() == b.f.bits {
			out = append(out, p)
		}
	}
	return out
}

func (b *builder) sourceIs(a netip.Addr) []expr.Any {
	return b.address(b.f.source, expr.CmpOpEq, netip.PrefixFrom(a, a.BitLen()))
}

func (b *builder) dest(op expr.CmpOp, p netip.Prefix) []expr.Any {
	return b.address(b.f.source+uint32(b.f.bits/8), op, p)
}

func (b *builder) address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	size := uint32(b.f.bits / 8)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: register, Data: p.Masked().Addr().AsSlice()},
	}
}

func tcp() []expr.Any { return transport(unix.IPPROTO_TCP) }
func udp() []expr.Any { return transport(unix.IPPROTO_UDP) }

func transport(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protocol}},
	}
}

// destPort and sourcePort stand behind tcp or udp, in whose headers the ports have the same place.
func destPort(op expr.CmpOp, port uint16) []expr.Any { return portAt(2, op, port) }
func sourcePort(port uint16) []expr.Any              { return portAt(0, expr.CmpOpEq, port) }

func portAt(offset uint32, op expr.CmpOp, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: op, Register: register, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

// loopback is what leaves through the loopback interface: all that goes to an address of this host.
func loopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: name},
	}
}

// owner compares the user or the group of the socket with the sidecar's.
func owner(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: op, Register: register, Data: binary.NativeEndian.AppendUint32(nil, UID)},
	}
}

// leave ends the chain: the packet goes where it goes.
func leave() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }

func redirect(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

func zone(n uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binary.NativeEndian.AppendUint16(nil, n)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: register, SourceRegister: true},
	}
}
