package rotate_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/identity"
)

const workload = "spiffe://cluster.local/ns/shop/sa/web"

// issuer answers CSRs out of a test CA, or with what a test puts in its way.
type issuer struct {
	mu   sync.Mutex // guards what follows
	t    *testing.T
	ca   *certtest.CA
	id   string
	ttl  time.Duration
	fail error
	hang bool
	// answer replaces the CA's answer when set.
	answer func(public crypto.PublicKey) *certs.Issued

	calls []call
}

type call struct {
	at   time.Time
	key  crypto.PublicKey
	ttl  time.Duration
	held bool // current had an SVID
}

func (i *issuer) Issue(ctx context.Context, csr []byte, ttl time.Duration, current *certs.Snapshot) (*certs.Issued, error) {
	block, rest := pem.Decode(csr)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		i.t.Errorf("CSR is not one PEM block: %q", csr)
		return nil, errors.New("bad CSR")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || req.CheckSignature() != nil {
		i.t.Errorf("CSR is broken: %v", err)
		return nil, errors.New("bad CSR")
	}
	i.mu.Lock()
	i.calls = append(i.calls, call{time.Now(), req.PublicKey, ttl, current.SVID != nil})
	hang, fail, answer := i.hang, i.fail, i.answer
	i.mu.Unlock()
	switch {
	case hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case fail != nil:
		return nil, fail
	case answer != nil:
		return answer(req.PublicKey), nil
	}
	return i.issue(req.PublicKey), nil
}

func (i *issuer) seen() []call {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.calls)
}

func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *issuer) issue(public crypto.PublicKey) *certs.Issued {
	return &certs.Issued{Chain: i.ca.ChainFor(i.t, public, i.id, certtest.TTL(i.ttl)), Roots: []*x509.Certificate{i.ca.Root}}
}

func (c call) sameKey(o call) bool { return c.key.(*ecdsa.PublicKey).Equal(o.key) }

// bubble runs a rotator under fake time. The body starts with Run under way; Run is ended and waited for after it.
func bubble(t *testing.T, change func(*rotate.Config), body func(*testing.T, *rotate.Rotator, *issuer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{t: t, ca: certtest.NewCA(t, "cluster.local").Intermediate(t), id: workload, ttl: time.Hour}
		cfg := rotate.Config{Issuer: i, Log: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&cfg)
		}
		r, err := rotate.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		body(t, r, i)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRenewsAtHalfLife(t *testing.T) {
	var generations []uint64
	bubble(t, func(c *rotate.Config) {
		c.TTL = 90 * time.Minute
		c.OnChange = func(s *certs.Snapshot) { generations = append(generations, s.Generation) }
	}, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		start := time.Now()
		synctest.Wait()
		first, replaced := r.Watch()
		if first.SVID == nil || first.SVID.ID.String() != workload {
			t.Fatalf("no certificate at once: %v, %v", first, r.Status().LastError)
		}
		if key, ok := first.SVID.Key.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("key is a %T", first.SVID.Key)
		}
		if len(first.SVID.Chain) != 2 || i.seen()[0].ttl != 90*time.Minute || i.seen()[0].held {
			t.Errorf("chain of %d, call %+v", len(first.SVID.Chain), i.seen()[0])
		}
		<-replaced
		if after := time.Since(start); after < 27*time.Minute || after > 33*time.Minute {
			t.Errorf("renewed after %v of an hour", after)
		}
		second := r.Current()
		if i.seen()[1].sameKey(i.seen()[0]) || !i.seen()[1].held {
			t.Error("the second certificate is for the first key, or wasn't asked for with the first")
		}
		if second.Bundles["cluster.local"] != first.Bundles["cluster.local"] {
			t.Error("unchanged roots became another bundle")
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		s := r.Status()
		if s.Failures != 0 || s.LastError != nil || s.Renewals != len(i.seen()) || !s.NotAfter.Equal(r.Current().SVID.Leaf().NotAfter) {
			t.Errorf("status %+v after %d calls", s, len(i.seen()))
		}
		if n := len(i.seen()); n < 6 || n > 9 {
			t.Errorf("%d certificates in 3.5 hours", n)
		}
	})
	for n, g := range generations {
		if n > 0 && g <= generations[n-1] {
			t.Errorf("generations %v don't grow", generations)
		}
	}
}

func TestNewRootsComeWithTheNextCertificate(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		synctest.Wait()
		before, replaced := r.Watch()
		next := certtest.NewCA(t, "cluster.local")
		old := i.ca.Root
		i.set(func() {
			i.answer = func(public crypto.PublicKey) *certs.Issued {
				out := i.issue(public)
				out.Roots = []*x509.Certificate{old, next.Cert}
				out.Chain = append(out.Chain, old) // some CAs send the root along: it is no part of the chain
				return out
			}
		})
		<-replaced
		after := r.Current()
		if len(before.Bundles["cluster.local"].Roots()) != 1 || len(after.Bundles["cluster.local"].Roots()) != 2 {
			t.Error("roots weren't taken over")
		}
		if len(after.SVID.Chain) != 2 {
			t.Errorf("chain has %d certificates", len(after.SVID.Chain))
		}
	})
}

// TestRootsAreToldAhead: roots that the control plane tells are trusted beside those of the certificate, before the first one, over
// renewals, and until others are told.
func TestRootsAreToldAhead(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		old, next, third := i.ca.Root, certtest.NewCA(t, "cluster.local").Root, certtest.NewCA(t, "cluster.local").Root
		trusted := func(roots ...*x509.Certificate) bool {
			have := r.Current().Bundles["cluster.local"].Roots()
			return len(have) == len(roots) && !slices.ContainsFunc(roots, func(c *x509.Certificate) bool { return !slices.ContainsFunc(have, c.Equal) })
		}
		tell := func(roots ...*x509.Certificate) {
			t.Helper()
			if err := r.Trust(roots); err != nil {
				t.Error(err)
			}
		}
		tell(next)
		synctest.Wait()
		if !trusted(old, next) {
			t.Error("what was told before the first certificate is lost")
		}
		before, replaced := r.Watch()
		tell(old, third)
		if !trusted(old, third) || r.Current().SVID != before.SVID {
			t.Error("other roots are not taken")
		}
		<-replaced
		_, replaced = r.Watch()
		tell(old, third)
		select {
		case <-replaced:
			t.Error("the same roots replace the snapshot")
		default:
		}
		<-replaced
		if !trusted(old, third) || r.Current().SVID == before.SVID {
			t.Error("a renewal drops what was told")
		}
		leaf := *third
		leaf.IsCA = false
		if r.Trust([]*x509.Certificate{&leaf}) == nil || !trusted(old, third) {
			t.Error("what is no CA certificate is taken")
		}
	})
}

func TestFirstKeyIsKeptOverRetries(t *testing.T) {
	away := func(c *rotate.Config) { c.Issuer.(*issuer).fail = errors.New("control plane is away") }
	bubble(t, away, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		s := r.Status()
		if !errors.Is(s.LastError, i.fail) || s.Failures != len(i.seen()) || !s.NotAfter.IsZero() {
			t.Errorf("status %+v after %d calls", s, len(i.seen()))
		}
		for n, c := range i.seen() {
			if !c.sameKey(i.seen()[0]) {
				t.Fatalf("call %d has another key", n)
			}
			if n == 0 {
				continue
			}
			gap := c.at.Sub(i.seen()[n-1].at)
			want := min(200*time.Millisecond<<min(n-1, 10), 15*time.Second)
			if gap < want/2 || gap > want {
				t.Errorf("pause %d is %v, want %v to %v", n, gap, want/2, want)
			}
		}
		i.set(func() { i.fail = nil })
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if got := r.Current().SVID; got == nil || !i.seen()[0].key.(*ecdsa.PublicKey).Equal(got.Leaf().PublicKey) {
			t.Error("no certificate for the first key when the control plane was back")
		}
	})
}

func TestOutageKeepsTheCertificateAndEndsByItself(t *testing.T) {
	bubble(t, nil, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		synctest.Wait()
		held := r.Current()
		i.set(func() { i.fail = errors.New("control plane is away") })
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		if r.Current() != held {
			t.Fatal("the certificate was dropped while it was valid")
		}
		renewing := i.seen()[1]
		for n, c := range i.seen()[1:] {
			if !c.sameKey(renewing) || c.sameKey(i.seen()[0]) {
				t.Fatalf("retry %d has another key than the first try, or the first certificate's", n)
			}
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		last := i.seen()[len(i.seen())-1]
		if r.Current() != held || !last.sameKey(i.seen()[0]) {
			t.Error("after its end it isn't asked for with the key that a join token knows")
		}
		if gap := last.at.Sub(i.seen()[len(i.seen())-2].at); gap > 15*time.Second {
			t.Errorf("asks every %v", gap)
		}
		i.set(func() { i.fail = nil })
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if r.Current() == held || r.Status().Failures != 0 {
			t.Errorf("it doesn't recover: %+v", r.Status())
		}
	})
}

// A hung CA costs a bounded part of what is left, and retries come fast enough for a certificate of seconds.
func TestShortLifeAndHungIssuer(t *testing.T) {
	short := func(c *rotate.Config) { c.Issuer.(*issuer).ttl = 20 * time.Second }
	bubble(t, short, func(t *testing.T, r *rotate.Rotator, i *issuer) {
		synctest.Wait()
		i.set(func() { i.hang = true })
		time.Sleep(19 * time.Second)
		synctest.Wait()
		if n := len(i.seen()) - 1; n < 3 {
			t.Errorf("only %d tries in the second half of 20 s", n)
		}
		i.set(func() { i.hang = false })
		_, replaced := r.Watch()
		<-replaced
		if left := time.Until(r.Current().SVID.Leaf().NotAfter); left < 15*time.Second {
			t.Errorf("new certificate has %v left", left)
		}
	})
}

func TestBadAnswersAreNotUsed(t *testing.T) {
	other := func(i *issuer, id string, opts ...certtest.Option) func(crypto.PublicKey) *certs.Issued {
		return func(public crypto.PublicKey) *certs.Issued {
			return &certs.Issued{Chain: i.ca.ChainFor(i.t, public, id, opts...), Roots: []*x509.Certificate{i.ca.Root}}
		}
	}
	cases := map[string]func(*issuer) func(crypto.PublicKey) *certs.Issued{
		"nil": func(*issuer) func(crypto.PublicKey) *certs.Issued {
			return func(crypto.PublicKey) *certs.Issued { return nil }
		},
		"empty": func(*issuer) func(crypto.PublicKey) *certs.Issued {
			return func(crypto.PublicKey) *certs.Issued { return &certs.Issued{} }
		},
		"another's identity": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return other(i, "spiffe://cluster.local/ns/shop/sa/db")
		},
		"another trust domain": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return other(i, "spiffe://other.test/ns/shop/sa/web")
		},
		"expired": func(i *issuer) func(crypto.PublicKey) *certs.Issued { return other(i, workload, certtest.Expired()) },
		"not yet valid": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return other(i, workload, certtest.NotYetValid())
		},
		"a CA": func(i *issuer) func(crypto.PublicKey) *certs.Issued { return other(i, workload, certtest.AsCA()) },
		"for another key": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return func(crypto.PublicKey) *certs.Issued { return i.issue(certtest.NewKey(i.t).Public()) }
		},
		"without roots": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return func(p crypto.PublicKey) *certs.Issued { return &certs.Issued{Chain: i.issue(p).Chain} }
		},
		"with another's roots": func(i *issuer) func(crypto.PublicKey) *certs.Issued {
			return func(p crypto.PublicKey) *certs.Issued {
				return &certs.Issued{Chain: i.issue(p).Chain, Roots: []*x509.Certificate{certtest.NewCA(i.t, "cluster.local").Cert}}
			}
		},
	}
	for name, bad := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, r *rotate.Rotator, i *issuer) {
				synctest.Wait()
				held := r.Current()
				i.set(func() { i.answer = bad(i) })
				time.Sleep(50 * time.Minute)
				synctest.Wait()
				if r.Current() != held || r.Status().LastError == nil || r.Status().Failures == 0 {
					t.Errorf("status %+v, replaced %v", r.Status(), r.Current() != held)
				}
			})
		})
	}
	t.Run("the first names another than configured", func(t *testing.T) {
		want, err := identity.Parse("spiffe://cluster.local/ns/shop/sa/db")
		if err != nil {
			t.Fatal(err)
		}
		bubble(t, func(c *rotate.Config) { c.ID = want }, func(t *testing.T, r *rotate.Rotator, _ *issuer) {
			synctest.Wait()
			if r.Current().SVID != nil || certs.ReasonOf(r.Status().LastError) != certs.UnexpectedIdentity {
				t.Errorf("status %+v", r.Status())
			}
		})
	})
}

// A CA whose clock is behind must not be asked without pause.
func TestCertificatePastItsHalfAtBirth(t *testing.T) {
	behind := func(c *rotate.Config) {
		i := c.Issuer.(*issuer)
		i.answer = func(public crypto.PublicKey) *certs.Issued {
			now := time.Now()
			chain := i.ca.ChainFor(i.t, public, workload, certtest.Valid(now.Add(-time.Hour), now.Add(10*time.Minute)))
			return &certs.Issued{Chain: chain, Roots: []*x509.Certificate{i.ca.Root}}
		}
	}
	bubble(t, behind, func(t *testing.T, _ *rotate.Rotator, i *issuer) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(i.seen()); n < 2 || n > 12 {
			t.Errorf("%d calls in ten minutes", n)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]rotate.Config{
		"no issuer":    {Log: log},
		"no log":       {Issuer: &issuer{}},
		"negative TTL": {Issuer: &issuer{}, Log: log, TTL: -1},
	} {
		if _, err := rotate.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
