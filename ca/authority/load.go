package authority

import (
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/signet-mesh/signet/ca"
)

// load reads the directory, makes what is missing of a first start, and checks everything.
func (a *Authority) load() error {
	if err := a.dir.sweepTemp(); err != nil {
		return err
	}
	if err := a.loadTrustDomain(); err != nil {
		return err
	}
	if err := a.loadRoot(); err != nil {
		return err
	}
	p, err := a.loadIntermediate()
	if err != nil {
		return err
	}
	if !renewAt(p.cert).After(a.opts.Now()) {
		return a.renew()
	}
	return a.activate(p)
}

func (a *Authority) loadTrustDomain() error {
	name, ok, err := a.dir.read(trustDomainFile)
	if err != nil {
		return err
	}
	if ok {
		if got := strings.TrimSpace(string(name)); got != a.td {
			return fmt.Errorf("it belongs to trust domain %q, not %q", got, a.td)
		}
		return nil
	}
	for _, f := range []string{rootKeyFile, ca.RootCertFile, caKeyFile, caCertFile, caNextKeyFile} {
		if _, ok, err := a.dir.read(f); ok || err != nil {
			return errors.Join(fmt.Errorf("file %q is missing but %q is there", trustDomainFile, f), err)
		}
	}
	return a.dir.write(trustDomainFile, []byte(a.td+"\n"))
}

// loadRoot goes by what the order of writing can leave: nothing, the key alone, or both. A certificate of any kind
// without the root's is not that.
func (a *Authority) loadRoot() error {
	key, haveKey, err := a.dir.readKey(rootKeyFile)
	if err != nil {
		return err
	}
	cert, haveCert, err := a.dir.readCert(ca.RootCertFile)
	if err != nil {
		return err
	}
	switch {
	case haveCert && !haveKey:
		return fmt.Errorf("file %q is missing but %q is there", rootKeyFile, ca.RootCertFile)
	case !haveCert:
		for _, f := range []string{caCertFile, caKeyFile, caNextKeyFile} {
			if _, ok, err := a.dir.read(f); ok || err != nil {
				return errors.Join(fmt.Errorf("file %q is missing but %q is there", ca.RootCertFile, f), err)
			}
		}
		return a.makeRoot(pair{key: key})
	}
	a.root = pair{cert: cert, key: key}
	if err := checkRoot(a.root, a.td); err != nil {
		return fmt.Errorf("checking %q: %w", ca.RootCertFile, err)
	}
	if now := a.opts.Now(); !cert.NotAfter.After(now) {
		return fmt.Errorf("the root in %q ended at %v", ca.RootCertFile, cert.NotAfter)
	}
	return nil
}

func (a *Authority) makeRoot(p pair) error {
	if p.key == nil {
		key, err := newKey()
		if err != nil {
			return err
		}
		if err := a.dir.writeKey(rootKeyFile, key); err != nil {
			return err
		}
		p.key = key
	}
	cert, err := signAuthority(order{
		profile: rootProfile, name: "Signet root CA", trustDomain: a.td,
		key: p.key, now: a.opts.Now(), ttl: a.opts.RootTTL,
	})
	if err != nil {
		return fmt.Errorf("making root certificate: %w", err)
	}
	p.cert = cert
	if err := checkRoot(p, a.td); err != nil {
		return fmt.Errorf("checking new root certificate: %w", err)
	}
	if err := a.dir.writeCert(ca.RootCertFile, cert); err != nil {
		return err
	}
	a.root = p
	a.opts.Log.Info("root certificate made", "trust_domain", a.td, "not_after", cert.NotAfter)
	return nil
}

// loadIntermediate goes by what the order of writing can leave: no intermediate at all (it is made), one whose key is
// still called next (it is put in place), or one with its key and perhaps the key of a renewal that never got its
// certificate (it is removed).
func (a *Authority) loadIntermediate() (pair, error) {
	cert, haveCert, err := a.dir.readCert(caCertFile)
	if err != nil {
		return pair{}, err
	}
	key, haveKey, err := a.dir.readKey(caKeyFile)
	if err != nil {
		return pair{}, err
	}
	next, haveNext, err := a.dir.readKey(caNextKeyFile)
	if err != nil {
		return pair{}, err
	}
	switch {
	case !haveCert && haveKey:
		return pair{}, fmt.Errorf("file %q is missing but %q is there", caCertFile, caKeyFile)
	case !haveCert:
		p, err := a.makeIntermediate()
		if err != nil {
			return pair{}, err
		}
		return p, a.dir.saveIntermediate(p)
	case haveNext && publicEqual(cert, next):
		if err := a.dir.promoteKey(); err != nil {
			return pair{}, err
		}
		key, haveKey = next, true
	case haveNext:
		if err := a.dir.remove(caNextKeyFile); err != nil {
			return pair{}, err
		}
	}
	if !haveKey {
		return pair{}, fmt.Errorf("file %q is missing but %q is there", caKeyFile, caCertFile)
	}
	p := pair{cert: cert, key: key}
	if err := checkIntermediate(p, a.root.cert, a.td); err != nil {
		return pair{}, fmt.Errorf("checking %q: %w", caCertFile, err)
	}
	return p, nil
}

func checkRoot(p pair, td string) error {
	if err := checkAuthority(p, td); err != nil {
		return err
	}
	if err := p.cert.CheckSignatureFrom(p.cert); err != nil {
		return fmt.Errorf("it is not signed by itself: %w", err)
	}
	return nil
}

func checkIntermediate(p pair, root *x509.Certificate, td string) error {
	if err := checkAuthority(p, td); err != nil {
		return err
	}
	if p.cert.MaxPathLen != 0 || !p.cert.MaxPathLenZero {
		return fmt.Errorf("path length is %d, not 0", p.cert.MaxPathLen)
	}
	if err := p.cert.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("it is not signed by the root: %w", err)
	}
	return nil
}

// checkAuthority holds a signing certificate against X509-SVID section 4 and against its key.
func checkAuthority(p pair, td string) error {
	c := p.cert
	switch {
	case p.key == nil || !publicEqual(c, p.key):
		return errors.New("the key is not the certificate's")
	case p.key.Curve != elliptic.P256():
		return fmt.Errorf("the key is on curve %s, not P-256", p.key.Curve.Params().Name)
	case !c.IsCA || !c.BasicConstraintsValid:
		return errors.New("it is not a CA's")
	case c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return fmt.Errorf("key usage is %#x, not keyCertSign and cRLSign", int(c.KeyUsage))
	case len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://"+td:
		return fmt.Errorf("URI SANs are %q, not spiffe://%s", c.URIs, td)
	case c.SerialNumber.Sign() <= 0:
		return errors.New("serial is not positive")
	}
	return nil
}
