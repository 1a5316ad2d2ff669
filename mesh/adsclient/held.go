package adsclient

import (
	"crypto/x509"
	"encoding/base64"
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
	trust             func([]*x509.Certificate) error // nil for nobody

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

// fits reports whether what is held can be said when subscribing.
func (h *held) fits() bool {
	said := 0
	for _, typ := range append(adswire.Types(), adswire.HostType, adswire.GenerationType) {
		for name, version := range h.versions(typ) {
			said += adswire.VersionBytes(name, version)
		}
	}
	return said <= adswire.MaxRequestBytes
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
	if err := h.trusted(m.Roots); err != nil {
		return fmt.Errorf("%s: %w", adswire.GenerationType, err)
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

// trusted hands on the roots of a marker, whatever becomes of its generation: peers may show certificates under them soon.
func (h *held) trusted(roots []string) error {
	if h.trust == nil || len(roots) == 0 {
		return nil
	}
	certs := make([]*x509.Certificate, len(roots))
	for i, text := range roots {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return fmt.Errorf("reading root %d: %w", i, err)
		}
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("reading root %d: %w", i, err)
		}
	}
	return h.trust(certs)
}
