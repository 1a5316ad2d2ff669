package certs_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
)

func TestVerify(t *testing.T) {
	now := time.Now()
	home, away, stranger := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "other.test"), certtest.NewCA(t, "cluster.local")
	below := home.Intermediate(t).Intermediate(t)
	long := home
	for range certs.MaxChain {
		long = long.Intermediate(t)
	}
	trusted := bundles(home, away)
	chainOf := func(ca *certtest.CA, id string, opts ...certtest.Option) []*x509.Certificate {
		chain, _ := ca.Chain(t, id, opts...)
		return chain
	}
	for _, c := range []struct {
		name   string
		chain  []*x509.Certificate
		at     time.Time
		reason certs.Reason
		seen   string
	}{
		{"good", chainOf(home, workload), now, "", ""},
		{"good through intermediates", chainOf(below, workload), now, "", ""},
		{"good, of the other domain", chainOf(away, "spiffe://other.test/ns/a/sa/b"), now, "", ""},
		{"good, no extended key usage", chainOf(home, workload, certtest.Template(func(c *x509.Certificate) { c.ExtKeyUsage = nil })), now, "", ""},
		{"good, server only", chainOf(home, workload, certtest.Template(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})), now, "", ""},
		{"nothing", nil, now, certs.NoCertificate, ""},
		{"another CA", chainOf(stranger, workload), now, certs.UntrustedCA, workload},
		{"another domain's CA for ours", chainOf(away, workload), now, certs.UntrustedCA, workload},
		{"our CA for another domain", chainOf(home, "spiffe://other.test/ns/a/sa/b"), now, certs.UntrustedCA, "spiffe://other.test/ns/a/sa/b"},
		{"unknown domain", chainOf(home, "spiffe://third.test/ns/a/sa/b"), now, certs.TrustDomain, "spiffe://third.test/ns/a/sa/b"},
		{"intermediate missing", chainOf(below, workload)[:2], now, certs.UntrustedCA, workload},
		{"chain too long", chainOf(long, workload), now, certs.UntrustedCA, workload},
		{"expired", chainOf(home, workload, certtest.Expired()), now, certs.Expired, workload},
		{"not yet valid", chainOf(home, workload, certtest.NotYetValid()), now, certs.NotYetValid, workload},
		{"expired and of another CA", chainOf(stranger, workload, certtest.Expired()), now, certs.UntrustedCA, workload},
		{"expired at that time", chainOf(home, workload), now.Add(2 * time.Hour), certs.Expired, workload},
		{"intermediate expired", chainOf(below, workload, certtest.Valid(now, now.Add(3*365*24*time.Hour))), now.Add(400 * 24 * time.Hour), certs.Expired, workload},
		{"unknown critical extension", chainOf(home, workload, critical()), now, certs.UntrustedCA, workload},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := certs.Verify(c.chain, trusted, c.at)
			if got := certs.ReasonOf(err); got != c.reason {
				t.Fatalf("got %v, want reason %q", err, c.reason)
			}
			agreeWithGoSPIFFE(t, c.chain, c.at, err == nil, home, away)
			if err == nil {
				if want := c.chain[0].URIs[0].String(); id.String() != want {
					t.Errorf("ID is %q, want %q", id, want)
				}
				return
			}
			if !id.IsZero() {
				t.Errorf("refused, and yet it names %q", id)
			}
			if !strings.Contains(err.Error(), string(c.reason)) || !strings.Contains(err.Error(), c.seen) {
				t.Errorf("error %q doesn't name reason and ID", err)
			}
		})
	}
}

// agreeWithGoSPIFFE has every chain judged by the other implementation.
func agreeWithGoSPIFFE(t *testing.T, chain []*x509.Certificate, at time.Time, want bool, cas ...*certtest.CA) {
	t.Helper()
	if len(chain) > certs.MaxChain {
		return // a limit of our own
	}
	set := x509bundle.NewSet()
	for _, ca := range cas {
		set.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(ca.TrustDomain), []*x509.Certificate{ca.Root}))
	}
	if _, _, err := x509svid.Verify(chain, set, x509svid.WithTime(at)); (err == nil) != want {
		t.Errorf("go-spiffe says %v", err)
	}
}

func critical() certtest.Option {
	return certtest.Template(func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, certtest.Extension([]int{1, 3, 6, 1, 4, 1, 99999, 1}, true, []byte{5, 0}))
	})
}

func TestVerifyNeedsTheBundleOfTheDomain(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	chain, _ := ca.Chain(t, workload)
	if _, err := certs.Verify(chain, nil, time.Now()); certs.ReasonOf(err) != certs.TrustDomain {
		t.Errorf("no bundles: %v", err)
	}
	misfiled := map[string]*certs.Bundle{"cluster.local": certtest.NewCA(t, "other.test").Bundle()}
	if _, err := certs.Verify(chain, misfiled, time.Now()); certs.ReasonOf(err) != certs.TrustDomain {
		t.Errorf("bundle filed under another's name: %v", err)
	}
}
