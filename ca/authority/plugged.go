package authority

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// Files of an operator's CA: Istio's names, or those of a kubernetes.io/tls Secret as cert-manager writes it. Istio's count
// where any of them is there.
const (
	PluggedCert  = "ca-cert.pem"
	PluggedKey   = "ca-key.pem"
	PluggedChain = "cert-chain.pem"
	PluggedRoot  = "root-cert.pem"

	PluggedTLSCert = "tls.crt"
	PluggedTLSKey  = "tls.key"
	PluggedTLSRoot = "ca.crt"
)

// pluggedCRL is a file of Istio's that has no effect here, which is said.
const pluggedCRL = "ca-crl.pem"

// Why an operator's CA is refused, as logs, metrics and Events have it.
const (
	ReasonMissing     = "missing"      // it is gone, though it was plugged in before
	ReasonIncomplete  = "incomplete"   // a file is missing or empty
	ReasonMalformed   = "malformed"    // a file can't be read
	ReasonKeyMismatch = "key_mismatch" // the key is not the certificate's
	ReasonKeyKind     = "key_kind"     // the key is of a kind that does not sign here
	ReasonNotCA       = "not_a_ca"     // a certificate that signs, or a root, is not a CA's
	ReasonExpired     = "expired"      // something ended
	ReasonNotYetValid = "not_yet_valid"
	ReasonChain       = "chain"       // the certificate does not verify to the root
	ReasonConstraints = "constraints" // its key usage, path length, or name constraints keep it from signing for workloads
	ReasonTooMany     = "too_many_roots"
)

// maxPluggedRoots bounds the roots of one set.
const maxPluggedRoots = 8

// PluggedError says why an operator's CA is refused.
type PluggedError struct{ Reason, Detail string }

func (e *PluggedError) Error() string {
	return "judging the plugged-in CA: " + e.Reason + ": " + e.Detail
}

// plugged is an operator's CA that can sign. Immutable.
type plugged struct {
	by issuer
	// above is what is between its certificate and the root that it verifies to.
	above []*x509.Certificate
	roots []*x509.Certificate
	// end is the earliest end of the whole path.
	end time.Time
	// direct says that the path's length leaves no room for an intermediate of ours: it signs leaves itself.
	direct bool
}

// judgePlugged reads a set and judges it at the moment now. Its errors are *PluggedError, and quote nothing of a key.
func judgePlugged(files map[string][]byte, now time.Time) (*plugged, error) {
	certPEM, keyPEM, chainPEM, rootPEM, err := pickFiles(files)
	if err != nil {
		return nil, err
	}
	own, err := readCerts(certPEM)
	if err != nil {
		return nil, err
	}
	above, err := readCerts(chainPEM)
	if err != nil {
		return nil, err
	}
	roots, err := readCerts(rootPEM)
	if err != nil {
		return nil, err
	}
	key, err := readPluggedKey(keyPEM)
	if err != nil {
		return nil, err
	}
	p := &plugged{by: issuer{own[0], key}, roots: roots}
	if err := p.judgeParts(now); err != nil {
		return nil, err
	}
	return p, p.judgePath(append(own[1:], above...), now)
}

// file is one of a set, with its name for errors.
type file struct {
	name string
	data []byte
}

func pickFiles(files map[string][]byte) (cert, key, chain, root file, err error) {
	get := func(name string) file { return file{name, files[name]} }
	cert, key, chain, root = get(PluggedTLSCert), get(PluggedTLSKey), file{}, get(PluggedTLSRoot)
	need := []string{PluggedTLSCert, PluggedTLSKey, PluggedTLSRoot}
	if istio := []string{PluggedCert, PluggedKey, PluggedChain, PluggedRoot}; slices.ContainsFunc(istio, func(n string) bool { return files[n] != nil }) {
		cert, key, chain, root = get(PluggedCert), get(PluggedKey), get(PluggedChain), get(PluggedRoot)
		need = istio
	}
	var missing []string
	for _, n := range need {
		// A chain of nothing is said by an empty file.
		if files[n] == nil || n != PluggedChain && len(bytes.TrimSpace(files[n])) == 0 {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		return cert, key, chain, root, &PluggedError{ReasonIncomplete, fmt.Sprintf("%s missing or empty, of %s", strings.Join(missing, ", "), strings.Join(need, ", "))}
	}
	return cert, key, chain, root, nil
}

func readCerts(f file) ([]*x509.Certificate, error) {
	if f.name == "" || f.name == PluggedChain && len(bytes.TrimSpace(f.data)) == 0 {
		return nil, nil
	}
	if len(f.data) > maxFileBytes {
		return nil, &PluggedError{ReasonMalformed, fmt.Sprintf("%s has %d bytes, at most %d are read", f.name, len(f.data), maxFileBytes)}
	}
	list, err := certs.ParseChainPEM(f.data)
	if err != nil {
		return nil, &PluggedError{ReasonMalformed, fmt.Sprintf("%s: %v", f.name, err)}
	}
	return list, nil
}

// readPluggedKey takes one key in PKCS#8, PKCS#1 or SEC 1; openssl puts EC PARAMETERS in front of the last.
func readPluggedKey(f file) (crypto.Signer, error) {
	malformed := &PluggedError{ReasonMalformed, f.name + ": it is not one unencrypted private key in PEM"}
	if len(f.data) > maxFileBytes {
		return nil, malformed
	}
	block, rest := pem.Decode(f.data)
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, malformed
	}
	var key any
	err := errors.New("another block")
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, malformed // the cause may quote the key
	}
	if algorithmOf(signer.Public()) == x509.UnknownSignatureAlgorithm {
		return nil, &PluggedError{ReasonKeyKind, f.name + ": ECDSA on P-256, P-384 or P-521 and RSA of 2048 to 8192 bits are taken"}
	}
	return signer, nil
}

// judgeParts looks at the signing certificate and the roots, each alone.
func (p *plugged) judgeParts(now time.Time) error {
	c := p.by.cert
	switch {
	case !publicEqual(c, p.by.key):
		return &PluggedError{ReasonKeyMismatch, "the private key is not that of the signing certificate " + shown(c)}
	case !c.BasicConstraintsValid || !c.IsCA:
		return &PluggedError{ReasonNotCA, "the signing certificate " + shown(c) + " is not a CA's"}
	case c.KeyUsage&x509.KeyUsageCertSign == 0: // X509-SVID section 4.3
		return &PluggedError{ReasonConstraints, "the signing certificate " + shown(c) + " lacks the key usage keyCertSign"}
	case len(p.roots) > maxPluggedRoots:
		return &PluggedError{ReasonTooMany, fmt.Sprintf("%d roots, at most %d are taken", len(p.roots), maxPluggedRoots)}
	}
	for _, r := range p.roots {
		switch {
		case !r.BasicConstraintsValid || !r.IsCA:
			return &PluggedError{ReasonNotCA, "the root " + shown(r) + " is not a CA's"}
		case !bytes.Equal(r.RawIssuer, r.RawSubject):
			return &PluggedError{ReasonChain, "the root " + shown(r) + " is issued by somebody else"}
		}
	}
	for _, x := range append([]*x509.Certificate{c}, p.roots...) {
		if err := judgeTime(x, now); err != nil {
			return err
		}
	}
	return nil
}

func judgeTime(c *x509.Certificate, now time.Time) error {
	switch {
	case !c.NotAfter.After(now):
		return &PluggedError{ReasonExpired, fmt.Sprintf("%s ended at %v", shown(c), c.NotAfter)}
	case c.NotBefore.After(now):
		return &PluggedError{ReasonNotYetValid, fmt.Sprintf("%s begins at %v", shown(c), c.NotBefore)}
	}
	return nil
}

// judgePath finds the way from the signing certificate to a root through what the files hold, in whatever order.
func (p *plugged) judgePath(others []*x509.Certificate, now time.Time) error {
	between, roots := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range p.roots {
		roots.AddCert(r)
	}
	for _, c := range others {
		if slices.ContainsFunc(p.roots, c.Equal) || c.Equal(p.by.cert) {
			continue
		}
		if err := judgeTime(c, now); err != nil {
			return err
		}
		between.AddCert(c)
	}
	paths, err := p.by.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return &PluggedError{reasonOf(err), fmt.Sprintf("%s does not verify to the root: %v", shown(p.by.cert), err)}
	}
	path := paths[0]
	p.end = path[0].NotAfter
	for i, c := range path {
		if c.NotAfter.Before(p.end) {
			p.end = c.NotAfter
		}
		// An intermediate of ours would be number i+1 below this one (RFC 5280 section 4.2.1.9).
		limited := c.MaxPathLen > 0 || c.MaxPathLen == 0 && c.MaxPathLenZero
		p.direct = p.direct || limited && c.MaxPathLen < i+1
	}
	if len(path) > 2 {
		p.above = path[1 : len(path)-1]
	}
	return nil
}

// reasonOf tells what a certificate forbids from one that is missing or wrong.
func reasonOf(err error) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) {
		switch invalid.Reason {
		case x509.Expired:
			return ReasonExpired
		case x509.NotAuthorizedToSign:
			return ReasonNotCA
		}
		return ReasonConstraints
	}
	return ReasonChain
}

func shown(c *x509.Certificate) string {
	return fmt.Sprintf("%q (serial %x)", c.Subject, c.SerialNumber)
}
