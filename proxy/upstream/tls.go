package upstream

import (
	"crypto/tls"

	"github.com/signet-mesh/signet/certs"
)

// clientTLS is the configuration of all connections to one endpoint: made once, it follows the source's rotations. The
// server must prove one of Target.Expect; with none of them it can't.
func clientTLS(src certs.Source, spec *Spec, t *Target, alpn string) *tls.Config {
	opts := certs.ClientOptions{ServerName: spec.SNI, Expect: certs.ExpectIDs(t.Expect...)}
	if alpn != "" {
		opts.ALPN = []string{alpn}
	}
	return certs.ClientTLS(src, opts)
}
