package attest

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity"
)

type workloads map[string]string

func (w workloads) ServiceAccount(ns, workload string) (string, bool) {
	sa, ok := w[ns+"/"+workload]
	return sa, ok
}

func (w workloads) Holds(ns, sa string) bool {
	for name, got := range w {
		if strings.HasPrefix(name, ns+"/") && got == sa {
			return true
		}
	}
	return false
}

func peer(t *testing.T, uri string) identity.Peer {
	t.Helper()
	id, err := identity.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Peer{ID: id}
}

// identified is evidence and what it is good for: an identity by a proof, or with id "" an error.
type identified struct {
	ev       Evidence
	id, want string
}

func evidence(t *testing.T, dir string, now time.Time) map[string]identified {
	live := &x509.Certificate{NotAfter: now.Add(time.Minute)}
	ended := &x509.Certificate{NotAfter: now.Add(-time.Second)}
	cart := peer(t, "spiffe://mesh.test/ns/shop/sa/cart")
	token := func(ns, workload string) string {
		text, err := MintToken(dir, ns, workload, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	return map[string]identified{
		"nothing":                          {Evidence{}, "", "neither"},
		"workload name alone":              {Evidence{Workload: "shop/cart-1"}, "", "neither"},
		"peer without its certificate":     {Evidence{Peer: cart}, "", "neither"},
		"token":                            {Evidence{Token: token("shop", "cart-1")}, "cart", ProofToken},
		"token of no workload":             {Evidence{Token: token("shop", "gone")}, "", "no workload"},
		"token, no service account":        {Evidence{Token: token("shop", "none")}, "", "service account"},
		"token, the control plane's":       {Evidence{Token: token("signet-system", "evil")}, "", "reserved"},
		"garbage token":                    {Evidence{Token: "x"}, "", "parsing join token"},
		"certificate":                      {Evidence{Peer: cart, Leaf: live}, "cart", ProofCertificate},
		"certificate and workload":         {Evidence{Peer: cart, Leaf: live, Workload: "shop/cart-2"}, "cart", ProofCertificate},
		"certificate, workload gone":       {Evidence{Peer: cart, Leaf: live, Workload: "shop/cart-3"}, "", "no workload"},
		"certificate, other's workload":    {Evidence{Peer: cart, Leaf: live, Workload: "shop/admin-1"}, "", "now"},
		"certificate, other namespace":     {Evidence{Peer: cart, Leaf: live, Workload: "other/x"}, "", "namespace"},
		"certificate, no namespace":        {Evidence{Peer: cart, Leaf: live, Workload: "cart-1"}, "", "namespace"},
		"certificate ended":                {Evidence{Peer: cart, Leaf: ended}, "", "ended"},
		"certificate, account gone":        {Evidence{Peer: peer(t, "spiffe://mesh.test/ns/shop/sa/old"), Leaf: live}, "", "any more"},
		"certificate, other trust domain":  {Evidence{Peer: peer(t, "spiffe://x.test/ns/shop/sa/cart"), Leaf: live}, "", "trust domain"},
		"certificate of another shape":     {Evidence{Peer: peer(t, "spiffe://mesh.test/cart"), Leaf: live}, "", "no workload's"},
		"certificate of the control plane": {Evidence{Peer: peer(t, "spiffe://mesh.test/ns/signet-system/sa/signetd"), Leaf: live}, "", "reserved"},
		"token decides":                    {Evidence{Token: token("shop", "admin-1"), Peer: cart, Leaf: live}, "admin", ProofToken},
		"bad token, good certificate":      {Evidence{Token: "x", Peer: cart, Leaf: live}, "", "parsing"},
	}
}

func TestIdentify(t *testing.T) {
	dir, _ := stateDir(t)
	now := time.Now()
	known := workloads{
		"shop/cart-1": "cart", "shop/cart-2": "cart", "shop/admin-1": "admin", "other/x": "other",
		"signet-system/evil": "signetd", "shop/none": "",
	}
	for name, tc := range evidence(t, dir, now) {
		t.Run(name, func(t *testing.T) {
			a, err := New(td, NewTokens(dir), known)
			if err != nil {
				t.Fatal(err)
			}
			tc.ev.From = "192.0.2.7:1"
			c, err := a.Identify(t.Context(), tc.ev, now)
			if tc.id == "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, %v; want an error with %q", c, err, tc.want)
				}
				if tc.ev.Token != "" && len(tc.ev.Token) > 10 && strings.Contains(err.Error(), tc.ev.Token[len(tc.ev.Token)-43:]) {
					t.Fatal("the error quotes the token")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			caller, err := c.Bind(key(1))
			if err != nil || caller.ID.String() != "spiffe://mesh.test/ns/shop/sa/"+tc.id || caller.Proof != tc.want || caller.From != tc.ev.From {
				t.Fatalf("got %+v, %v", caller, err)
			}
			if _, err := c.Bind(key(2)); (tc.want == ProofToken) != errors.Is(err, ErrTokenBound) {
				t.Fatalf("another key: %v", err)
			}
		})
	}
}
