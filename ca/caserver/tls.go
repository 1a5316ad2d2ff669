package caserver

import (
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/signet-mesh/signet/certs"
)

// TLSConfig is the configuration of the control plane's port. The server proves itself with the source's SVID, the
// control plane's own, and sends the roots along, so that a client that knows no more than a root's hash can find and
// pin it. A client may come without a certificate (it has a token then, and whoever shares the port must ask for more);
// one that is presented must verify and be of the source's own trust domain, or there is no connection.
func TLSConfig(src certs.Source, roots func() []*x509.Certificate) *tls.Config {
	cfg := certs.ServerTLS(src, certs.ServerOptions{
		ALPN:               []string{"h2"},
		Accept:             certs.SameTrustDomain(src),
		AllowNoCertificate: true,
	})
	own := cfg.GetCertificate
	cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := own(hello)
		if err != nil {
			return nil, err
		}
		full := *cert
		full.Certificate = slices.Clone(cert.Certificate)
		for _, r := range roots() {
			full.Certificate = append(full.Certificate, r.Raw)
		}
		return &full, nil
	}
	return cfg
}
