package adsclient

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/signet-mesh/signet/mesh/adswire"
)

// Store keeps the last configuration that was applied over restarts. It is used from Run's goroutine only.
type Store interface {
	// Load gives what was saved last, nil when nothing was.
	Load() ([]byte, error)
	// Save replaces it at once: after a crash Load gives the old or the new, never a mixture.
	Save([]byte) error
}

// MaxStoredBytes bounds what a Store is given: the resources, and what frames them.
const MaxStoredBytes = adswire.MaxSetBytes + adswire.MaxSetBytes/8

// resume runs on what the store holds, so that a proxy that starts while the control plane is away has its last good
// configuration. It is read and judged as if it came from the control plane.
func (c *Client) resume() {
	if c.cfg.Store == nil {
		return
	}
	b, err := c.cfg.Store.Load()
	if err == nil && b != nil {
		err = c.held.decode(b)
	}
	switch {
	case err != nil:
		c.cfg.Log.Warn("stored configuration is not used; waiting for the control plane", "error", err)
	case b != nil:
		c.state.applied(c.held.generation)
		c.cfg.Log.Info("running on the stored configuration until the control plane sends its own", "generation", c.held.generation)
	}
}

// keep saves what was just applied. Without a disk the proxy goes on.
func (c *Client) keep() {
	if c.cfg.Store == nil {
		return
	}
	b, err := c.held.encode()
	if err == nil {
		err = c.cfg.Store.Save(b)
	}
	if err != nil {
		c.cfg.Log.Error("storing the configuration failed; a restart would need the control plane", "error", err)
	}
}

// encode writes what the proxy runs on, right after it was applied, as the responses that would bring it to a proxy that holds nothing, the marker
// last, each preceded by its length (protodelim).
func (h *held) encode() ([]byte, error) {
	steps, err := adswire.Steps(nil, h.set, h.marker)
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	var out bytes.Buffer
	for _, s := range steps {
		r := &discovery.DeltaDiscoveryResponse{TypeUrl: s.Type}
		for _, changed := range s.Changed {
			r.Resources = append(r.Resources, changed.Wire())
		}
		if _, err := protodelim.MarshalTo(&out, r); err != nil {
			return nil, fmt.Errorf("encoding configuration: %w", err)
		}
	}
	return out.Bytes(), nil
}

// decode takes what encode wrote and runs on it. On an error nothing is held.
func (h *held) decode(b []byte) (err error) {
	if h.generation != "" {
		return errors.New("a configuration runs already")
	}
	defer func() {
		h.incomplete = false
		if err != nil {
			h.set = &adswire.Set{}
		}
	}()
	if len(b) > MaxStoredBytes {
		return fmt.Errorf("reading configuration: %d bytes, at most %d", len(b), MaxStoredBytes)
	}
	in := bytes.NewReader(b)
	limit := protodelim.UnmarshalOptions{MaxSize: adswire.MaxMessageBytes}
	for {
		var r discovery.DeltaDiscoveryResponse
		switch err := limit.UnmarshalFrom(in, &r); {
		case errors.Is(err, io.EOF):
			return errors.New("reading configuration: it has no end")
		case err != nil:
			return fmt.Errorf("reading configuration: %w", err)
		}
		if r.GetTypeUrl() != adswire.GenerationType {
			if err := h.take(&r); err != nil {
				return fmt.Errorf("reading configuration: %w", err)
			}
			continue
		}
		if in.Len() > 0 {
			return errors.New("reading configuration: something follows its end")
		}
		if err := h.mark(&r); err != nil {
			return fmt.Errorf("reading configuration: %w", err)
		}
		return nil
	}
}
