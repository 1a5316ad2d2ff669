package ca

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"time"
)

// Prepared is a certificate that may be signed: a judged request, an entitled caller, all fields decided. Only Prepare
// and PrepareControlPlane make one.
type Prepared struct {
	caller Caller
	req    *Request
	key    Key
	leaf   Leaf
}

// Certificate is what is delivered.
type Certificate struct {
	Leaf *x509.Certificate
	// Intermediates lead from the leaf's issuer to below the root.
	Intermediates []*x509.Certificate
	Roots         []*x509.Certificate
}

// Prepare decides every field of the certificate: the identity comes from the caller, the key from the request, and the
// end of life from the request and the issuer's own end, whichever is earlier. Errors wrap ErrNotEntitled for a caller
// without an identity of the shape /ns/NS/sa/SA in this trust domain and for one with the control plane's.
func (c *CA) Prepare(caller Caller, req *Request) (*Prepared, error) {
	id := caller.ID
	switch {
	case id.TrustDomain() != c.opts.TrustDomain, id.Namespace() == "", id.ServiceAccount() == "":
		return nil, fmt.Errorf("preparing certificate: %w: %q is no workload of trust domain %q", ErrNotEntitled, id, c.opts.TrustDomain)
	case id.IsControlPlane():
		return nil, fmt.Errorf("preparing certificate: %w: %q is reserved", ErrNotEntitled, id)
	}
	return c.prepare(caller, nil, req)
}

// PrepareControlPlane prepares the control plane's own certificate, with exactly the names of Options. It is not for
// doors: whoever calls it is the process that holds the CA.
func (c *CA) PrepareControlPlane(req *Request) (*Prepared, error) {
	return c.prepare(Caller{ID: c.controlPlane, Proof: "own-process"}, c.opts.ControlPlaneNames, req)
}

func (c *CA) prepare(caller Caller, names []string, req *Request) (*Prepared, error) {
	serial, err := c.serial()
	if err != nil {
		return nil, fmt.Errorf("preparing certificate for %q: %w", caller.ID, err)
	}
	key := c.opts.Keys.Current()
	now := c.opts.Now()
	notBefore, notAfter := validity(now, req.ttl)
	for _, issuer := range key.Chain() {
		if issuer.NotAfter.Before(notAfter) {
			notAfter = issuer.NotAfter
		}
		if issuer.NotBefore.After(notBefore) {
			notBefore = issuer.NotBefore
		}
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("preparing certificate for %q: the issuer's certificate ended at %v", caller.ID, notAfter)
	}
	_, isRSA := req.key.(*rsa.PublicKey)
	return &Prepared{caller: caller, req: req, key: key, leaf: Leaf{
		ID: caller.ID, DNS: names, CSR: req.pem, Serial: serial, NotBefore: notBefore, NotAfter: notAfter, KeyEncipherment: isRSA,
	}}, nil
}

// Issue signs, judges what was signed, and writes the audit record. Nothing that fails the judgement leaves.
func (c *CA) Issue(p *Prepared) (*Certificate, error) {
	der, err := p.key.SignLeaf(p.leaf)
	if err != nil {
		return nil, fmt.Errorf("signing certificate for %q: %w", p.leaf.ID, err)
	}
	issuer := p.key.Chain()[0]
	leaf, err := checkSigned(der, expected{
		id: p.leaf.ID, dns: p.leaf.DNS, key: p.req.key, serial: p.leaf.Serial,
		notBefore: p.leaf.NotBefore, notAfter: p.leaf.NotAfter, issuer: issuer,
	})
	if err != nil {
		return nil, fmt.Errorf("checking certificate signed for %q: %w", p.leaf.ID, err)
	}
	c.auditIssued(p)
	return &Certificate{Leaf: leaf, Intermediates: p.key.Chain(), Roots: p.key.Roots()}, nil
}

// serial is 128 random bits, never zero (RFC 5280 section 4.1.2.2: positive, at most 20 octets).
func (c *CA) serial() (*big.Int, error) {
	var b [16]byte
	n := new(big.Int)
	for n.Sign() == 0 {
		if _, err := io.ReadFull(c.opts.Rand, b[:]); err != nil {
			return nil, fmt.Errorf("drawing serial: %w", err)
		}
		n.SetBytes(b[:])
	}
	return n, nil
}

// validity puts NotAfter ttl from now, and NotBefore back by min(MaxBackdate, ttl/10) at most. X.509 counts whole
// seconds: NotBefore is rounded up where that is still past, so that the bound holds.
func validity(now time.Time, ttl time.Duration) (notBefore, notAfter time.Time) {
	now = now.UTC()
	back := now.Add(-min(MaxBackdate, ttl/10))
	notBefore = back.Truncate(time.Second)
	if notBefore.Before(back) {
		notBefore = notBefore.Add(time.Second)
	}
	if whole := now.Truncate(time.Second); notBefore.After(whole) {
		notBefore = whole
	}
	return notBefore, now.Add(ttl).Truncate(time.Second)
}
