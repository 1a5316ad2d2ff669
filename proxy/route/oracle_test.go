package route

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// linearLookup is what Lookup means, said plainly: the exact host, else the longest wildcard, else "*".
func linearLookup(hosts []*VirtualHost, host string, port uint16) *VirtualHost {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	var best *VirtualHost
	for _, v := range hosts {
		switch {
		case v.Port != port:
		case v.Host == host:
			return v
		case v.Host == "*" || strings.HasPrefix(v.Host, "*.") && len(host) > len(v.Host)-1 && strings.HasSuffix(host, v.Host[1:]):
			if best == nil || len(v.Host) > len(best.Host) {
				best = v
			}
		}
	}
	return best
}

func TestLookupAgainstLinear(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	name := func() string {
		labels := make([]string, 1+r.IntN(4))
		for i := range labels {
			labels[i] = string("ab"[r.IntN(2)])
		}
		return strings.Join(labels, ".")
	}
	found := 0
	for range 300 {
		var hosts []*VirtualHost
		seen := map[string]bool{}
		for range r.IntN(12) {
			v := &VirtualHost{Host: name(), Port: uint16(80 + r.IntN(2))}
			switch r.IntN(6) {
			case 0:
				v.Host = "*"
			case 1, 2:
				v.Host = "*." + v.Host
			}
			if key := fmt.Sprint(v.Host, v.Port); !seen[key] {
				seen[key] = true
				hosts = append(hosts, v)
			}
		}
		table := mustTable(t, hosts...)
		for range 50 {
			host, port := name(), uint16(80+r.IntN(2))
			if r.IntN(4) == 0 {
				host = strings.ToUpper(host) + "."
			}
			got, ok := table.Lookup(fmt.Sprintf("%s:%d", host, port), 1)
			if want := linearLookup(hosts, host, port); got != want || ok != (want != nil) {
				t.Fatalf("Lookup(%s:%d) = %+v, want %+v", host, port, got, want)
			}
			if ok {
				found++
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d lookups found something", found)
	}
}
