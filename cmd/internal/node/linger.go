package node

import (
	"net/netip"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/proxy/inbound"
	"github.com/signet-mesh/signet/proxy/judge"
)

// lingerTime is how long an inbound listener that the configuration no longer names serves on: callers may be a moment
// behind, and their requests still go there.
const lingerTime = 300 * time.Millisecond

// lingerer is an inbound listener on its way out.
type lingerer struct {
	*running[*inbound.Listener]
	config *inbound.Config
}

// pruneInbound lets the listeners that no configuration names any more linger, unless another role needs their address
// now. mu is held.
func (c *corridors) pruneInbound(keep, needed map[netip.AddrPort]bool) {
	for addr, r := range c.in {
		if keep[addr] {
			continue
		}
		delete(c.in, addr)
		if needed[addr] {
			r.end()
			continue
		}
		l := &lingerer{running: r, config: c.inConfig[addr]}
		c.lingering[addr] = l
		time.AfterFunc(lingerTime, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.lingering[addr] == l {
				c.endLingering(addr)
			}
		})
	}
	for addr := range c.inConfig {
		if c.in[addr] == nil {
			delete(c.inConfig, addr)
		}
	}
}

// judgeLingering puts the listeners on their way out under the policies of now, and ends those whose address is used again.
// mu is held.
func (c *corridors) judgeLingering(w *compile.Workload) {
	for addr, l := range c.lingering {
		if c.in[addr] != nil || c.out[addr] != nil {
			c.endLingering(addr)
			continue
		}
		config := *l.config
		config.Judge = judge.New(w.Settings, w.Program, w.Tokens)
		l.value.Swap(&config)
		l.config = &config
	}
}

// endLingering ends one. mu is held.
func (c *corridors) endLingering(addr netip.AddrPort) {
	c.lingering[addr].end()
	delete(c.lingering, addr)
}
