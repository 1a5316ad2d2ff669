package certs

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-mesh/signet/identity"
)

// The tests of this file see inside: whether an answer came from the cache can't be told from outside.

func outcome(b *Bundle, id identity.ID, from, to time.Time) verified {
	return verified{id: id, bundle: b, notBefore: from, notAfter: to}
}

func TestCacheAnswersOnlyWhileAVerificationWould(t *testing.T) {
	now := time.Now()
	who, _ := identity.Parse("spiffe://cluster.local/ns/a/sa/b")
	bundle, same := &Bundle{trustDomain: "cluster.local"}, &Bundle{trustDomain: "cluster.local"}
	snapshot := &Snapshot{Bundles: map[string]*Bundle{"cluster.local": bundle}, Generation: 7}
	key := verifiedKey{generation: 7}
	for _, c := range []struct {
		name     string
		key      verifiedKey
		snapshot *Snapshot
		at       time.Time
		want     bool
	}{
		{"hit", key, snapshot, now, true},
		{"first instant", key, snapshot, now.Add(-time.Minute), true},
		{"last instant", key, snapshot, now.Add(time.Minute), true},
		{"too early", key, snapshot, now.Add(-time.Minute - 1), false},
		{"too late", key, snapshot, now.Add(time.Minute + 1), false},
		{"another generation", verifiedKey{generation: 8}, snapshot, now, false},
		{"another bundle under the same generation", key, &Snapshot{Bundles: map[string]*Bundle{"cluster.local": same}, Generation: 7}, now, false},
		{"bundle gone", key, &Snapshot{Generation: 7}, now, false},
	} {
		cache := newVerifiedCache(4)
		cache.put(key, outcome(bundle, who, now.Add(-time.Minute), now.Add(time.Minute)))
		id, ok := cache.get(c.key, c.snapshot, c.at)
		if ok != c.want || ok && id != who || !ok && !id.IsZero() {
			t.Errorf("%s: got %q, %v", c.name, id, ok)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Now()
	who, _ := identity.Parse("spiffe://cluster.local/ns/a/sa/b")
	bundle := &Bundle{trustDomain: "cluster.local"}
	snapshot := &Snapshot{Bundles: map[string]*Bundle{"cluster.local": bundle}}
	cache := newVerifiedCache(3)
	for g := range uint64(100) {
		cache.put(verifiedKey{generation: g}, outcome(bundle, who, now, now))
		cache.get(verifiedKey{generation: 0}, snapshot, now) // kept by use
	}
	if len(cache.entries) != 3 || cache.order.Len() != 3 {
		t.Fatalf("holds %d and %d entries", len(cache.entries), cache.order.Len())
	}
	for g, want := range map[uint64]bool{0: true, 99: true, 98: true, 97: false} {
		if _, ok := cache.get(verifiedKey{generation: g}, snapshot, now); ok != want {
			t.Errorf("entry %d: present %v, want %v", g, ok, want)
		}
	}
}

func TestKeyCoversTheWholeChain(t *testing.T) {
	a, b := &x509.Certificate{Raw: []byte("ab")}, &x509.Certificate{Raw: []byte("c")}
	c, d := &x509.Certificate{Raw: []byte("a")}, &x509.Certificate{Raw: []byte("bc")}
	keys := map[verifiedKey]string{}
	for name, k := range map[string]verifiedKey{
		"ab c":              keyOf([]*x509.Certificate{a, b}, 1),
		"a bc":              keyOf([]*x509.Certificate{c, d}, 1),
		"c ab":              keyOf([]*x509.Certificate{b, a}, 1),
		"ab":                keyOf([]*x509.Certificate{a}, 1),
		"ab, next":          keyOf([]*x509.Certificate{a}, 2),
		"nothing presented": keyOf(nil, 1),
	} {
		if other, double := keys[k]; double {
			t.Errorf("%q and %q have the same key", name, other)
		}
		keys[k] = name
	}
}

// A repeated peer is answered from the cache, and never beyond the moment when its leaf or an intermediate ends.
func TestVerifierForgetsWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, rootKey := selfMade(t, nil, nil, true, 24*time.Hour)
		mid, midKey := selfMade(t, root, rootKey, true, 30*time.Minute) // ends before its leaf
		leaf, leafKey := selfMade(t, mid, midKey, false, time.Hour)
		bundle, err := NewBundle("cluster.local", []*x509.Certificate{root})
		if err != nil {
			t.Fatal(err)
		}
		var src Cell
		src.Set(nil, map[string]*Bundle{"cluster.local": bundle})
		judged := 0
		v := newVerifier(&src, func(identity.ID) error { judged++; return nil })
		cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf, mid}}
		for range 3 {
			if err := v.verifyConnection(cs); err != nil {
				t.Fatal(err)
			}
		}
		if len(v.cache.entries) != 1 || judged != 3 {
			t.Errorf("%d entries, accept asked %d times", len(v.cache.entries), judged)
		}
		// A remembered chain with another leaf in front is another chain.
		fake, _ := selfMade(t, leaf, leafKey, false, time.Hour)
		if err := v.verifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{fake, leaf, mid}}); ReasonOf(err) != UntrustedCA {
			t.Errorf("forged leaf: %v", err)
		}
		time.Sleep(30*time.Minute + time.Second)
		if err := v.verifyConnection(cs); ReasonOf(err) != Expired {
			t.Errorf("after the intermediate's end: %v", err)
		}
	})
}

func BenchmarkVerifyConnection(b *testing.B) {
	root, rootKey := selfMade(b, nil, nil, true, 24*time.Hour)
	mid, midKey := selfMade(b, root, rootKey, true, time.Hour)
	leaf, _ := selfMade(b, mid, midKey, false, time.Hour)
	bundle, err := NewBundle("cluster.local", []*x509.Certificate{root})
	if err != nil {
		b.Fatal(err)
	}
	var src Cell
	src.Set(nil, map[string]*Bundle{"cluster.local": bundle})
	cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf, mid}}
	for name, limit := range map[string]int{"remembered": 16, "in full": 0} {
		b.Run(name, func(b *testing.B) {
			v := newVerifier(&src, func(identity.ID) error { return nil })
			v.cache = newVerifiedCache(limit)
			for b.Loop() {
				if err := v.verifyConnection(cs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
