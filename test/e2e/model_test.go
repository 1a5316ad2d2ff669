package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveOn runs an HTTP program on an address of its own; it answers with its name. It gives the port, 0 of a Unix socket.
func serveOn(t *testing.T, network, address, name string) int {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "program: %s\n", name) })}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// at is the body that a URL gives through a proxy, or the status and what went wrong.
func at(t *testing.T, proxy string, args ...string) string {
	t.Helper()
	out, exit := curl(t, append([]string{"-x", proxy}, args...)...)
	if i := strings.Index(out, "program: "); exit == 0 && i >= 0 {
		return strings.TrimSpace(out[i+len("program: "):])
	}
	return out
}

// TestStandaloneModel goes through the model line by line: ports, binds, default endpoints, visibility.
func TestStandaloneModel(t *testing.T) {
	t.Parallel()
	ip, socket, egressPort := addr(), filepath.Join(shortDir(t), "p.sock"), quietPort(t)
	serveOn(t, "unix", socket, "unix")
	own, v6, absent := serveOn(t, "tcp", ip+"20:0", "own"), serveOn(t, "tcp", "[::1]:0", "v6"), serveOn(t, "tcp", "127.0.0.1:0", "absent")
	plain, words := newScript().program(t, "plain"), stream(t, "words")
	ingress := func(number int, name, protocol, more string) string {
		return fmt.Sprintf("\n- {port: {number: %d, name: %s, protocol: %s}%s}", number, name, protocol, more)
	}
	service := func(host, port, more string) string {
		return networkingObject("ServiceEntry", "green/"+strings.TrimSuffix(host, ".garden"), fmt.Sprintf("hosts: [%s]\nports: [%s]\nresolution: STATIC\n%s", host, port, more))
	}
	const selected = "workloadSelector: {labels: {app: plant}}"
	m := up(t, map[string]string{"mesh.yaml": objects(strict,
		entry("green/gardener", ip+"10", "gardener", "app: gardener", ""),
		entry("green/hermit", ip+"11", "hermit", "app: hermit", ""),
		entry("green/plant", ip+"20", "plant", "app: plant", ", ports: {named: 9001}"),
		networkingObject("Sidecar", "green/plant", "workloadSelector: {labels: {app: plant}}\ningress:"+
			ingress(9001, "a", "HTTP", `, defaultEndpoint: "unix://`+socket+`"`)+
			ingress(9002, "b", "HTTP", fmt.Sprintf(`, defaultEndpoint: "0.0.0.0:%d"`, own))+
			ingress(9003, "c", "HTTP", fmt.Sprintf(`, defaultEndpoint: "[::1]:%d"`, v6))+
			ingress(absent, "d", "HTTP", "")+
			ingress(9005, "e", "HTTP", fmt.Sprintf(`, defaultEndpoint: "127.0.0.1:%d"`, plain))+
			ingress(9006, "f", "GRPC", fmt.Sprintf(`, defaultEndpoint: "127.0.0.1:%d"`, words))),
		networkingObject("Sidecar", "green/gardener", fmt.Sprintf(`
workloadSelector: {labels: {app: gardener}}
egress:
- {hosts: ["./*"]}
- {port: {number: %d, name: words, protocol: TCP}, hosts: ["green/words.garden"]}`, egressPort)),
		networkingObject("Sidecar", "green/hermit", `
workloadSelector: {labels: {app: hermit}}
outboundTrafficPolicy: {}
egress: [{hosts: ["./number.garden"]}]`),
		// The target port is WorkloadEntry.ports[name], else targetPort, else number.
		service("named.garden", "{number: 80, name: named, protocol: HTTP, targetPort: 9002}", selected),
		service("target.garden", "{number: 80, name: http, protocol: HTTP, targetPort: 9002}", selected),
		service("number.garden", "{number: 9003, name: http, protocol: HTTP}", selected),
		service("absent.garden", fmt.Sprintf("{number: 80, name: http, protocol: HTTP, targetPort: %d}", absent), selected),
		service("words.garden", "{number: 7, name: grpc, protocol: GRPC, targetPort: 9006}", selected),
		service("socket.garden", "{number: 80, name: http, protocol: HTTP}", `endpoints: [{address: "unix://`+socket+`"}]`),
		service("six.garden", "{number: 80, name: http, protocol: HTTP}", fmt.Sprintf(`endpoints: [{address: "::1", ports: {http: %d}}]`, v6)),
	)}, "--trust-domain", "garden.example")
	gardener, plant := m.workload("green/gardener"), m.workload("green/plant")
	if gardener.Outbound != ip+"10:15001" || len(gardener.Inbound) != 0 || m.workload("green/hermit").Outbound != ip+"11:15001" {
		t.Errorf("gardener: outbound %s, inbound %v", gardener.Outbound, gardener.Inbound)
	}
	for _, in := range plant.Inbound {
		if !strings.HasPrefix(in, ip+"20:") {
			t.Errorf("ingress without bind is on %s", in)
		}
	}
	proxy, hermit := "http://"+gardener.Outbound, "http://"+m.workload("green/hermit").Outbound
	for url, want := range map[string]string{"http://named.garden/": "unix", "http://target.garden/": "own", "http://number.garden:9003/": "v6",
		"http://absent.garden/": "absent", "http://socket.garden/": "unix", "http://six.garden/": "v6"} {
		if got := at(t, proxy, url); got != want {
			t.Errorf("%s reached %q, want %s", url, got, want)
		}
	}
	if got := at(t, hermit, "http://number.garden:9003/"); got != "v6" {
		t.Errorf("what hermit sees: %q", got)
	}
	out, _ := curl(t, "-x", hermit, "http://named.garden/")
	wants(t, out, "HTTP/1.1 502", "named.garden")
	// A GRPC port is TCP: an egress listener leads to it, and CONNECT does.
	if got := say(t, fmt.Sprintf("127.0.0.1:%d", egressPort), "hello"); got != "words: hello" {
		t.Errorf("egress without bind, to the service's only port: %q", got)
	}
	if got := at(t, proxy, "-p", "http://target.garden/"); got != "own" {
		t.Errorf("CONNECT to an HTTP port of the mesh: %q", got)
	}
	if got := at(t, proxy, "-p", "http://six.garden/"); got != "v6" {
		t.Errorf("CONNECT to an endpoint that is no workload: %q", got)
	}
	wants(t, m.Log(), "spec.ports[0].protocol: GRPC is carried as TCP for now", "spec.ingress[5].port.protocol: GRPC is carried as TCP for now")
	// Without ingress nothing is accepted.
	if got := code(t, "http://"+ip+"10:9001/"); got != "curl 7" {
		t.Errorf("a port that no ingress names: %s", got)
	}
}

// TestOutboundTrafficPolicy has callers under each policy, and what no policy allows.
func TestOutboundTrafficPolicy(t *testing.T) {
	t.Parallel()
	ip := addr()
	outside, nowhere := echo(t, nil), quietPort(t)
	caller := func(n int, name, spec string) string {
		return entry("way/"+name, fmt.Sprint(ip, n), name, "app: "+name, "") + "\n---" + networkingObject("Sidecar", "way/"+name, "workloadSelector: {labels: {app: "+name+"}}\n"+spec)
	}
	m := up(t, map[string]string{"mesh.yaml": objects(
		caller(10, "free", ""), caller(11, "empty", "outboundTrafficPolicy: {}"), caller(12, "shut", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
		caller(13, "open", "outboundTrafficPolicy: {mode: ALLOW_ANY}"),
		caller(14, "lost", fmt.Sprintf(`
egress:
- {port: {number: %d, name: tcp, protocol: TCP}, bind: %s14, hosts: ["*/gone.way"]}
- {hosts: ["*/*"]}`, nowhere, ip)),
	)}, "--trust-domain", "way.example")
	url := fmt.Sprintf("http://127.0.0.1:%d/", outside)
	for name, want := range map[string]string{"free": "200", "empty": "502", "shut": "502", "open": "200"} {
		out, _ := curl(t, "-x", "http://"+m.workload("way/"+name).Outbound, url)
		if !strings.Contains(out, "HTTP/1.1 "+want) || want == "502" && !strings.Contains(out, fmt.Sprintf("127.0.0.1:%d", outside)) {
			t.Errorf("%s to an unknown host: want %s\n%s", name, want, out)
		}
	}
	for name, want := range map[string]string{"open": "200", "shut": "curl 56"} {
		if got := code(t, "-p", "-x", "http://"+m.workload("way/"+name).Outbound, url); got != want {
			t.Errorf("%s CONNECT to an unknown host: %s, want %s", name, got, want)
		}
	}
	// Where no policy lets anybody: the mesh's own ports, link-local, metadata.
	free := m.workload("way/free")
	for _, target := range []string{"http://" + free.Outbound + "/", "http://" + free.Metrics + "/stats/prometheus", "http://" + m.Ready.Control.CA + "/", "http://169.254.169.254/latest/meta-data/",
		"http://[fe80::1]/", "http://0.0.0.0:80/", "http://100.100.100.200/", "http://127.0.0.1:15000/"} {
		if got := code(t, "-g", "-x", "http://"+free.Outbound, target); got != "403" {
			t.Errorf("%s: %s, want 403", target, got)
		}
	}
	if got := say(t, fmt.Sprintf("%s14:%d", ip, nowhere), "x"); got != "" {
		t.Errorf("a TCP listener to nothing answered %q", got)
	}
	m.logged(t, `^way\.lost `, `"- - -" 0 UH `)
	m.logged(t, "gone.way")
}

// TestSecondSidecarIsRefused changes a running mesh for the worse: what is refused is named, and what ran goes on.
func TestSecondSidecarIsRefused(t *testing.T) {
	ip := addr()
	m := up(t, map[string]string{"mesh.yaml": objects(strict,
		entry("duo/caller", ip+"10", "caller", "app: caller", ""),
		entry("duo/callee", ip+"20", "callee", "app: callee", ""),
		networkingObject("Sidecar", "duo/first", fmt.Sprintf(`
workloadSelector: {labels: {app: callee}}
ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, newScript().program(t, "first"))),
		networkingObject("ServiceEntry", "duo/callee", "hosts: [callee.duo]\nports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\nresolution: STATIC\nworkloadSelector: {labels: {app: callee}}"))})
	proxy := "http://" + m.workload("duo/caller").Outbound
	check := func() {
		t.Helper()
		if got := code(t, "-x", proxy, "http://callee.duo/"); got != "200" {
			t.Errorf("what ran does not go on running: %s", got)
		}
	}
	for name, c := range map[string]struct{ text, want string }{
		"second":   {networkingObject("Sidecar", "duo/second", "workloadSelector: {labels: {app: callee}}"), `second.yaml:\d+:\d+: Sidecar duo/second: spec.workloadSelector: is the second Sidecar that selects workload duo/callee, the first is first at `},
		"several":  {objects(networkingObject("ServiceEntry", "duo/other", "hosts: [other.duo]\nports: [{number: 81, name: http, protocol: HTTP}]\nresolution: STATIC\nendpoints: [{address: 192.0.2.1}]"), networkingObject("Sidecar", "duo/caller", "workloadSelector: {labels: {app: caller}}\negress: [{port: {number: 9, name: tcp, protocol: TCP}, hosts: [\"*/*\"]}]")), `several.yaml:\d+:\d+: Sidecar duo/caller: spec.egress\[0\]: .*callee.duo.*other.duo`},
		"itself":   {objects(entry("duo/third", ip+"30", "third", "app: third", ""), networkingObject("Sidecar", "duo/third", `workloadSelector: {labels: {app: third}}`+"\ningress: [{port: {number: 15001, name: http, protocol: HTTP}}]")), `Sidecar duo/third: spec: .*both bind ` + ip + `30:15001`},
		"compiled": {networkingObject("VirtualService", "duo/v", "hosts: [callee.duo]\nhttp: [{rewrite: {uri: \"/a b\"}, route: [{destination: {host: callee.duo}}]}]"), `compiled.yaml:\d+:\d+: VirtualService duo/v: spec.http\[0\].rewrite.uri: `},
	} {
		m.write(name+".yaml", c.text)
		m.logged(t, "level=ERROR", c.want)
		check()
	}
	// A security object that can't be run denies what it selects until it is mended.
	m.write("policy.yaml", policy("duo/bad", "selector: {matchLabels: {app: callee}}\nrules: [{when: [{key: \"request.headers[connection]\", values: [close]}]}]"))
	eventually(t, 2*time.Second, func() string { return differs(code(t, "-x", proxy, "http://callee.duo/"), "403") })
	m.logged(t, "level=ERROR", `policy.yaml:\d+:\d+: AuthorizationPolicy duo/bad: spec.rules\[0\].when\[0\].key`, "quarantined")
	m.write("policy.yaml", policy("duo/bad", "selector: {matchLabels: {app: callee}}\nrules: [{}]"))
	eventually(t, 2*time.Second, func() string { return differs(code(t, "-x", proxy, "http://callee.duo/"), "200") })
}

func differs(got, want string) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("%s, want %s", got, want)
}

// TestIPv6 has workloads whose address is IPv6's loopback.
func TestIPv6(t *testing.T) {
	t.Parallel()
	ip := addr()
	m := up(t, map[string]string{"mesh.yaml": objects(strict,
		entry("six/caller", ip+"10", "caller", "app: caller", ""),
		entry("six/callee", "::1", "callee", "app: callee", ""),
		networkingObject("Sidecar", "six/callee", fmt.Sprintf(`
workloadSelector: {labels: {app: callee}}
ingress: [{port: {number: 8666, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}]`, echo(t, nil))),
		networkingObject("ServiceEntry", "six/callee", "hosts: [callee.six]\nports: [{number: 80, name: http, protocol: HTTP, targetPort: 8666}]\nresolution: STATIC\nworkloadSelector: {labels: {app: callee}}"),
		policy("six/p", "selector: {matchLabels: {app: callee}}\nrules: [{from: [{source: {namespaces: [six]}}], when: [{key: destination.ip, values: [\"::1/128\"]}]}]"),
	)}, "--trust-domain", "six.example")
	callee := m.workload("six/callee")
	if callee.Inbound[0] != "[::1]:8666" || callee.Outbound != "[::1]:15001" || callee.Metrics != "[::1]:15020" {
		t.Errorf("callee: %+v", callee)
	}
	for _, proxy := range []string{m.workload("six/caller").Outbound, callee.Outbound} {
		out, _ := curl(t, "-x", "http://"+proxy, "http://callee.six/")
		wants(t, out, "HTTP/1.1 200", "By=spiffe://six.example/ns/six/sa/callee")
	}
	if got := code(t, "-g", "http://"+callee.Metrics+"/stats/prometheus"); got != "200" {
		t.Errorf("metrics: %s", got)
	}
}
