package sds_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/sds"
)

const (
	workload = "spiffe://cluster.local/ns/shop/sa/web"
	domain   = "spiffe://cluster.local"
)

func set(t *testing.T, src certs.Source) *sds.Set {
	t.Helper()
	s, err := sds.NewSet(src.Current())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSelect(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local").Intermediate(t)
	s := set(t, certtest.NewSource(ca.SVID(t, workload), ca.Bundle(), certtest.NewCA(t, "other.test").Bundle()))
	for _, c := range []struct {
		name          string
		ask           []string
		want, unknown []string
	}{
		{"everything", nil, []string{"ROOTCA", "default", domain, workload}, nil},
		{"one", []string{"default"}, []string{"default"}, nil},
		{"alias and ID together", []string{workload, "default", "ROOTCA", domain}, []string{"ROOTCA", "default", domain, workload}, nil},
		{"twice", []string{"ROOTCA", "ROOTCA"}, []string{"ROOTCA"}, nil},
		{"unknown ones", []string{"x", "default", "spiffe://other.test", "x"}, []string{"default"}, []string{"x", "spiffe://other.test"}},
		{"case counts", []string{"DEFAULT"}, nil, []string{"DEFAULT"}},
		{"empty name", []string{""}, nil, []string{""}},
	} {
		secrets, err := s.Select(c.ask)
		var names []string
		for _, secret := range secrets {
			names = append(names, secret.Name)
		}
		if !slices.Equal(names, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, names, c.want)
		}
		var unknown *sds.UnknownError
		if errors.As(err, &unknown) != (c.unknown != nil) || unknown != nil && !slices.Equal(unknown.Names, c.unknown) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.unknown)
		}
	}
}

func TestContent(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local").Intermediate(t)
	s := set(t, certtest.NewSource(ca.SVID(t, workload), ca.Bundle()))
	for _, name := range []string{sds.DefaultName, workload} {
		secret, _ := s.Get(name)
		if secret.Kind != sds.Certificate || secret.Roots != nil {
			t.Errorf("%s is of kind %d", name, secret.Kind)
		}
		svid, err := x509svid.Parse(secret.Chain, secret.Key)
		if err != nil || svid.ID.String() != workload || len(svid.Certificates) != 2 {
			t.Errorf("%s: go-spiffe reads %v, %v", name, svid, err)
		}
	}
	for _, name := range []string{sds.RootCAName, domain} {
		secret, _ := s.Get(name)
		if secret.Kind != sds.Validation || secret.Key != nil || secret.Chain != nil {
			t.Errorf("%s is of kind %d", name, secret.Kind)
		}
		bundle, err := x509bundle.Parse(spiffeid.RequireTrustDomainFromString("cluster.local"), secret.Roots)
		if err != nil || !bundle.HasX509Authority(ca.Root) {
			t.Errorf("%s: go-spiffe reads %v, %v", name, bundle, err)
		}
	}
}

func TestVersionsFollowContent(t *testing.T) {
	ca, next := certtest.NewCA(t, "cluster.local"), certtest.NewCA(t, "cluster.local")
	svid := ca.SVID(t, workload)
	versions := func(svid *certs.SVID, b *certs.Bundle) (own, roots, all string) {
		s := set(t, certtest.NewSource(svid, b))
		d, _ := s.Get(sds.DefaultName)
		r, _ := s.Get(sds.RootCAName)
		everything, _ := s.Select(nil)
		return d.Version, r.Version, sds.Version(everything)
	}
	own, roots, all := versions(svid, ca.Bundle())
	if o, r, a := versions(svid, ca.Bundle()); o != own || r != roots || a != all {
		t.Error("the same content has another version")
	}
	if o, r, a := versions(ca.SVID(t, workload), ca.Bundle()); o == own || r != roots || a == all {
		t.Error("a new certificate must change its version and the set's, and no other")
	}
	if o, r, a := versions(svid, next.Bundle()); o != own || r == roots || a == all {
		t.Error("new roots must change their version and the set's, and no other")
	}
	s := set(t, certtest.NewSource(svid, ca.Bundle()))
	one, _ := s.Select([]string{"default"})
	alias, _ := s.Select([]string{workload})
	if sds.Version(one) == sds.Version(alias) || sds.Version(one) == sds.Version(nil) {
		t.Error("another selection has the same version")
	}
}

func TestNothingBeforeTheFirstCertificate(t *testing.T) {
	for name, snapshot := range map[string]*certs.Snapshot{
		"none": nil, "empty": {}, "roots only": certtest.NewSource(nil, certtest.NewCA(t, "cluster.local").Bundle()).Current(),
	} {
		if _, err := sds.NewSet(snapshot); !errors.Is(err, sds.ErrNoCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ca := certtest.NewCA(t, "cluster.local")
	s := set(t, certtest.NewSource(ca.SVID(t, workload)))
	if _, ok := s.Get(sds.RootCAName); ok {
		t.Error("roots out of nothing")
	}
}
