package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy/capture"
	"github.com/signet-mesh/signet/proxy/inbound"
	"github.com/signet-mesh/signet/proxy/outbound"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// demandTime is how long a first call to a name waits for the control plane's answer.
const demandTime = time.Second

// maxDemands bounds the calls that wait at a time.
const maxDemands = 1000

// captor is what a pod's corridors have in place of addresses to bind: one port for each, on every address, and the way to learn
// where a connection was made to. Tests have others.
type captor struct {
	inbound, outbound uint16
	original          func(*net.TCPConn) (netip.AddrPort, error)
	// own reports whether an address is the pod's.
	own func(netip.Addr) bool
}

func newCaptor(pod *Pod) captor {
	c := captor{inbound: capture.InboundPort, outbound: capture.OutboundPort, original: capture.Original}
	if pod != nil {
		c.own = newAddresses(pod.Addresses).own
	}
	return c
}

// wildcards are where a pod's listener of that port binds: IPv4, and IPv6 where the kernel has it, as capture leads it here also in
// a pod to which Kubernetes gave no address of it. Each family has its own socket, so that a connection's addresses are of its
// family.
func wildcards(port uint16) []netip.AddrPort {
	out := []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), port)}
	if hasIPv6() {
		out = append(out, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	}
	return out
}

// hasIPv6 asks the kernel.
func hasIPv6() bool {
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	if err == nil {
		_ = syscall.Close(fd)
	}
	return !errors.Is(err, syscall.EAFNOSUPPORT)
}

// listenCaptured opens one of them.
func listenCaptured(at netip.AddrPort) (net.Listener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	ln, err := net.Listen(network, at.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("opening listener %s: a program of the pod has the port, which is the sidecar's; it is tried again until that is gone: %w", at, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening listener %s: %w", at, err)
	}
	return ln, nil
}

// needs lists the sockets of a configuration, those of its inbound and of its outbound listeners, and the metrics' where this
// is where they are served.
func (c *corridors) needs(w *compile.Workload) (in, out, metrics []netip.AddrPort) {
	if c.n.cfg.Pod != nil {
		return wildcards(c.captor.inbound), wildcards(c.captor.outbound), nil
	}
	for i := range w.Inbound {
		in = append(in, w.Inbound[i].Bind)
	}
	for i := range w.Outbound {
		out = append(out, w.Outbound[i].Bind)
	}
	return in, out, []netip.AddrPort{c.metricsAddr(w)}
}

// swapCaptured puts a configuration of a pod in force. mu is held.
func (c *corridors) swapCaptured(w *compile.Workload, clusters map[string]*upstream.Cluster, opened map[netip.AddrPort]net.Listener) {
	in := &inbound.Captured{Ports: make(map[uint16]*inbound.Config, len(w.Inbound)), Rest: inboundConfig(w, &w.Capture.Rest, clusters),
		Own: c.captor.own, Original: c.captor.original}
	for i := range w.Inbound {
		in.Ports[w.Inbound[i].Bind.Port()] = inboundConfig(w, &w.Inbound[i], clusters)
	}
	for _, at := range wildcards(c.captor.inbound) {
		if r := c.in[at]; r != nil {
			r.value.SwapCaptured(in)
			continue
		}
		l := inbound.NewCaptured(opened[at], c.n.rotator, c.n.recorder, in)
		c.serving.Add(1)
		stop := c.start(func(ctx context.Context) error {
			defer c.serving.Done()
			return l.Run(ctx)
		})
		c.in[at] = &running[*inbound.Listener]{value: l, addr: at.String(), ln: opened[at], stop: stop}
	}
	out := c.outboundConfig(w, &w.Outbound[0], clusters)
	out.Kind, out.Capture = outbound.Captured, c.captured(w)
	for _, at := range wildcards(c.captor.outbound) {
		if r := c.out[at]; r != nil {
			r.value.Swap(out)
			continue
		}
		l := outbound.New(opened[at], c.n.recorder, out)
		c.out[at] = &running[*outbound.Listener]{value: l, addr: at.String(), ln: opened[at], stop: c.start(l.Run)}
	}
}

// captured is what a pod's outbound listener runs besides.
func (c *corridors) captured(w *compile.Workload) *outbound.Capture {
	pod := c.n.cfg.Pod
	out := &outbound.Capture{Addresses: w.Capture.Addresses, Hosts: w.Capture.Hosts, Asked: w.Capture.Asked, Own: c.captor.own,
		Namespace: pod.Namespace, ClusterDomain: pod.ClusterDomain, Detection: w.Settings.ProtocolDetectionTimeout, Original: c.captor.original}
	if w.Capture.Asked != nil {
		out.Demand = demander{c.n}
		out.Uses, out.UsesAt = c.n.uses(w.Capture.Asked)
	}
	c.uses = out.Uses
	return out
}

// uses are where the use of what was asked for is noted, by Answer.UsedAs, and of addresses; none before there is a client.
func (n *Node) uses(answers map[string]mesh.Answer) (map[string]*mesh.LastUse, map[netip.Addr]*mesh.LastUse) {
	n.mu.Lock()
	client := n.ads
	n.mu.Unlock()
	if client == nil {
		return nil, nil
	}
	by, at := client.Uses(answers), map[netip.Addr]*mesh.LastUse{}
	for name, answer := range answers {
		if a, err := netip.ParseAddr(name); err == nil {
			at[a] = by[answer.UsedAs(name)]
		}
	}
	return by, at
}

func unmapped(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap().WithZone("")
	}
	return out
}

// demander is the node as the outbound corridor asks it.
type demander struct{ n *Node }

// Demand implements outbound.Demander.
func (d demander) Demand(ctx context.Context, name string) error { return d.n.demand(ctx, name) }

var (
	errAway = errors.New("there is no connection to the control plane")
	errLate = fmt.Errorf("the control plane did not answer within %v", demandTime)
	errBusy = fmt.Errorf("%d calls wait for its answers already", maxDemands)
)

// demand waits until a configuration runs that says what a host (lower case) or an IP address means, demandTime at most. nil
// also where everything is known, or the name was answered before.
func (n *Node) demand(ctx context.Context, name string) error {
	n.mu.Lock()
	client := n.ads
	n.mu.Unlock()
	if client == nil {
		return n.corridors.demand(ctx, nobody{}, name)
	}
	return n.corridors.demand(ctx, client, name)
}

// asker is the control plane as demand needs it; *adsclient.Client is one.
type asker interface {
	Ask(names ...string)
	Connected() bool
}

// nobody is asked before there is a client.
type nobody struct{}

func (nobody) Ask(...string)   {}
func (nobody) Connected() bool { return false }

func (c *corridors) demand(ctx context.Context, client asker, name string) error {
	if c.answered(name) {
		return nil
	}
	if !client.Connected() {
		return errAway
	}
	defer c.waiting.Add(-1)
	if c.waiting.Add(1) > maxDemands {
		return errBusy
	}
	late := time.NewTimer(demandTime)
	defer late.Stop()
	for {
		applied := c.changed() // before looking, so that no answer is missed
		if c.answered(name) {
			return nil
		}
		client.Ask(name)
		select {
		case <-applied:
		case <-late.C:
			return errLate
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answered reports whether what runs knows what a name means. That is a use of the name.
func (c *corridors) answered(name string) bool {
	c.mu.Lock()
	w, uses := c.running, c.uses
	c.mu.Unlock()
	if w == nil || w.Capture == nil {
		return false
	}
	answer, ok := w.Capture.Asked[name]
	uses[answer.UsedAs(name)].Touch()
	return ok || w.Capture.Asked == nil
}

// leave asks callers to go elsewhere, while they are still served.
func (c *corridors) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.in {
		r.value.Leave()
	}
}

// stopServing ends a pod's inbound listeners and waits for what they serve: it may still call out.
func (c *corridors) stopServing() {
	if c.n.cfg.Pod == nil {
		return
	}
	c.leave()
	c.mu.Lock()
	prune(c.in, nil)
	c.served = true
	c.mu.Unlock()
	c.serving.Wait()
}
