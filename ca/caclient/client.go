// Package caclient asks the control plane for certificates: each with a bearer token where there is one, else the first with
// a join token and the next with the one at hand.
// It is an Issuer as certs/rotate wants one.
package caclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/certs"
)

// DefaultTimeout is how long one request may take, connection included.
const DefaultTimeout = 10 * time.Second

// maxResponseBytes bounds an answer.
const maxResponseBytes = 256 << 10

// metadataWorkload is the request's metadata key that names the workload of a renewal.
const metadataWorkload = "WorkloadName"

// TokenSource returns the token as it is now. FileToken and StaticToken are two.
type TokenSource func() (string, error)

// Options are what New needs. Addr is required.
type Options struct {
	// Addr is the control plane's host:port.
	Addr string
	// Token is asked for a join token whenever one is needed; nil means there is none, so that only renewals work.
	Token TokenSource
	// Bearer is asked for a token of another kind, a pod's service-account token, for each certificate, renewals included; it
	// goes with Roots and TrustDomain, and without Token.
	Bearer TokenSource
	// Roots are what the control plane is verified against when Bearer is used, beside the bundle at hand; they are asked for
	// each time.
	Roots func() ([]*x509.Certificate, error)
	// TrustDomain, where set, is the only one whose control plane is spoken to; "" takes that of the token's root.
	TrustDomain string
	// Workload is NS/WORKLOAD, sent with a renewal by certificate, so that the CA renews for this workload and no other with
	// the same service account; "" sends none.
	Workload string
	// Timeout bounds one request; zero means DefaultTimeout.
	Timeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Client asks one control plane. It holds no connection between requests. Safe for concurrent use.
type Client struct{ opts Options }

// New builds a Client.
func New(opts Options) (*Client, error) {
	if opts.Addr == "" {
		return nil, errors.New("building CA client: the control plane's address must be given")
	}
	if opts.Bearer != nil && (opts.Roots == nil || opts.TrustDomain == "" || opts.Token != nil) {
		return nil, errors.New("building CA client: a bearer token goes with roots and a trust domain, and without a join token")
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Client{opts: opts}, nil
}

// Issue sends a PEM or DER certificate request and returns the certificate with the roots to trust from now on. With a
// bearer token no SVID is shown: the token is what tells that the workload lives. Else a valid SVID in current renews
// by mutual TLS; the join token is used where there is none, where it ended, and where the control plane could not be
// verified or does not accept the SVID any more (its CA was set up anew, or the workload has another service account now).
// A ttl of zero leaves the lifetime to the CA. The answer is checked: the leaf carries
// the request's key, a SPIFFE ID of the trust domain, and verifies against the roots that came with it.
func (c *Client) Issue(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	csr = ca.RequestPEM(csr)

	var renewErr error
	if c.opts.Bearer == nil && c.canRenew(current) {
		issued, err := c.renew(ctx, csr, ttl, current)
		if err == nil {
			return issued, nil
		}
		if c.opts.Token == nil || !wantsToken(err) {
			return nil, fmt.Errorf("renewing certificate at %q: %w", c.opts.Addr, err)
		}
		renewErr = err
	}
	issued, err := c.join(ctx, csr, ttl, current)
	if err != nil {
		return nil, fmt.Errorf("asking for certificate at %q: %w", c.opts.Addr, errors.Join(renewErr, err))
	}
	return issued, nil
}

// wantsToken reports whether a renewal failed for a reason that a token may mend: either end refused the other's proof.
func wantsToken(err error) bool {
	var s *serverError
	return errors.As(err, &s) || status.Code(err) == codes.Unauthenticated
}

func (c *Client) canRenew(current *certs.Snapshot) bool {
	if current == nil || current.SVID == nil {
		return false
	}
	now, leaf := c.opts.Now(), current.SVID.Leaf()
	return now.Before(leaf.NotAfter) && !now.Before(leaf.NotBefore)
}

// renew proves itself with the SVID at hand, and the control plane with the bundle at hand.
func (c *Client) renew(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error) {
	td := current.SVID.ID.TrustDomain()
	pin, err := c.pinBundles(td, current.Bundles)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, request{csr: csr, ttl: ttl, pin: pin, cert: current.SVID.TLS(), workload: c.opts.Workload})
}

// join proves itself with the token, and the control plane with the root whose hash a join token carries.
func (c *Client) join(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error) {
	if c.opts.Bearer != nil {
		return c.bear(ctx, csr, ttl, current)
	}
	if c.opts.Token == nil {
		return nil, errors.New("there is no valid certificate and no join token")
	}
	text, err := c.opts.Token()
	if err != nil {
		return nil, fmt.Errorf("reading join token: %w", err)
	}
	token, err := attest.ParseToken(text)
	if err != nil {
		return nil, err
	}
	return c.call(ctx, request{csr: csr, ttl: ttl, pin: c.pinRoot(token.RootSHA256), token: text})
}

// bear proves itself with the bearer token, and the control plane with the roots as they are now or with those of the bundle
// at hand: while roots change, either may be the first to have the new one. The token is read only once there are roots, and
// leaves only after the control plane proved itself.
func (c *Client) bear(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error) {
	roots, err := c.opts.Roots()
	if current != nil && current.Bundles[c.opts.TrustDomain] != nil {
		roots, err = slices.Concat(roots, current.Bundles[c.opts.TrustDomain].Roots()), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading roots: %w", err)
	}
	bundle, err := certs.NewBundle(c.opts.TrustDomain, roots)
	if err != nil {
		return nil, fmt.Errorf("reading roots: %w", err)
	}
	pin, err := c.pinBundles(c.opts.TrustDomain, map[string]*certs.Bundle{c.opts.TrustDomain: bundle})
	if err != nil {
		return nil, err
	}
	text, err := c.opts.Bearer()
	if err != nil {
		return nil, fmt.Errorf("reading token: %w", err)
	}
	if text == "" {
		return nil, errors.New("reading token: it is empty")
	}
	return c.call(ctx, request{csr: csr, ttl: ttl, pin: pin, token: text})
}

// request is one call's content.
type request struct {
	csr      []byte
	ttl      time.Duration
	pin      *pin
	cert     *tls.Certificate // nil for none
	token    string           // "" for none
	workload string
}

func (c *Client) call(ctx context.Context, r request) (*certs.Issued, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.opts.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(r.pin.tlsConfig(r.cert))),
		grpc.WithNoProxy(), // the environment's proxy is for the workload's traffic
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseBytes)))
	if err != nil {
		return nil, fmt.Errorf("setting up connection: %w", err)
	}
	defer conn.Close()

	in := &securityv1.IstioCertificateRequest{Csr: string(r.csr), ValidityDuration: int64((r.ttl + time.Second - 1) / time.Second)}
	if r.workload != "" {
		in.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{metadataWorkload: structpb.NewStringValue(r.workload)}}
	}
	if r.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.token)
	}
	out, err := securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, in)
	if refused := r.pin.refusal(); err != nil && refused != nil {
		return nil, &serverError{refused}
	}
	if err != nil {
		return nil, fmt.Errorf("calling CreateCertificate: %w", err)
	}
	issued, err := readAnswer(out.GetCertChain(), r.csr, r.pin.trustDomain(), c.opts.Now())
	if err != nil {
		return nil, fmt.Errorf("judging the answer: %w", err)
	}
	return issued, nil
}
