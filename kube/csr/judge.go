package csr

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity"
)

// proof is how callers proved themselves, in audit records: the API server authenticated the author.
const proof = "certificate-signing-request"

// Reasons of the condition Failed.
const (
	reasonUsername = "UsernameNotServiceAccount"
	reasonRequest  = "RequestMalformed"
	reasonSAN      = "SubjectAltNameNotIdentity"
	reasonUsages   = "UsageNotAllowed"
	reasonIdentity = "IdentityNotAllowed"
)

// refusal is a request that will never be signed.
type refusal struct {
	reason, message string
	id              identity.ID // whose it would be, where that is known
}

func (r *refusal) Error() string { return r.reason + ": " + r.message }

// sign gives leaf and intermediates in PEM; a *refusal says why it never will.
func (s *Signer) sign(r *certv1.CertificateSigningRequest) ([]byte, error) {
	id, err := s.author(r.Spec.Username)
	if err != nil {
		return nil, err
	}
	fail := func(reason, format string, args ...any) error {
		return &refusal{reason, fmt.Sprintf(format, args...), id}
	}
	for _, u := range r.Spec.Usages {
		switch u {
		case certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment, certv1.UsageClientAuth, certv1.UsageServerAuth:
		default:
			return nil, fail(reasonUsages, "spec.usages has %q; digital signature, key encipherment, client auth and server auth are given", u)
		}
	}
	request, err := s.judge(r)
	if err != nil {
		return nil, fail(reasonRequest, "spec.request: %v", err)
	}
	if err := checkNames(r.Spec.Request, id); err != nil {
		return nil, fail(reasonSAN, "spec.request: %v", err)
	}
	prepared, err := s.cfg.CA.Prepare(ca.Caller{ID: id, Proof: proof, From: r.Name}, request)
	if errors.Is(err, ca.ErrNotEntitled) {
		return nil, fail(reasonIdentity, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	cert, err := s.cfg.CA.Issue(prepared)
	var bad *ca.CSRError
	if errors.As(err, &bad) {
		return nil, fail(reasonRequest, "spec.request: %v", bad)
	}
	if err != nil {
		return nil, err
	}
	return certs.ChainPEM(append([]*x509.Certificate{cert.Leaf}, cert.Intermediates...)), nil
}

// author is the identity of system:serviceaccount:NS:SA, exactly.
func (s *Signer) author(username string) (identity.ID, error) {
	parts := strings.Split(username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" {
		return identity.ID{}, &refusal{reason: reasonUsername, message: fmt.Sprintf("spec.username is %.200q, not system:serviceaccount:NAMESPACE:NAME", username)}
	}
	id, err := identity.New(s.cfg.CA.TrustDomain(), parts[2], parts[3])
	if err != nil {
		return identity.ID{}, &refusal{reason: reasonUsername, message: err.Error()}
	}
	return id, nil
}

// judge lets the CA judge key and lifetime. One that is longer than the CA gives is cut, as the API allows
// (spec.expirationSeconds is a wish).
func (s *Signer) judge(r *certv1.CertificateSigningRequest) (*ca.Request, error) {
	var ttl time.Duration
	if r.Spec.ExpirationSeconds != nil {
		ttl = time.Duration(*r.Spec.ExpirationSeconds) * time.Second
	}
	request, err := s.cfg.CA.Judge(r.Spec.Request, ttl)
	var long *ca.TTLError
	if errors.As(err, &long) {
		return s.cfg.CA.Judge(r.Spec.Request, long.Max)
	}
	return request, err
}

// checkNames wants one subject alternative name, the identity as a URI, read from the bytes: x509 drops names of kinds that
// it does not know and rewrites URIs.
func checkNames(requestPEM []byte, id identity.ID) error {
	block, _ := pem.Decode(requestPEM)
	if block == nil {
		return errors.New("it is not PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	oid := asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280 section 4.2.1.6
	var names []asn1.RawValue
	for _, e := range request.Extensions {
		if !e.Id.Equal(oid) {
			continue
		}
		var more []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &more); err != nil || len(rest) > 0 {
			return errors.New("its subject alternative names are malformed")
		}
		names = append(names, more...)
	}
	isURI := func(n asn1.RawValue) bool { return n.Class == asn1.ClassContextSpecific && n.Tag == 6 }
	switch {
	case len(names) != 1 || !slices.ContainsFunc(names, isURI):
		return fmt.Errorf("it has %d subject alternative names, want one, the URI %q", len(names), id)
	case !bytes.Equal(names[0].Bytes, []byte(id.String())):
		return fmt.Errorf("its URI is %.300q, want %q", names[0].Bytes, id)
	}
	return nil
}
