package route

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	host := func(name string, port uint16) *VirtualHost { return &VirtualHost{Host: name, Port: port, HTTP: true} }
	vip, wide, narrow, pod := host("pay.shop", 80), host("*.aws", 443), host("db.aws", 443), host("10.1.0.9", 0)
	a := NewAddresses()
	add := func(in string, port uint16, v *VirtualHost) *VirtualHost {
		return a.Add(netip.MustParsePrefix(in), port, v)
	}
	add("10.96.0.7/32", 80, vip)
	add("fd00::7/128", 80, vip)
	add("52.0.0.0/8", 443, wide)
	add("52.1.0.0/16", 443, narrow)
	add("10.0.0.0/8", 9999, wide)
	add("10.1.0.8/32", 5432, vip)
	a.AddHost(netip.MustParseAddr("10.1.0.9"), pod)
	a.Own(netip.MustParseAddr("10.96.0.7"))
	for _, at := range []string{"93.184.216.34", "52.1.2.3", "52.2.2.3", "10.96.0.7", "::ffff:10.2.0.1"} {
		a.Answered(netip.MustParseAddr(at))
	}
	if !a.Owned(netip.MustParseAddr("10.96.0.7")) || !a.Owned(netip.MustParseAddr("10.1.0.9")) || a.Owned(netip.MustParseAddr("10.1.0.8")) {
		t.Error("owned are the addresses of the Service and of the pod")
	}
	if have := add("10.96.0.7/32", 80, wide); have != vip {
		t.Errorf("an address that is taken: %v", have)
	}
	if have := add("52.9.9.9/8", 443, vip); have != wide { // the same range, written otherwise
		t.Errorf("a range that is taken: %v", have)
	}
	for _, c := range []struct {
		to    string
		want  *VirtualHost
		known bool
	}{
		{"10.96.0.7:80", vip, true},
		{"[fd00::7]:80", vip, true},
		{"10.96.0.7:81", nil, true},   // a Service without that port
		{"10.96.0.7:9999", nil, true}, // no range has it
		{"52.1.2.3:443", narrow, true},
		{"52.2.2.3:443", wide, true},
		{"52.2.2.3:80", nil, true},
		{"52.3.3.3:443", nil, false}, // nobody asked whose it is
		{"10.1.0.8:5432", vip, true},
		{"10.1.0.8:5433", nil, false}, // of the other ports of a pod nothing is known
		{"10.1.0.9:9999", pod, true},
		{"10.2.0.1:9999", wide, true},
		{"93.184.216.34:80", nil, true},
		{"8.8.8.8:53", nil, false},
	} {
		if v, known := a.Lookup(netip.MustParseAddrPort(c.to)); v != c.want || known != c.known {
			t.Errorf("%s: %v %t", c.to, v, known)
		}
	}
	if n := testing.AllocsPerRun(100, func() { a.Lookup(netip.MustParseAddrPort("52.2.2.3:443")) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	a.Complete = true
	if v, known := a.Lookup(netip.MustParseAddrPort("52.3.3.3:443")); v != wide || !known {
		t.Errorf("a range of a complete table: %v %t", v, known)
	}
	if v, known := a.Lookup(netip.MustParseAddrPort("8.8.8.8:53")); v != nil || !known {
		t.Errorf("of a complete table: %v %t", v, known)
	}
	if v, known := (*Addresses)(nil).Lookup(netip.MustParseAddrPort("8.8.8.8:53")); v != nil || known {
		t.Error("the nil table knows something")
	}
}
