package cluster

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/ca"
	caauthority "github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/keystore"
)

// authority is the CA of one replica and the certificate that it gives itself.
type authority struct {
	trustDomain string
	shared      *caauthority.Shared
	issuer      *ca.CA
	own         *rotate.Rotator
	// cell is own's certificate with the roots as they are now: other replicas' clients come with certificates of a root that
	// is newer than the certificate.
	cell certs.Cell
}

// newAuthority opens the CA's state in the API server, which is asked again until it answers or ctx ends.
func newAuthority(ctx context.Context, c *Cluster) (*authority, error) {
	cfg := &c.cfg
	roots, err := keystore.New(keystore.Config{Client: c.client, Namespace: cfg.Namespace, Name: kube.RootsSecret, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	plugged, err := keystore.New(keystore.Config{Client: c.client, Namespace: cfg.Namespace, Name: kube.PluggedSecret, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	lifetime := min(ca.DefaultTTL, cmp.Or(cfg.MaxTTL, ca.MaxTTL))
	a := &authority{trustDomain: cfg.TrustDomain}
	for said := ""; a.shared == nil; {
		a.shared, err = caauthority.Share(ctx, caauthority.SharedOptions{TrustDomain: cfg.TrustDomain, Store: roots, Plugged: plugged,
			Names: c.names(), LeafTTL: cmp.Or(cfg.MaxTTL, ca.MaxTTL), Recorder: plugged, Log: cfg.Log})
		var refused *caauthority.PluggedError
		if errors.As(err, &refused) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			cfg.Log.Error("opening the CA fails, trying again", "error", err)
		}
		if err != nil && !pause(ctx, time.Second) {
			return nil, ctx.Err()
		}
	}
	a.issuer, err = ca.New(ca.Options{TrustDomain: cfg.TrustDomain, Keys: a.shared, Log: cfg.Log, ControlPlaneNames: c.names(),
		DefaultTTL: cmp.Or(cfg.TTL, lifetime), MaxTTL: cfg.MaxTTL})
	if err != nil {
		return nil, err
	}
	a.own, err = rotate.New(rotate.Config{Issuer: a.issuer.ControlPlane(), Log: cfg.Log, TTL: lifetime})
	return a, err
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// names are the DNS names of the control plane's certificate: those of its Service, and those that Istio's clients look for.
func (c *Cluster) names() []string {
	ns, service := c.cfg.Namespace, kube.ControlPlane+c.cfg.suffix()
	out := []string{service + "." + ns + ".svc", service + "." + ns, service + "." + ns + ".svc." + c.cfg.ClusterDomain,
		"istiod." + ns + ".svc", "istiod." + ns + ".svc." + c.cfg.ClusterDomain}
	return out
}

// source is the control plane's certificate and bundle.
func (a *authority) source() certs.Source { return &a.cell }

func (a *authority) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.shared.Run(ctx) })
	g.Go(func() error { return a.own.Run(ctx) })
	g.Go(func() error { return a.unite(ctx) })
	return g.Wait()
}

// unite puts the certificate and the roots together whenever either changes.
func (a *authority) unite(ctx context.Context) error {
	for {
		snap, renewed := a.own.Watch()
		roots, replaced := a.shared.Watch()
		if err := a.set(snap, roots); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-renewed:
		case <-replaced:
		}
	}
}

func (a *authority) set(snap *certs.Snapshot, roots []*x509.Certificate) error {
	if snap.SVID == nil {
		return nil
	}
	bundle, err := certs.NewBundle(a.trustDomain, roots)
	if err != nil {
		return fmt.Errorf("taking the roots: %w", err)
	}
	a.cell.Set(snap.SVID, map[string]*certs.Bundle{a.trustDomain: bundle})
	return nil
}
