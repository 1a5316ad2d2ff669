package sidecar

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/node"
)

// environment is that of an injected pod, changed by pairs of name and value.
func environment(changed ...string) func(string) string {
	env := map[string]string{"POD_NAME": "cart-7d", "POD_NAMESPACE": "shop", "SERVICE_ACCOUNT": "cart", "INSTANCE_IPS": "10.0.0.5,fd00::5",
		"SIGNET_CONTROL": "signetd.signet-system.svc:15012", "TRUST_DOMAIN": "cluster.local", "CLUSTER_DOMAIN": "cluster.local"}
	for i := 0; i < len(changed); i += 2 {
		env[changed[i]] = changed[i+1]
	}
	return func(name string) string { return env[name] }
}

func TestPodConfig(t *testing.T) {
	cfg, procs, err := podConfig(environment(
		"PROXY_CONFIG", `{"concurrency":2,"drainDuration":"45s","terminationDrainDuration":"7.5s","holdApplicationUntilProxyStarts":true,"statusPort":15020,`+
			`"proxyMetadata":{"SIGNET_DISCOVERY":"full","ISTIO_META_DNS_CAPTURE":"true"},"gatewayTopology":{"numTrustedProxies":2}}`,
		"SIGNET_PROBERS", `{"/app-health/a/livez":{"httpGet":{"path":"healthz?full","port":8080,"scheme":"HTTPS","httpHeaders":[{"name":"Host","value":"x"}]},"timeoutSeconds":3},`+
			`"/app-health/a/readyz":{"tcpSocket":{"port":"9090"}},"/app-health/b/startupz":{"grpc":{"port":50051,"service":"s"}},`+
			`"/app-lifecycle/a/prestopz/w0rd":{"httpGet":{"path":"/drain","port":8080}}}`,
		"SIGNET_PROMETHEUS", `{"port":"9100","path":"stats","scheme":""}`, "SIGNET_GRACE_SECONDS", "60", "SIGNET_NATIVE", "true"))
	if err != nil {
		t.Fatal(err)
	}
	two := 2
	want := &node.Pod{Namespace: "shop", Name: "cart-7d", ServiceAccount: "cart", TrustDomain: "cluster.local", ClusterDomain: "cluster.local",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}, Full: true, DNS: true, Native: true,
		TrustedProxies: &two, Drain: 7500 * time.Millisecond, Grace: time.Minute, Application: &node.Exporter{Scheme: "http", Path: "/stats", Port: 9100},
		Probes: map[string]node.Probe{
			"/app-health/a/livez":            {HTTPGet: &node.HTTPProbe{Path: "/healthz?full", Port: 8080, Scheme: "HTTPS", Headers: [][2]string{{"Host", "x"}}}, Timeout: 3 * time.Second},
			"/app-health/a/readyz":           {TCPSocket: &node.TCPProbe{Port: 9090}, Timeout: time.Second},
			"/app-health/b/startupz":         {GRPC: &node.GRPCProbe{Port: 50051, Service: "s"}, Timeout: time.Second},
			"/app-lifecycle/a/prestopz/w0rd": {HTTPGet: &node.HTTPProbe{Path: "/drain", Port: 8080}, Timeout: time.Hour},
		}}
	if procs != 2 || !reflect.DeepEqual(cfg.Pod, want) || cfg.Control != "signetd.signet-system.svc:15012" {
		t.Errorf("%d %+v", procs, cfg.Pod)
	}
	if cfg, _, err := podConfig(environment()); err != nil || cfg.Pod.Drain != defaultDrain || cfg.Pod.Grace != defaultGrace || cfg.Pod.Full || cfg.Pod.DNS {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestPodConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"POD_NAME", "", "reading POD_NAME: it is not set"}, {"SIGNET_CONTROL", "", "reading SIGNET_CONTROL"}, {"TRUST_DOMAIN", "", "reading TRUST_DOMAIN"},
		{"INSTANCE_IPS", "", "reading INSTANCE_IPS"}, {"INSTANCE_IPS", "10.0.0", `reading INSTANCE_IPS: "10.0.0"`},
		{"PROXY_CONFIG", `{"tracing":{}}`, "PROXY_CONFIG: tracing {}: is not honoured"}, {"PROXY_CONFIG", `[]`, "want a ProxyConfig in JSON"},
		{"PROXY_CONFIG", `{"statusPort":15030}`, "statusPort 15030: is not honoured: the port is 15020"},
		{"PROXY_CONFIG", `{"concurrency":-1}`, "concurrency -1: want 0 to 1024"}, {"PROXY_CONFIG", `{"terminationDrainDuration":"soon"}`, `terminationDrainDuration "soon"`},
		{"PROXY_CONFIG", `{"proxyMetadata":{"ISTIO_META_X":"1"}}`, "ISTIO_META_X is not honoured"}, {"PROXY_CONFIG", `{"proxyMetadata":{"discovery":"some"}}`, `discovery "some"`},
		{"PROXY_CONFIG", `{"gatewayTopology":{"proxyProtocol":{}}}`, "proxyProtocol"},
		{"SIGNET_PROBERS", `{"/app-health/a/livez":{}}`, `"/app-health/a/livez": want exactly one`}, {"SIGNET_PROBERS", `{"/x":{"tcpSocket":{"port":70000}}}`, "port 70000"},
		{"SIGNET_PROMETHEUS", `{"path":"/"}`, "its port is missing"}, {"SIGNET_PROMETHEUS", `{"port":"80","scheme":"ftp"}`, `scheme "ftp"`},
		{"SIGNET_DNS", "maybe", `SIGNET_DNS "maybe"`}, {"SIGNET_LOG_LEVEL", "loud", `SIGNET_LOG_LEVEL: "loud"`}, {"SIGNET_GRACE_SECONDS", "-1", "SIGNET_GRACE_SECONDS"},
	} {
		if _, _, err := podConfig(environment(c.name, c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v, want %q", c.name, c.value, err, c.want)
		}
	}
}

func TestLevels(t *testing.T) {
	for word, want := range map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "Warning": slog.LevelWarn, "critical": slog.LevelError} {
		if got, err := parseLevel(word); err != nil || got != want {
			t.Errorf("%q: %v, %v", word, got, err)
		}
	}
}

func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	dir := t.TempDir()
	for text, want := range map[string]int64{"134217728\n": 134217728 / 10 * 9, "max\n": 0, "9223372036854771712\n": 0} {
		if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := limitMemory(dir); got != want || want > 0 && debug.SetMemoryLimit(-1) != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := limitMemory(t.TempDir()); got != 0 {
		t.Error(got)
	}
}

func TestWaitReady(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := waitReady(ctx, srv.URL); err != nil || asked.Load() != 3 {
		t.Errorf("%v after %d", err, asked.Load())
	}
	late, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	if err := waitReady(late, srv.URL+"0"); err == nil || !strings.Contains(err.Error(), "not ready in time") {
		t.Error(err)
	}
}

func TestCommands(t *testing.T) {
	var names []string
	for _, c := range Command().Commands() {
		names = append(names, c.Name())
	}
	if !slices.Equal(names, []string{"capture", "pod", "wait"}) {
		t.Error(names)
	}
	c := Command()
	c.SetArgs([]string{"capture", "--exclude-inbound-ports", "http"})
	c.SilenceErrors, c.SilenceUsage = true, true
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), `excludeInboundPorts: "http"`) {
		t.Error(err)
	}
}
