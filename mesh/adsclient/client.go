// Package adsclient keeps a sidecar's configuration current over delta ADS.
//
// It connects with the workload's own certificate, holds the resources it is sent, and hands each complete generation
// (see package adswire) to Apply as one View. What it can't read or what Apply refuses is answered with a NACK, and the
// View before it goes on; so it does while the control plane is away.
//
// A stream lives on one TLS connection, and that on the certificate it was made with: the server ends it when that
// expires. The client therefore connects again as soon as it has the next one, and says what it holds, so that only the
// difference is sent.
package adsclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// How long the client waits before it connects again: twice as long each time, from minBackoff to maxBackoff, less up to
// half at random. A stream that lasted at least maxBackoff starts anew at minBackoff.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Config is what a Client needs.
type Config struct {
	// Addr is host:port of the control plane.
	Addr string
	// Source gives the workload's certificate, shown to the server, and the bundle the server is judged by.
	Source certs.Source
	// Server is whom the control plane must prove to be: identity.ControlPlane of the trust domain.
	Server identity.ID
	// Namespace and Workload make up the node.
	Namespace, Workload string
	Log                 *slog.Logger
	// Apply makes the proxy run on a view. It is called from Run, one call at a time, in order. Its error refuses the
	// generation; the view before goes on. It should take seconds at most: the server waits 60 s for the answer.
	Apply func(*mesh.View) error
	// Store keeps the last good configuration over restarts; nil keeps it in memory only.
	Store Store
	// Trust is told of the roots of the trust domain, as the control plane knows them, with each generation that names some, before
	// Apply; nil for nobody. Its error refuses the generation.
	Trust func([]*x509.Certificate) error
	// OnDemand asks for no more than the names given to Ask, and those that the control plane remembers from before.
	OnDemand bool
}

// Client is one sidecar's end of ADS. It is also a prometheus.Collector.
type Client struct {
	cfg Config
	tls *tls.Config
	// held is owned by Run.
	held   held
	state  state
	asking *asking
}

// New returns a Client that starts nothing.
func New(cfg Config) (*Client, error) {
	if cfg.Addr == "" || cfg.Source == nil || cfg.Server.IsZero() || cfg.Namespace == "" || cfg.Workload == "" ||
		cfg.Log == nil || cfg.Apply == nil {
		return nil, errors.New("building ADS client: Addr, Source, Server, Namespace, Workload, Log and Apply must be set")
	}
	asking := newAsking()
	apply := func(v *mesh.View) error {
		err := cfg.Apply(v)
		if err == nil && cfg.OnDemand {
			asking.applied(v.Asked)
		}
		return err
	}
	return &Client{
		cfg: cfg, asking: asking,
		tls: certs.ClientTLS(cfg.Source, certs.ClientOptions{ALPN: []string{"h2"}, Expect: certs.ExpectIDs(cfg.Server)}),
		held: held{
			set: &adswire.Set{}, node: adswire.NodeID(cfg.Namespace, cfg.Workload),
			trustDomain: cfg.Server.TrustDomain(), apply: apply, trust: cfg.Trust,
		},
		state: state{status: Status{Since: time.Now()}},
	}, nil
}

// Run waits for a certificate, applies what the store holds, and connects; and again, after 100 ms to 5 s, whenever the connection is lost. It
// returns only when ctx ends, with nil.
func (c *Client) Run(ctx context.Context) error {
	if !c.certified(ctx) {
		return nil
	}
	c.resume()
	wait := minBackoff
	for c.certified(ctx) {
		began := time.Now()
		err := c.stream(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errRenewed) {
			c.cfg.Log.Debug("connecting to the control plane with the new certificate")
			continue
		}
		c.lost(err)
		if time.Since(began) >= maxBackoff {
			wait = minBackoff
		}
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			break
		}
		wait = min(2*wait, maxBackoff)
	}
	c.state.disconnected("")
	return nil
}

// certified waits until the source has a certificate; false if ctx ended first.
func (c *Client) certified(ctx context.Context) bool {
	for ctx.Err() == nil {
		snapshot, replaced := c.cfg.Source.Watch()
		if snapshot.SVID != nil {
			return true
		}
		select {
		case <-replaced:
		case <-ctx.Done():
		}
	}
	return false
}

// lost notes why a stream ended, and logs it unless the one before ended for the same reason.
func (c *Client) lost(err error) {
	msg := "the server ended the stream"
	if err != nil {
		msg = err.Error()
	}
	if c.state.disconnected(msg) {
		c.cfg.Log.Warn("no configuration from the control plane; the last good one goes on", "addr", c.cfg.Addr, "error", msg)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
