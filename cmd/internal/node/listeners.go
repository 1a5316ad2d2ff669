package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/signet-mesh/signet/cmd/internal/compile"
)

// running is a listener with the end of its life.
type running[T any] struct {
	value T
	addr  string
	ln    net.Listener
	stop  context.CancelFunc
}

// end closes the socket, now, so that its address is free, and lets what is in flight drain.
func (r *running[T]) end() {
	r.stop()
	_ = r.ln.Close() // its Run may have been quicker
}

// open opens every socket that w needs and that is not open yet.
func (c *corridors) open(w *compile.Workload) (map[netip.AddrPort]net.Listener, error) {
	opened := map[netip.AddrPort]net.Listener{}
	in, out, metrics := c.needs(w)
	in = slices.DeleteFunc(in, func(at netip.AddrPort) bool { return c.in[at] != nil })
	out = slices.DeleteFunc(out, func(at netip.AddrPort) bool { return c.out[at] != nil })
	metrics = slices.DeleteFunc(metrics, func(at netip.AddrPort) bool { return c.metrics != nil && c.metrics.addr == at.String() })
	need := slices.Concat(in, out, metrics)
	for _, addr := range need {
		ln, err := c.listen(addr)
		if err != nil {
			for _, o := range opened {
				o.Close()
			}
			return nil, err
		}
		opened[addr] = ln
	}
	return opened, nil
}

// listen opens a listener. An address that this sidecar itself listens on, in another role, is handed over without being
// closed in between.
func (c *corridors) listen(addr netip.AddrPort) (net.Listener, error) {
	var held net.Listener
	switch {
	case c.in[addr] != nil:
		held = c.in[addr].ln
	case c.lingering[addr] != nil:
		held = c.lingering[addr].ln
	case c.out[addr] != nil:
		held = c.out[addr].ln
	case c.metrics != nil && c.metrics.addr == addr.String():
		held = c.metrics.ln
	case c.n.cfg.Pod != nil:
		return listenCaptured(addr)
	default:
		return listen(addr.String())
	}
	file, err := held.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("taking listener %s over: %w", addr, err)
	}
	defer file.Close()
	return net.FileListener(file)
}

// prune stops the listeners that no configuration names any more; they drain by themselves.
func prune[T any](all map[netip.AddrPort]*running[T], keep map[netip.AddrPort]bool) {
	for addr, r := range all {
		if !keep[addr] {
			r.end()
			delete(all, addr)
		}
	}
}

// start runs a listener until its stop is called.
func (c *corridors) start(run func(context.Context) error) context.CancelFunc {
	ctx, cancel := context.WithCancel(c.n.life)
	c.inFlight.Go(func() {
		if err := run(ctx); err != nil {
			c.n.cfg.Log.Error("listener ended", "error", err)
		}
	})
	return cancel
}
