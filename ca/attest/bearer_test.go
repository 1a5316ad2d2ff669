package attest

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

// bearers knows tokens by their text: NAMESPACE/ACCOUNT/POD.
type bearers map[string]string

func (b bearers) Identify(ctx context.Context, token string, _ time.Time) (namespace, serviceAccount, pod string, err error) {
	if ctx.Err() != nil {
		return "", "", "", ctx.Err()
	}
	who, ok := b[token]
	if !ok {
		return "", "", "", errors.New("unknown to the bearers")
	}
	parts := strings.Split(who, "/")
	return parts[0], parts[1], parts[2], nil
}

func TestBearers(t *testing.T) {
	dir, _ := stateDir(t)
	now := time.Now()
	all := bearers{"a.b.c": "shop/cart/cart-1", "d.e.f": "signet-system/signetd/x", "g.h.i": "shop//x"}
	join, err := MintToken(dir, "shop", "cart-1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	live := &x509.Certificate{NotAfter: now.Add(time.Minute)}
	tests := map[string]struct {
		ev   Evidence
		want string // of the error, "" for none
	}{
		"token":                       {ev: Evidence{Token: "a.b.c"}},
		"token beside a certificate":  {ev: Evidence{Token: "a.b.c", Peer: peer(t, "spiffe://mesh.test/ns/shop/sa/other"), Leaf: live}},
		"unknown token":               {ev: Evidence{Token: "x"}, want: "unknown to the bearers"},
		"unknown, good certificate":   {ev: Evidence{Token: "x", Peer: peer(t, "spiffe://mesh.test/ns/shop/sa/cart"), Leaf: live}, want: "unknown to the bearers"},
		"the control plane's account": {ev: Evidence{Token: "d.e.f"}, want: "reserved"},
		"no account":                  {ev: Evidence{Token: "g.h.i"}, want: "service account"},
		"join token":                  {ev: Evidence{Token: join}, want: "join tokens are not taken here"},
		"certificate":                 {ev: Evidence{Peer: peer(t, "spiffe://mesh.test/ns/shop/sa/cart"), Leaf: live}, want: "a renewal needs a service-account token"},
		"certificate and living pod":  {ev: Evidence{Peer: peer(t, "spiffe://mesh.test/ns/shop/sa/cart"), Leaf: live, Workload: "shop/cart-1"}, want: "a renewal needs a service-account token"},
		"nothing":                     {want: "neither"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := NewWithBearers(td, all)
			if err != nil {
				t.Fatal(err)
			}
			c, err := a.Identify(t.Context(), tt.ev, now)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, %v; want an error with %q", c, err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if caller, err := c.Bind(key(1)); err != nil || caller.Proof != ProofBearer || caller.ID.String() != "spiffe://mesh.test/ns/shop/sa/cart" {
				t.Errorf("got %+v, %v", caller, err)
			}
		})
	}
	if _, err := NewWithBearers(td, nil); err == nil {
		t.Error("an attestor without bearers was built")
	}
}
