package judge

import (
	"net/netip"
	"strings"

	"github.com/signet-mesh/signet/proxy"
)

// forwardedFor is the client's address by X-Forwarded-For: the last one that none of our own proxies wrote, so that
// trusted addresses are skipped from the right (Envoy's xff_num_trusted_hops without use_remote_address). Repeated
// fields are one list. The zero value stands for absent, too short and malformed alike.
func forwardedFor(h *proxy.Head, trusted int) netip.Addr {
	total := 0
	for at := 0; ; {
		v, next, ok := h.HeaderValue("x-forwarded-for", at)
		if !ok {
			break
		}
		total += strings.Count(v, ",") + 1
		at = next
	}
	wanted := total - 1 - trusted
	if trusted < 0 || wanted < 0 {
		return netip.Addr{}
	}
	for at := 0; ; {
		v, next, ok := h.HeaderValue("x-forwarded-for", at)
		if !ok {
			return netip.Addr{}
		}
		if n := strings.Count(v, ",") + 1; wanted >= n {
			wanted -= n
			at = next
			continue
		}
		for range wanted {
			_, v, _ = strings.Cut(v, ",")
		}
		v, _, _ = strings.Cut(v, ",")
		a, err := netip.ParseAddr(strings.Trim(v, " \t"))
		if err != nil || a.Zone() != "" {
			return netip.Addr{}
		}
		return a.Unmap()
	}
}
