package capture

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// call is a connection that somebody makes, and who answers it.
type call struct {
	what    string
	uid     string // of who calls; "" is a peer outside of the pod
	gid     string // "" is uid
	network string // "" is tcp
	source  string
	to      string
	want    string // a prefix
}

func (w world) check(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		ns, uid := w.pod, c.uid
		if uid == "" {
			ns, uid = w.rest, "0"
		}
		if c.gid == "" {
			c.gid = uid
		}
		if c.network == "" {
			c.network = "tcp"
		}
		if got := run(t, ns, "dial", uid, c.gid, c.network, c.source, c.to); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s (%s -> %s): %q, want %q", c.what, c.uid, c.to, got, c.want)
		}
	}
}

// populate starts the sidecar's ports, a program and the rest of the world.
func (w world) populate(t *testing.T) {
	w.serving(t, w.pod, "1337", "OUT=15001", "IN=15006", "READY=15021", "METRICS=15020", "DNS=15053")
	w.serving(t, w.pod, "1000", "program=8080", "program=9090")
	w.serving(t, w.rest, "0", "world=80", "world=443", "world=5432", "world=53")
}

func at(host, port string) string { return net.JoinHostPort(host, port) }

// TestInstall is what Istio's rules do, in both families, with real processes of several users.
func TestInstall(t *testing.T) {
	w := build(t)
	w.populate(t)
	w.install(t, Default(), false)
	w.install(t, Default(), false) // a container that is started again
	var calls []call
	for _, f := range []struct{ pod, rest, other, loop, pass string }{
		{pod4, rest4, other4, "127.0.0.1", "127.0.0.6"}, {pod6, rest6, other6, "::1", "::6"},
	} {
		calls = append(calls,
			call{what: "a program calls out", uid: "1000", to: at(f.rest, "80"), want: "OUT " + at(f.rest, "80") + " <nil>"},
			call{what: "root calls out", uid: "0", to: at(f.other, "5432"), want: "OUT " + at(f.other, "5432")},
			call{what: "the sidecar calls out", uid: "1337", to: at(f.rest, "80"), want: "world " + at(f.rest, "80") + " <nil>"},
			call{what: "the sidecar's group calls out", uid: "1000", gid: "1337", to: at(f.rest, "80"), want: "world"},
			call{what: "a program calls its own host", uid: "1000", to: at(f.loop, "8080"), want: "program"},
			call{what: "a program calls its own pod", uid: "1000", to: at(f.pod, "8080"), want: "program"},
			call{what: "the sidecar calls its own host", uid: "1337", to: at(f.loop, "8080"), want: "program"},
			call{what: "the sidecar calls its own pod as any other", uid: "1337", to: at(f.pod, "8080"), want: "IN " + at(f.pod, "8080")},
			call{what: "the sidecar hands over to the program", uid: "1337", source: at(f.pass, "0"), to: at(f.pod, "8080"), want: "program"},
			call{what: "somebody calls the program", to: at(f.pod, "8080"), want: "IN " + at(f.pod, "8080")},
			call{what: "somebody calls a port that nobody serves", to: at(f.pod, "7"), want: "IN " + at(f.pod, "7")},
			call{what: "kubelet asks for readiness", to: at(f.pod, "15021"), want: "READY"},
			call{what: "Prometheus scrapes", to: at(f.pod, "15020"), want: "METRICS"},
			call{what: "a query is nobody's business", uid: "1000", network: "udp", to: at(f.rest, "53"), want: "world"},
			call{what: "a direct connection", to: at(f.pod, "15006"), want: "IN " + at(f.pod, "15006") + " <nil>"},
		)
	}
	w.check(t, calls)
}

// TestExclusions is each annotation, after rules of another kind, which must leave nothing.
func TestExclusions(t *testing.T) {
	w := build(t)
	w.populate(t)
	w.install(t, Annotated{IncludeOutboundPorts: "*", IncludeInboundPorts: "*"}, true)
	both := func(f func(pod, rest, other string) []call) {
		t.Helper()
		w.check(t, append(f(pod4, rest4, other4), f(pod6, rest6, other6)...))
	}
	w.install(t, Annotated{ExcludeOutboundPorts: "5432,6379", IncludeOutboundRanges: "*", ExcludeOutboundRanges: other4 + "/32," + other6 + "/128",
		IncludeInboundPorts: "*", ExcludeInboundPorts: "9090"}, false)
	both(func(pod, rest, other string) []call {
		return []call{
			{what: "an excluded port", uid: "1000", to: at(rest, "5432"), want: "world"},
			{what: "another port", uid: "1000", to: at(rest, "443"), want: "OUT"},
			{what: "an excluded range", uid: "1000", to: at(other, "80"), want: "world"},
			{what: "an excluded inbound port", to: at(pod, "9090"), want: "program"},
			{what: "another inbound port", to: at(pod, "8080"), want: "IN"},
			{what: "DNS of the rules before", uid: "1000", network: "udp", to: at(rest, "53"), want: "world"},
		}
	})
	w.install(t, Annotated{IncludeOutboundPorts: "443", IncludeOutboundRanges: "10.98.0.0/16,fd98::/16", IncludeInboundPorts: "9090"}, false)
	both(func(pod, rest, other string) []call {
		return []call{
			{what: "an included port", uid: "1000", to: at(rest, "443"), want: "OUT"},
			{what: "neither port nor range", uid: "1000", to: at(rest, "80"), want: "world"},
			{what: "an included range", uid: "1000", to: at(other, "80"), want: "OUT"},
			{what: "an included inbound port", to: at(pod, "9090"), want: "IN"},
			{what: "another inbound port", to: at(pod, "8080"), want: "program"},
		}
	})
	w.install(t, Annotated{}, false)
	both(func(pod, rest, _ string) []call {
		return []call{
			{what: "nothing outbound", uid: "1000", to: at(rest, "80"), want: "world"},
			{what: "nothing inbound", to: at(pod, "8080"), want: "program"},
		}
	})
}

// TestDNS is the capture of queries, and that the sidecar's own find their way though they use the port of a program's.
func TestDNS(t *testing.T) {
	w := build(t)
	w.populate(t)
	w.install(t, Default(), true)
	for _, host := range []string{rest4, rest6} {
		w.check(t, []call{
			{what: "a program asks", uid: "1000", network: "udp", to: at(host, "53"), want: "DNS asked"},
			{what: "a program asks over TCP", uid: "1000", to: at(host, "53"), want: "DNS " + at(host, "53")},
			{what: "the sidecar asks", uid: "1337", network: "udp", to: at(host, "53"), want: "world asked"},
			{what: "the sidecar asks over TCP", uid: "1337", to: at(host, "53"), want: "world"},
		})
	}
	for _, f := range [][2]string{{rest4, "0.0.0.0:4000"}, {rest6, "[::]:4000"}, {"127.0.0.1", "127.0.0.1:4001"}} {
		w.check(t, []call{{what: "a program asks from a port", uid: "1000", network: "udp", source: f[1], to: at(f[0], "53"), want: "DNS asked"}})
		if f[0] != "127.0.0.1" {
			w.check(t, []call{{what: "the sidecar asks from the same port", uid: "1337", network: "udp", source: f[1], to: at(f[0], "53"), want: "world asked"}})
		}
	}
}

// TestMany is as many ports and ranges as there may be.
func TestMany(t *testing.T) {
	w := build(t)
	w.populate(t)
	var ports, ranges []string
	for i := range MaxPorts {
		ports = append(ports, strconv.Itoa(20000+i))
	}
	for i := range MaxRanges {
		ranges = append(ranges, "172.16."+strconv.Itoa(i/250)+"."+strconv.Itoa(i%250)+"/32")
	}
	all := strings.Join(ports, ",")
	w.install(t, Annotated{ExcludeOutboundPorts: all, IncludeOutboundRanges: "*", ExcludeOutboundRanges: strings.Join(ranges, ","), IncludeInboundPorts: all}, true)
	w.check(t, []call{{what: "a program calls out", uid: "1000", to: at(rest4, "80"), want: "OUT"}})
}

// TestWithoutIPv6 is a pod that has none.
func TestWithoutIPv6(t *testing.T) {
	w := build(t)
	w.populate(t)
	command(t, "ip", "netns", "exec", w.pod, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
	w.install(t, Default(), true)
	w.check(t, []call{
		{what: "a program calls out", uid: "1000", to: at(rest4, "80"), want: "OUT"},
		{what: "somebody calls the program", to: at(pod4, "8080"), want: "IN"},
	})
	if tables := command(t, "ip", "netns", "exec", w.pod, "nft", "list", "tables"); strings.Contains(tables, "ip6") {
		t.Errorf("rules for a family that the pod has not: %s", tables)
	}
}
