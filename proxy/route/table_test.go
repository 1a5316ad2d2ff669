package route

import (
	"fmt"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

func mustTable(t testing.TB, hosts ...*VirtualHost) *Table {
	t.Helper()
	table, err := NewTable(hosts)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestLookup(t *testing.T) {
	table := mustTable(t,
		&VirtualHost{Host: "web.shop", Port: 80}, &VirtualHost{Host: "web.shop", Port: 8080},
		&VirtualHost{Host: "*.shop", Port: 80}, &VirtualHost{Host: "*.eu.shop", Port: 80},
		&VirtualHost{Host: "Loud.Example.", Port: 80}, &VirtualHost{Host: "fd00::1", Port: 80},
		&VirtualHost{Host: "*", Port: 9999})
	for _, c := range []struct {
		authority string
		def       uint16
		want      string // HOST:PORT, "" for none
	}{
		{"web.shop", 80, "web.shop:80"},
		{"web.shop:80", 1, "web.shop:80"},
		{"web.shop:8080", 80, "web.shop:8080"},
		{"web.shop", 8080, "web.shop:8080"},
		{"WEB.Shop.", 80, "web.shop:80"},
		{"web.shop.:8080", 80, "web.shop:8080"},
		{"web.shop..", 80, ""},
		{"web.shop:81", 80, ""},
		{"cart.shop", 80, "*.shop:80"},
		{"a.eu.shop", 80, "*.eu.shop:80"},
		{"eu.shop", 80, "*.shop:80"},
		{"a.b.eu.shop", 80, "*.eu.shop:80"},
		{"shop", 80, ""},
		{".shop", 80, ""},
		{"loud.example", 80, "Loud.Example.:80"},
		{"[fd00::1]:80", 1, "fd00::1:80"},
		{"[fd00::1]", 80, "fd00::1:80"},
		{"fd00::1", 80, ""},
		{"anything:9999", 80, "*:9999"},
		{"web.shop:9999", 80, "*:9999"},
		{"", 9999, ""}, {".", 9999, ""}, {":9999", 80, ""}, {"x:", 9999, ""}, {"x:0", 9999, ""},
		{"x:65536", 9999, ""}, {"x:+80", 9999, ""}, {"x:9999:9999", 80, ""}, {"user@web.shop", 80, ""},
		{"[fd00::1", 80, ""}, {"[fd00::1]x:80", 80, ""}, {"x:000080", 80, ""},
		{strings.Repeat("a", 260), 9999, ""},
	} {
		got := ""
		if v, ok := table.Lookup(c.authority, c.def); ok {
			got = fmt.Sprintf("%s:%d", v.Host, v.Port)
		}
		if got != c.want {
			t.Errorf("Lookup(%q, %d) = %q, want %q", c.authority, c.def, got, c.want)
		}
	}
	if _, ok := (*Table)(nil).Lookup("web.shop", 80); ok {
		t.Error("the nil table knows a host")
	}
}

func TestNewTableRefuses(t *testing.T) {
	for _, hosts := range [][]*VirtualHost{
		{{Host: "a", Port: 80}, {Host: "A.", Port: 80}},
		{{Host: "*.a", Port: 80}, {Host: "*.a", Port: 80}},
		{{Host: "*", Port: 80}, {Host: "*", Port: 80}},
		{{Host: "a.*.b", Port: 80}}, {{Host: "*a", Port: 80}}, {{Host: "*.*", Port: 80}},
		{{Host: "", Port: 80}}, {{Host: strings.Repeat("x", 255), Port: 80}},
	} {
		if _, err := NewTable(hosts); err == nil {
			t.Errorf("NewTable(%q...) did not refuse", hosts[0].Host)
		}
	}
}

// bigTable has n hosts of one port, each with a few routes of which the last matches.
func bigTable(t testing.TB, n int) *Table {
	hosts := []*VirtualHost{{Host: "*.wild.example", Port: 80, HTTP: true}}
	for i := range n {
		hosts = append(hosts, &VirtualHost{Host: fmt.Sprintf("svc-%d.ns-%d.svc.cluster.local", i, i%50), Port: 80, HTTP: true, Routes: []*Route{
			{Name: "a", Condition: Condition{URI: Prefix("/admin")}},
			{Name: "b", Condition: Condition{Headers: []Named{{"x-user", Exact("jason")}}}},
			{Name: "c", Condition: Condition{URI: Prefix("/"), Method: Exact("GET"), QueryParams: []Named{{"v", Exact("2")}}},
				Destinations: []Weighted{{Cluster: "x", Weight: 90}, {Cluster: "y", Weight: 10}}},
		}})
	}
	return mustTable(t, hosts...)
}

func request() *proxy.Head {
	return &proxy.Head{Method: "GET", Authority: "SVC-7.ns-7.svc.cluster.local:80", Path: "/a/b", Query: "?q=1&v=2",
		Fields: []proxy.Field{{Name: "accept", Value: "*/*"}, {Name: "x-user", Value: "amy"}}}
}

func TestLookupAndMatchAllocateNothing(t *testing.T) {
	table, h := bigTable(t, 1000), request()
	m := &Request{Head: h}
	if n := testing.AllocsPerRun(100, func() {
		v, ok := table.Lookup(h.Authority, 80)
		if !ok {
			t.Fatal("host not found")
		}
		r := v.Match(m)
		if r == nil || r.Name != "c" || r.Pick(95) == nil {
			t.Fatal("wrong route")
		}
		if _, ok := table.Lookup("a.b.c.d.wild.example", 80); !ok {
			t.Fatal("wildcard not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations a request, want 0", n)
	}
}

func BenchmarkLookupMatch(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, h := bigTable(b, n), request()
			m := &Request{Head: h}
			b.ReportAllocs()
			for b.Loop() {
				v, _ := table.Lookup(h.Authority, 80)
				if v.Match(m) == nil {
					b.Fatal("no route")
				}
			}
		})
	}
}
