package adsclient

import (
	"errors"
	"fmt"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// errResync says that what is held and what the server believes is held have come apart.
var errResync = errors.New("what is held is not what the server believes; all of it is fetched anew")

// held is what the proxy holds, and what it runs on. It does no I/O.
type held struct {
	node, trustDomain string
	apply             func(*mesh.View) error

	set *adswire.Set
	// generation is the one that was applied, "" before the first.
	generation string
	// marker is what that generation's said; set may have gone on since.
	marker adswire.Marker
	// incomplete: a response of the generation under way was refused.
	incomplete bool
}

// versions are what the subscription to a type says is held.
func (h *held) versions(typ string) map[string]string {
	if typ == adswire.GenerationType {
		if h.generation == "" {
			return nil
		}
		return map[string]string{adswire.GenerationName: h.generation}
	}
	return h.set.Versions(typ)
}

// take adds a response of resources. Its error refuses the response, none of which is held then.
func (h *held) take(r *discovery.DeltaDiscoveryResponse) error {
	changed := make([]adswire.Resource, 0, len(r.GetResources()))
	for _, w := range r.GetResources() {
		parsed, err := adswire.Parse(r.GetTypeUrl(), w, h.trustDomain)
		if err != nil {
			h.incomplete = true
			return err
		}
		changed = append(changed, parsed)
	}
	next, err := h.set.With(r.GetTypeUrl(), changed, r.GetRemovedResources())
	if err != nil {
		h.incomplete = true
		return err
	}
	h.set = next
	return nil
}

// mark ends a generation: what is held becomes what the proxy runs on. Its error refuses the generation; errResync
// empties what is held (not what runs).
func (h *held) mark(r *discovery.DeltaDiscoveryResponse) error {
	incomplete := h.incomplete
	h.incomplete = false
	if len(r.GetResources()) != 1 {
		return fmt.Errorf("%s: %d resources, not one", adswire.GenerationType, len(r.GetResources()))
	}
	m, err := adswire.ParseMarker(r.GetResources()[0])
	if err != nil {
		return err
	}
	if m.TrustDomain != h.trustDomain || m.Self != h.node {
		return fmt.Errorf("%s: it is that of %q in trust domain %q, not of %q in %q",
			adswire.GenerationType, m.Self, m.TrustDomain, h.node, h.trustDomain)
	}
	if err := h.set.Check(m); err != nil {
		if incomplete {
			return fmt.Errorf("a part was refused: %w", err)
		}
		h.set = &adswire.Set{}
		return fmt.Errorf("%w: %w", errResync, err)
	}
	view, err := h.set.View(m)
	if err != nil {
		return err
	}
	if err := h.apply(view); err != nil {
		return fmt.Errorf("applying: %w", err)
	}
	h.generation, h.marker = m.Generation(), m
	return nil
}
