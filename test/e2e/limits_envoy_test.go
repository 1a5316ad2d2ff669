package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envoyLimits are counted by each value of x-tier.
var envoyLimits = rateLimit("lab/oven", `
selector: {matchLabels: {app: oven}}
global:
  rules:
  - {clientSelectors: [{path: {value: /each}, methods: [{value: GET}], headers: [{name: x-tier, type: Distinct}]}], limit: {requests: 8, unit: Hour}, onStoreFailure: Deny}`)

// TestEnvoyAsks: a real Envoy's ratelimit filter asks signetd, and shares its buckets with the sidecars of the mesh.
func TestEnvoyAsks(t *testing.T) {
	t.Parallel()
	redis := startRedis(t, true)
	k := newPantry(t, redis, envoyLimits)
	service := freePort(t)
	d := mark(t, "signetd", append([]string{"--state", shortDir(t), "--control-address", "127.0.0.1:0", "--ratelimit-address", fmt.Sprintf("127.0.0.1:%d", service), k.Dir}, redis.flags()...)...)
	eventually(t, 20*time.Second, func() string {
		if !strings.Contains(d.err.String(), "the store of global limits is there") {
			return d.err.String()
		}
		return ""
	})
	eventually(t, 15*time.Second, func() string {
		if n := k.replicasSeen(t); n != replicas+1 { // signetd is one
			return fmt.Sprintf("%d proxies share the store", n)
		}
		return ""
	})
	envoy := limitingEnvoy(t, "lab/oven", echo(t, nil), service)
	byEnvoy := []string{envoy + "/each/one?x=1"}
	bySidecar := []string{"-x", "http://" + k.workload("lab/web").Outbound, "http://oven.lab/each/one"}
	free := 0
	for i := range 5 {
		if !passes(t, "free", byEnvoy) {
			t.Errorf("Envoy's request %d is refused", i)
		}
		free++
	}
	eventually(t, 20*time.Second, func() string {
		if passes(t, "free", bySidecar) {
			free++
		}
		if free < 8 {
			return fmt.Sprintf("%d passed, want 8", free)
		}
		return ""
	})
	for range 3 {
		if passes(t, "free", byEnvoy) || passes(t, "free", bySidecar) {
			t.Error("a ninth request passes")
		}
	}
	if !passes(t, "paid", byEnvoy) {
		t.Error("another value of the header is refused")
	}
	for _, path := range []string{"/other", "/each -X POST"} {
		if got := code(t, append([]string{"-H", "x-tier: free"}, strings.Fields(envoy+path)...)...); got != "200" {
			t.Errorf("%s: %s", path, got)
		}
	}
	if strings.Contains(d.err.String(), redisPassword) {
		t.Error("signetd logs the password")
	}
	k.secret()
}

// passes makes one request of a tier, again while the store was not asked: on a busy machine it may not answer in time.
func passes(t *testing.T, tier string, to []string) (passed bool) {
	t.Helper()
	eventually(t, 20*time.Second, func() string {
		out, _ := curl(t, append([]string{"-H", "x-tier: " + tier}, to...)...)
		status, h := parsed(t, out)
		if h.Get("ratelimit") == "" {
			return fmt.Sprintf("never judged: %d %v", status, h)
		}
		if passed = status == http.StatusOK; !passed && (status != http.StatusTooManyRequests || h.Get("retry-after") == "") {
			t.Errorf("refused with %d %v", status, h)
		}
		return ""
	})
	return passed
}

// replicasSeen is how many proxies share the store, as oven0 has heard.
func (k *pantry) replicasSeen(t *testing.T) int {
	s, _ := k.status(t)
	for _, x := range s.Sidecars {
		if x.Workload.Name == "oven0" && x.Policies.Store != nil {
			return x.Policies.Store.Replicas
		}
	}
	return 0
}

// parsed is the status and the header of curl's output.
func parsed(t *testing.T, out string) (int, http.Header) {
	t.Helper()
	head, _, _ := strings.Cut(out, "\r\n\r\n")
	first, rest, _ := strings.Cut(head, "\r\n")
	h, status := http.Header{}, 0
	if _, err := fmt.Sscanf(first, "HTTP/1.1 %d", &status); err != nil {
		t.Fatalf("no response: %s", out)
	}
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimSpace(value))
	}
	return status, h
}

// limitingEnvoy starts an Envoy whose ratelimit filter asks for a domain, and waits until it answers.
func limitingEnvoy(t *testing.T, domain string, backend, service int) (url string) {
	t.Helper()
	conf, err := os.ReadFile("../../proxy/limit/rls/testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, port := shortDir(t), freePort(t)
	text := strings.NewReplacer("@ADMIN@", filepath.Join(dir, "admin"), "@LISTEN@", fmt.Sprint(port), "@DOMAIN@", domain,
		"@BACKEND@", fmt.Sprint(backend), "@RLS@", fmt.Sprint(service)).Replace(string(conf))
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(envoyPath(t), "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Envoy said:\n%s", log.String())
		}
	})
	url = fmt.Sprintf("http://127.0.0.1:%d", port)
	eventually(t, 30*time.Second, func() string {
		resp, err := http.Get(url + "/ready")
		if err != nil {
			return err.Error()
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	return url
}
