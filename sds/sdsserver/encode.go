package sdsserver

import (
	"crypto/rand"
	"encoding/hex"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/signet-mesh/signet/sds"
)

// secretType is the one type URL of SDS v3.
const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// encode is a secret in Envoy's form, all material inline. A validation context carries only trusted_ca: which of the
// trust domain's identities are accepted is the client's to say (combined_validation_context).
func encode(s sds.Secret) (*anypb.Any, error) {
	out := &tlsv3.Secret{Name: s.Name}
	switch s.Kind {
	case sds.Certificate:
		out.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(s.Chain), PrivateKey: inline(s.Key),
		}}
	case sds.Validation:
		out.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inline(s.Roots),
		}}
	}
	a, err := anypb.New(out)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encoding secret %q failed", s.Name)
	}
	return a, nil
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func worldResponse(secrets []sds.Secret, version, nonce string) (*discoveryv3.DiscoveryResponse, error) {
	out := &discoveryv3.DiscoveryResponse{VersionInfo: version, TypeUrl: secretType, Nonce: nonce}
	for _, s := range secrets {
		a, err := encode(s)
		if err != nil {
			return nil, err
		}
		out.Resources = append(out.Resources, a)
	}
	return out, nil
}

// newNonce can't be guessed and is never used twice.
func newNonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
