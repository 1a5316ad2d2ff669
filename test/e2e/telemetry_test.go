package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// series are the metrics of one workload: name and labels as they are exposed, to the value.
type series map[string]float64

func scrape(t *testing.T, w status) series {
	t.Helper()
	out, exit := curl(t, "--no-include", "http://"+w.Metrics+"/stats/prometheus")
	if exit != 0 {
		t.Fatalf("scraping %s: %s", w.Name, out)
	}
	s := series{}
	for line := range strings.Lines(out) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64); err == nil {
				s[line[:i]] = v
			}
		}
	}
	return s
}

// sum adds up the series of a metric that have all labels, each as name="value".
func (s series) sum(metric string, labels ...string) (total float64, found int) {
next:
	for key, v := range maps.All(s) {
		if !strings.HasPrefix(key, metric+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(key, "{"+l+",") && !strings.Contains(key, ","+l+",") && !strings.Contains(key, ","+l+"}") && !strings.Contains(key, "{"+l+"}") {
				continue next
			}
		}
		total += v
		found++
	}
	return total, found
}

// observatory is a mesh of a caller (probe), one that may reach nothing unknown (monk), and a server (sink).
func observatory(t *testing.T, config string) *running {
	ip := addr()
	return up(t, map[string]string{"config.yaml": config, "mesh.yaml": objects(strict,
		entry("lab/probe", ip+"10", "probe", "app: probe, version: v3", ""),
		entry("lab/monk", ip+"11", "monk", "app: monk", ""),
		entry("store/sink", ip+"20", "sink", "app: sink, version: v7, service.istio.io/canonical-name: kitchen, service.istio.io/canonical-revision: r2", ""),
		networkingObject("Sidecar", "store/sink", fmt.Sprintf(`
workloadSelector: {labels: {app: sink}}
ingress:
- {port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: "127.0.0.1:%d"}
- {port: {number: 5000, name: tcp, protocol: TCP}, defaultEndpoint: "127.0.0.1:%d"}`, echo(t, nil), stream(t, "sink"))),
		networkingObject("Sidecar", "lab/probe", fmt.Sprintf(`
workloadSelector: {labels: {app: probe}}
egress:
- {port: {number: 15001, name: proxy, protocol: HTTP_PROXY}, bind: %[1]s10, hosts: ["*/*"]}
- {port: {number: 5000, name: tcp, protocol: TCP}, bind: %[1]s10, hosts: ["store/sink.example"]}`, ip)),
		networkingObject("Sidecar", "lab/monk", "workloadSelector: {labels: {app: monk}}\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}"),
		networkingObject("ServiceEntry", "store/sink", `
hosts: [sink.example]
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 5000, name: tcp, protocol: TCP}]
location: MESH_INTERNAL
resolution: STATIC
workloadSelector: {labels: {app: sink}}`),
	)}, "--trust-domain", "lab.example")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := observatory(t, "")
	probe, monk, sink := m.workload("lab/probe"), m.workload("lab/monk"), m.workload("store/sink")
	proxy := "http://" + probe.Outbound
	for range 3 {
		if got := code(t, "-x", proxy, "-H", "x-envoy-peer-metadata: bGll", "-H", "x-envoy-peer-metadata-id: liar", "-d", "12345", "http://sink.example/"); got != "200" {
			t.Fatal(got)
		}
	}
	common := []string{`source_workload="probe"`, `source_workload_namespace="lab"`, `source_principal="spiffe://lab.example/ns/lab/sa/probe"`,
		`source_app="probe"`, `source_version="v3"`, `source_canonical_service="probe"`, `source_canonical_revision="v3"`, `source_cluster="unknown"`,
		`destination_workload="sink"`, `destination_workload_namespace="store"`, `destination_principal="spiffe://lab.example/ns/store/sa/sink"`,
		`destination_app="sink"`, `destination_version="v7"`, `destination_canonical_service="kitchen"`, `destination_canonical_revision="r2"`,
		`destination_service="sink.example"`, `destination_service_name="sink.example"`, `destination_service_namespace="store"`, `destination_cluster="unknown"`,
		`response_flags="-"`}
	source, destination := scrape(t, probe), scrape(t, sink)
	for metric, want := range map[string]float64{"istio_requests_total": 3, "istio_request_duration_milliseconds_count": 3, "istio_request_bytes_sum": 15, "istio_response_bytes_count": 3} {
		labels := append([]string{`request_protocol="http"`, `response_code="200"`, `grpc_response_status=""`}, common...)
		if got, n := source.sum(metric, append(labels, `reporter="source"`, `connection_security_policy="unknown"`)...); got != want || n != 1 {
			t.Errorf("%s by the source: %v in %d series, want %v in one", metric, got, n, want)
		}
		if got, n := destination.sum(metric, append(labels, `reporter="destination"`, `connection_security_policy="mutual_tls"`)...); got != want || n != 1 {
			t.Errorf("%s by the destination: %v in %d series, want %v in one", metric, got, n, want)
		}
	}
	if got := say(t, strings.TrimSuffix(probe.Outbound, "15001")+"5000", "hello"); got != "sink: hello" {
		t.Fatalf("TCP: %q", got)
	}
	eventually(t, 2*time.Second, func() string {
		for who, s := range map[string]series{"source": scrape(t, probe), "destination": scrape(t, sink)} {
			for metric, want := range map[string]float64{"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1, "istio_tcp_received_bytes_total": 6, "istio_tcp_sent_bytes_total": 12} {
				got, n := s.sum(metric, append([]string{`request_protocol="tcp"`, `reporter="` + who + `"`}, common...)...)
				if got != want || n != 1 {
					return fmt.Sprintf("%s by the %s: %v in %d series, want %v in one", metric, who, got, n, want)
				}
			}
		}
		return ""
	})
	if got, n := destination.sum("istio_agent_cert_expiry_seconds", `resource_name="default"`); n != 1 || got < 23*3600 || got > 24*3600 {
		t.Errorf("certificate expiry: %v in %d series", got, n)
	}
	unknownHosts(t, probe, monk)
	if got := code(t, "http://"+sink.Inbound[1]+"/"); !strings.HasPrefix(got, "curl") {
		t.Errorf("plaintext under STRICT: %s", got)
	}
	if got, n := scrape(t, sink).sum("signet_connections_refused_total", `reason="plaintext_under_strict"`); got != 1 || n != 1 {
		t.Errorf("refused connections: %v in %d series", got, n)
	}
	m.logged(t, `workload=store\.sink`, "connection refused", "plaintext_under_strict")
}

// unknownHosts are never counted by their names, however many there are.
func unknownHosts(t *testing.T, probe, monk status) {
	t.Helper()
	outside := echo(t, nil)
	for i := range 10 {
		if got := code(t, "-x", "http://"+probe.Outbound, fmt.Sprintf("http://127.0.0.%d:%d/", 1, outside)); got != "200" {
			t.Fatalf("passthrough: %s", got)
		}
		out, _ := curl(t, "-x", "http://"+monk.Outbound, fmt.Sprintf("http://host-%d.invalid/", i))
		wants(t, out, "HTTP/1.1 502", fmt.Sprintf("host-%d.invalid", i))
	}
	if got, n := scrape(t, probe).sum("istio_requests_total", `destination_service="PassthroughCluster"`, `destination_service_name="PassthroughCluster"`,
		`destination_workload="unknown"`, `response_code="200"`); got != 10 || n != 1 {
		t.Errorf("PassthroughCluster: %v in %d series", got, n)
	}
	s := scrape(t, monk)
	if got, n := s.sum("istio_requests_total", `destination_service="BlackHoleCluster"`, `destination_service_name="BlackHoleCluster"`, `response_code="502"`); got != 10 || n != 1 {
		t.Errorf("BlackHoleCluster: %v in %d series", got, n)
	}
	for key := range maps.Keys(s) {
		if strings.Contains(key, "invalid") {
			t.Errorf("a host that somebody asked for is in %s", key)
		}
	}
}

// lineOfText is Istio's default format after the workload's name.
var lineOfText = regexp.MustCompile(`^lab\.probe \[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "GET /text\?q=1 HTTP/1\.1" 200 - via_upstream - "-" 0 \d+ \d+ "\d+" "-" "agent/1" "[0-9a-f-]{36}" "sink\.example" "[0-9.]+:8080" outbound\|80\|\|sink\.example [0-9.]+:\d+ [0-9.]+:15001 [0-9.]+:\d+ - default\n$`)

func TestAccessLog(t *testing.T) {
	m := observatory(t, "")
	proxy := "http://" + m.workload("lab/probe").Outbound
	ask := func(path string) {
		t.Helper()
		if got := code(t, "-x", proxy, "-A", "agent/1", "http://sink.example"+path); got != "200" {
			t.Fatalf("%s: %s", path, got)
		}
	}
	ask("/text?q=1")
	if line := m.logged(t, `^lab\.probe `, `/text`); !lineOfText.MatchString(line) {
		t.Errorf("not Istio's format: %s", line)
	}
	m.logged(t, `^store\.sink `, `"GET /text\?q=1 HTTP/1\.1" 200 - via_upstream `, `inbound\|8080\|\| `)

	m.write("config.yaml", meshConfig("accessLogEncoding: JSON"))
	var line string
	eventually(t, 2*time.Second, func() string {
		ask("/json?q=1")
		line = jsonLine(m.Log(), "lab.probe")
		if line == "" {
			return "no JSON line of lab.probe"
		}
		return ""
	})
	var members map[string]any
	if err := json.Unmarshal([]byte(line), &members); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"workload": "lab.probe", "method": "GET", "path": "/json?q=1", "protocol": "HTTP/1.1", "response_code": 200.0,
		"response_flags": "-", "authority": "sink.example", "user_agent": "agent/1", "upstream_cluster": "outbound|80||sink.example", "route_name": "default"} {
		if members[key] != want {
			t.Errorf("%s is %v, want %v in %s", key, members[key], want, line)
		}
	}

	m.write("config.yaml", meshConfig(`accessLogFile: ""`))
	eventually(t, 3*time.Second, func() string {
		path := fmt.Sprintf("/off-%d", time.Now().UnixNano())
		ask(path)
		time.Sleep(250 * time.Millisecond) // two flushes
		if strings.Contains(m.Log(), path) {
			return "access is logged though accessLogFile is empty"
		}
		return ""
	})
	for line := range strings.Lines(m.Log()) {
		if !named.MatchString(line) {
			t.Errorf("does not name NAMESPACE.WORKLOAD: %s", line)
		}
	}
}

var named = regexp.MustCompile(`^[a-z0-9-]+\.[a-z0-9-]+ \[|^time=\S+ level=\S+ msg=.* workload=[a-z0-9-]+\.[a-z0-9-]+\b|^\{"workload":"[a-z0-9-]+\.[a-z0-9-]+"`)

func jsonLine(log, workload string) string {
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, `{"workload":"`+workload+`"`) {
			return line
		}
	}
	return ""
}

func TestTraceContext(t *testing.T) {
	t.Parallel()
	m := observatory(t, "")
	proxy := "http://" + m.workload("lab/probe").Outbound
	out, _ := curl(t, "-x", proxy, "http://sink.example/fresh")
	id := regexp.MustCompile(`X-Request-Id: ([0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})\r?\n`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("the program got no x-request-id:\n%s", out)
	}
	m.logged(t, `^lab\.probe `, `/fresh`, `"`+id[1]+`"`)
	m.logged(t, `^store\.sink `, `/fresh`, `"`+id[1]+`"`)
	const parent, single = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"
	out, _ = curl(t, "-x", proxy, "-H", "x-request-id: mine", "-H", "traceparent: "+parent, "-H", "tracestate: a=b,c=d", "-H", "b3: "+single,
		"-H", "x-b3-traceid: 463ac35c9f6413ad", "-H", "x-b3-sampled: 1", "http://sink.example/kept")
	wants(t, out, "X-Request-Id: mine", "Traceparent: "+parent, "Tracestate: a=b,c=d", "B3: "+single, "X-B3-Traceid: 463ac35c9f6413ad", "X-B3-Sampled: 1")
}
