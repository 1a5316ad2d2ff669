package ca

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// auditIssued writes who got what. It names the key by its hash and holds nothing secret.
func (c *CA) auditIssued(p *Prepared) {
	hash := p.req.keyHash
	c.opts.Log.Info("certificate issued",
		slog.String("id", p.leaf.ID.String()),
		slog.String("proof", p.caller.Proof),
		slog.String("from", p.caller.From),
		slog.String("serial", fmt.Sprintf("%032x", p.leaf.Serial)),
		slog.Time("not_before", p.leaf.NotBefore),
		slog.Time("not_after", p.leaf.NotAfter),
		slog.String("key_sha256", hex.EncodeToString(hash[:])))
}

// Refuse writes the audit record of a refusal. Every field of caller may be unset.
func (c *CA) Refuse(caller Caller, reason error) {
	c.opts.Log.Warn("certificate refused",
		slog.String("id", caller.ID.String()),
		slog.String("proof", caller.Proof),
		slog.String("from", caller.From),
		slog.String("reason", reason.Error()))
}

// ControlPlane issues the control plane's own serving certificate, in its own process, by the same steps as every
// other. It is an Issuer as certs/rotate wants one, so that the control plane's certificate rotates like a workload's.
type ControlPlane struct{ ca *CA }

// ControlPlane returns the issuer of the control plane's own certificate.
func (c *CA) ControlPlane() ControlPlane { return ControlPlane{c} }

// Issue takes a PEM or DER certificate request; current is not looked at.
func (i ControlPlane) Issue(ctx context.Context, csr []byte, ttl time.Duration, _ *certs.Snapshot) (*certs.Issued, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := i.ca.Judge(RequestPEM(csr), ttl)
	if err != nil {
		return nil, err
	}
	prepared, err := i.ca.PrepareControlPlane(req)
	if err != nil {
		return nil, err
	}
	cert, err := i.ca.Issue(prepared)
	if err != nil {
		return nil, err
	}
	return &certs.Issued{
		Chain: append([]*x509.Certificate{cert.Leaf}, cert.Intermediates...),
		Roots: cert.Roots,
	}, nil
}
