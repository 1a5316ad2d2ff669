package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/signet-mesh/signet/mesh"
)

func TestAssign(t *testing.T) {
	var hosts []string
	for i := range 5000 {
		hosts = append(hosts, fmt.Sprintf("host-%d.example.com", i))
	}
	first := Assign(hosts)
	seen := map[netip.Addr]string{}
	for h, pair := range first {
		if !range4.Contains(pair[0]) || !range6.Contains(pair[1]) || pair[0] == netip.MustParseAddr("240.240.0.0") || pair[0] == netip.MustParseAddr("240.240.255.255") {
			t.Fatalf("%s: %v", h, pair)
		}
		for _, a := range pair {
			if seen[a] != "" {
				t.Fatalf("%s and %s have %s", h, seen[a], a)
			}
			seen[a] = h
		}
	}
	// In whatever order and case they come, a restarted sidecar gives the same.
	for i, j := 0, len(hosts)-1; i < j; i, j = i+1, j-1 {
		hosts[i], hosts[j] = hosts[j], hosts[i]
	}
	hosts[0] = "HOST-4999.Example.com"
	if again := Assign(hosts); !maps.Equal(first, again) {
		t.Error("the same hosts got other addresses")
	}
}

// TestAssignerKeeps is that no host's address changes while the sidecar runs, though hosts with the same hash come and go.
func TestAssignerKeeps(t *testing.T) {
	var a Assigner
	have := map[string][2]netip.Addr{}
	for i := range 2000 {
		var hosts []string
		for j := 2000 - i; j <= 2000; j++ {
			hosts = append(hosts, fmt.Sprintf("host-%d", j))
		}
		if i%50 != 0 {
			continue
		}
		now := a.Assign(hosts)
		for h, pair := range have {
			if now[h] != pair {
				t.Fatalf("%s: %v became %v", h, pair, now[h])
			}
		}
		have = now
	}
}

// TestAssignMore is more hosts than there are addresses.
func TestAssignMore(t *testing.T) {
	var hosts []string
	for i := range assignable + 10 {
		hosts = append(hosts, fmt.Sprintf("h%d", i))
	}
	if got := Assign(hosts); len(got) != assignable {
		t.Errorf("%d hosts have an address", len(got))
	}
}

func TestFill(t *testing.T) {
	prefix := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	v := &mesh.View{Services: []*mesh.Service{
		{Host: "api.example.com"}, {Host: "db.example.com", Resolution: mesh.ByDNS}, {Host: "has.example.com", Addresses: prefix},
		{Host: "original.example.com", Resolution: mesh.Original}, {Host: "*.wild.example.com"},
		{Host: "headless.shop.svc.cluster.local", Kubernetes: true, Resolution: mesh.Original}, {Host: "external.shop.svc.cluster.local", Kubernetes: true, Resolution: mesh.ByDNS},
	}}
	var a Assigner
	got := a.Fill(v)
	want := Assign([]string{"api.example.com", "db.example.com"})
	for i, s := range got.Services {
		pair, assigned := want[s.Host]
		switch {
		case assigned && (!s.Assigned || len(s.Addresses) != 2 || s.Addresses[0].Addr() != pair[0] || s.Addresses[1].Addr() != pair[1] || !s.Addresses[0].IsSingleIP()):
			t.Errorf("%s: %v", s.Host, s.Addresses)
		case !assigned && s != v.Services[i]:
			t.Errorf("%s was changed", s.Host)
		}
	}
	if len(v.Services[0].Addresses) != 0 {
		t.Error("the view that was given was changed")
	}
}
