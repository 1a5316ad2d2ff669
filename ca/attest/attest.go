// Package attest says who is asking for a certificate: the bearer of a join token that was minted for one workload, a
// workload that so joined and renews with the certificate it has, or the bearer of a token that somebody else vouches for
// (a service-account token). It knows nothing of gRPC and signs nothing.
//
// It works in two proofs: Identify says who the evidence is for and changes nothing; Bind ties a join token to the key it
// is redeemed for, and only then is there a ca.Caller.
package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/identity"
)

// Workloads is what the mesh knows of the workloads that exist now. Safe for concurrent use.
type Workloads interface {
	// ServiceAccount is that of a workload, and whether there is such a workload.
	ServiceAccount(namespace, workload string) (sa string, ok bool)
	// Holds reports whether any workload of the namespace has the service account.
	Holds(namespace, serviceAccount string) bool
}

// Bearers judges tokens that are not join tokens. Safe for concurrent use.
type Bearers interface {
	// Identify says whose token it is at the moment now, and which pod's. It may wait, no longer than ctx and a bound of
	// its own. The reason of an error is for the log, and quotes nothing of the token.
	Identify(ctx context.Context, token string, now time.Time) (namespace, serviceAccount, pod string, err error)
}

// How a caller proved itself, as audit records have it.
const (
	ProofToken       = "join-token"
	ProofBearer      = "service-account-token"
	ProofCertificate = "client-certificate"
)

// Evidence is what a caller brings. A token decides where there is one: the certificate is not looked at then.
type Evidence struct {
	// Token is the join token, or other token, as it came; "" for none.
	Token string
	// Peer is who the verified client certificate names; nobody where there was none.
	Peer identity.Peer
	// Leaf is that certificate. Its end is looked at again, since connections live long.
	Leaf *x509.Certificate
	// Workload is "NS/WORKLOAD", the workload that a renewal by certificate says it is for; "" leaves it to the certificate.
	Workload string
	// From is the network address of the caller, for the audit record.
	From string
}

// Attestor judges evidence. Safe for concurrent use.
type Attestor struct {
	trustDomain string
	bearers     Bearers // nil takes join tokens and renewals by certificate instead
	tokens      *Tokens
	workloads   Workloads
}

// New builds an Attestor of one trust domain that takes join tokens, and certificates for renewals.
func New(trustDomain string, tokens *Tokens, workloads Workloads) (*Attestor, error) {
	if trustDomain == "" || tokens == nil || workloads == nil {
		return nil, errors.New("building attestor: trust domain, tokens and workloads must be given")
	}
	return &Attestor{trustDomain: trustDomain, tokens: tokens, workloads: workloads}, nil
}

// NewWithBearers builds an Attestor of one trust domain that takes the tokens of bearers and nothing else. A renewal needs a
// token too: a certificate does not tell whose it is of the many that have its identity, so that one which was carried off
// would be renewed from anywhere, long after its bearer is gone.
func NewWithBearers(trustDomain string, bearers Bearers) (*Attestor, error) {
	if trustDomain == "" || bearers == nil {
		return nil, errors.New("building attestor: trust domain and bearers must be given")
	}
	return &Attestor{trustDomain: trustDomain, bearers: bearers}, nil
}

// Candidate is an identity that the evidence is good for. Only Identify makes one.
type Candidate struct {
	caller ca.Caller
	bind   func(key [sha256.Size]byte) error
}

// ID is the identity that a certificate would carry.
func (c *Candidate) ID() identity.ID { return c.caller.ID }

// Caller is who asks, for audit records of what goes wrong before Bind.
func (c *Candidate) Caller() ca.Caller { return c.caller }

// Bind completes the proof for a key, named by the SHA-256 of its SubjectPublicKeyInfo. A token belongs to the first key
// that it is redeemed for: the same key may come again, another is refused with ErrTokenBound.
func (c *Candidate) Bind(key [sha256.Size]byte) (ca.Caller, error) {
	if err := c.bind(key); err != nil {
		return ca.Caller{}, err
	}
	return c.caller, nil
}

// ErrNoEvidence says that a caller brought neither a token nor a certificate.
var ErrNoEvidence = errors.New("neither a join token nor another token nor a client certificate was presented")

// Identify judges evidence at the moment now. The reason of an error is for the log only, never for the caller.
func (a *Attestor) Identify(ctx context.Context, ev Evidence, now time.Time) (*Candidate, error) {
	certificate := ev.Peer.Proven() && ev.Leaf != nil
	switch {
	case ev.Token != "" && a.bearers == nil:
		return a.byToken(ev, now)
	case ev.Token != "" && strings.HasPrefix(ev.Token, tokenPrefix):
		return nil, errors.New("identifying caller by token: join tokens are not taken here")
	case ev.Token != "":
		return a.byBearer(ctx, ev, now)
	case certificate && a.bearers == nil:
		return a.byCertificate(ev, now)
	case certificate:
		return nil, fmt.Errorf("identifying caller by certificate of %q: a renewal needs a service-account token here", ev.Peer.ID)
	}
	return nil, fmt.Errorf("identifying caller: %w", ErrNoEvidence)
}

func (a *Attestor) byToken(ev Evidence, now time.Time) (*Candidate, error) {
	record, err := a.tokens.lookup(ev.Token, now)
	if err != nil {
		return nil, fmt.Errorf("identifying caller by token: %w", err)
	}
	ns, workload := record.token.Namespace, record.token.Workload
	sa, ok := a.workloads.ServiceAccount(ns, workload)
	if !ok {
		return nil, fmt.Errorf("identifying caller by token: there is no workload %q", ns+"/"+workload)
	}
	id, err := a.workloadID(ns, sa)
	if err != nil {
		return nil, fmt.Errorf("identifying caller by token for %q: %w", ns+"/"+workload, err)
	}
	return &Candidate{
		caller: ca.Caller{ID: id, Proof: ProofToken, From: ev.From},
		bind:   func(key [sha256.Size]byte) error { return a.tokens.bind(record, key) },
	}, nil
}

func (a *Attestor) byBearer(ctx context.Context, ev Evidence, now time.Time) (*Candidate, error) {
	ns, sa, pod, err := a.bearers.Identify(ctx, ev.Token, now)
	if err != nil {
		return nil, fmt.Errorf("identifying caller by service-account token: %w", err)
	}
	id, err := a.workloadID(ns, sa)
	if err != nil {
		return nil, fmt.Errorf("identifying caller by service-account token of pod %q: %w", ns+"/"+pod, err)
	}
	return &Candidate{
		caller: ca.Caller{ID: id, Proof: ProofBearer, From: ev.From},
		bind:   func([sha256.Size]byte) error { return nil },
	}, nil
}

func (a *Attestor) byCertificate(ev Evidence, now time.Time) (*Candidate, error) {
	id := ev.Peer.ID
	if now.After(ev.Leaf.NotAfter) {
		return nil, fmt.Errorf("identifying caller by certificate: that of %q ended at %v", id, ev.Leaf.NotAfter)
	}
	if id.TrustDomain() != a.trustDomain {
		return nil, fmt.Errorf("identifying caller by certificate: %q is not of trust domain %q", id, a.trustDomain)
	}
	own, err := a.workloadID(id.Namespace(), id.ServiceAccount())
	if err != nil || own != id {
		return nil, errors.Join(fmt.Errorf("identifying caller by certificate: %q is no workload's", id), err)
	}
	if err := a.stillHeld(id, ev.Workload); err != nil {
		return nil, fmt.Errorf("identifying caller by certificate: %w", err)
	}
	return &Candidate{
		caller: ca.Caller{ID: id, Proof: ProofCertificate, From: ev.From},
		bind:   func([sha256.Size]byte) error { return nil },
	}, nil
}

// stillHeld checks that the workload named, or where none is named any, has the certificate's service account now.
func (a *Attestor) stillHeld(id identity.ID, workload string) error {
	if workload == "" {
		if !a.workloads.Holds(id.Namespace(), id.ServiceAccount()) {
			return fmt.Errorf("no workload is %q any more", id)
		}
		return nil
	}
	ns, name, ok := strings.Cut(workload, "/")
	if !ok || ns != id.Namespace() {
		return fmt.Errorf("workload %.200q is not of namespace %q", workload, id.Namespace())
	}
	sa, ok := a.workloads.ServiceAccount(ns, name)
	switch {
	case !ok:
		return fmt.Errorf("there is no workload %.200q", workload)
	case sa != id.ServiceAccount():
		return fmt.Errorf("workload %.200q has service account %q now, not %q", workload, sa, id.ServiceAccount())
	}
	return nil
}

// workloadID builds an ID and refuses the reserved one.
func (a *Attestor) workloadID(namespace, serviceAccount string) (identity.ID, error) {
	id, err := identity.New(a.trustDomain, namespace, serviceAccount)
	if err != nil {
		return identity.ID{}, err
	}
	if id.IsControlPlane() {
		return identity.ID{}, fmt.Errorf("%q is reserved for the control plane", id)
	}
	return id, nil
}
