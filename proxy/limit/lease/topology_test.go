package lease

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
)

const password = "open sesame & co: 100%"

func TestPassword(t *testing.T) {
	t.Parallel()
	r := startRedis(t, "--requirepass", password, "--user", "signet", "on", ">other-secret", "~signet:limit:*", "+@all")
	for name, store := range map[string]*policy.RateLimitStore{
		"default user":   {Url: "redis://" + r.addr(), Password: password},
		"user in URL":    {Url: "redis://signet@" + r.addr(), Password: "other-secret"},
		"user beside it": {Url: "redis://" + r.addr(), Username: "signet", Password: "other-secret"},
		"database":       {Url: "redis://" + r.addr() + "/3", Password: password},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, "one", store)
			p.is(t, up, 0)
			if got := p.take(t, rate(10, 10, time.Hour), 1); got != 1 {
				t.Error("refused")
			}
		})
	}
}

// pems writes a server certificate for localhost and gives the files and the CA in PEM.
func pems(t *testing.T) (cert, key, ca string) {
	t.Helper()
	authority := certtest.NewCA(t, "cluster.local")
	chain, signer := authority.Chain(t, "spiffe://cluster.local/ns/lab/sa/redis", certtest.AlsoDNS("localhost"))
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, content := range map[string][]byte{cert: all.Bytes(), key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, string(authority.Bundle().PEM())
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key, ca := pems(t)
	_, _, stranger := pems(t)
	port := freePort(t)
	startRedis(t, "--tls-port", fmt.Sprint(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert,
		"--tls-auth-clients", "no", "--requirepass", password)
	url := fmt.Sprintf("rediss://localhost:%d", port)
	p := run(t, "one", &policy.RateLimitStore{Url: url, Password: password, CaCertificates: ca})
	p.is(t, up, 1)
	if got := p.take(t, rate(10, 10, time.Hour), 11); got != 10 {
		t.Errorf("%d passed, want 10", got)
	}
	for name, store := range map[string]*policy.RateLimitStore{
		"another CA":   {Url: url, Password: password, CaCertificates: stranger},
		"the system's": {Url: url, Password: password},
		"another name": {Url: strings.Replace(url, "localhost", "127.0.0.1", 1), Password: password, CaCertificates: ca},
	} {
		p := run(t, "one", store)
		eventually(t, 10*time.Second, func() string {
			if s := p.Status(); s.State != "away" || !strings.Contains(s.Error, "certificate") {
				return fmt.Sprintf("%s: %+v", name, s)
			}
			return ""
		})
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	var nodes []*server
	args := []string{"--cluster", "create"}
	for range 3 {
		n := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)), "--cluster-node-timeout", "1000", "--appendonly", "yes")
		nodes, args = append(nodes, n), append(args, n.addr())
	}
	if out, err := exec.Command("redis-cli", append(args, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, url := range []string{
		fmt.Sprintf("redis://%s?addr=%s&addr=%s", nodes[0].addr(), nodes[1].addr(), nodes[2].addr()),
		fmt.Sprintf("redis://%s?cluster=true", nodes[1].addr()),
	} {
		p := run(t, "one", &policy.RateLimitStore{Url: url})
		p.is(t, up, 1)
		for i := range 64 {
			if g := p.sure(t, rate(10, 10, time.Hour), limit.Key{byte(i), byte(len(url))}); !g.Allowed {
				t.Fatalf("key %d: %+v", i, g)
			}
		}
		p.end()
	}
	for _, n := range nodes {
		if size, err := n.client().DBSize(t.Context()).Result(); err != nil || size < 5 {
			t.Errorf("a node has %d keys (%v): they are not spread", size, err)
		}
	}
	loseNode(t, nodes)
}

// loseNode: without one of its nodes a Cluster is away, whichever key found out; with it, it is there.
func loseNode(t *testing.T, nodes []*server) {
	p := run(t, "two", &policy.RateLimitStore{Url: fmt.Sprintf("redis://%s?addr=%s&addr=%s", nodes[0].addr(), nodes[1].addr(), nodes[2].addr())})
	p.is(t, up, 1)
	nodes[2].kill()
	b := rate(1e6, 1e6, time.Second)
	for i := 0; state(p.state.Load()) != lost; i++ {
		p.Take(t.Context(), b, limit.Key{byte(i), byte(i >> 8), 8})
		time.Sleep(time.Millisecond)
	}
	nodes[2].start()
	eventually(t, 20*time.Second, func() string {
		for i := range 64 {
			if g, ok := p.Take(t.Context(), b, limit.Key{byte(i), 9}); !ok || !g.Allowed {
				return fmt.Sprintf("key %d: %+v, %v: %+v", i, g, ok, p.Status())
			}
		}
		return ""
	})
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	auth := []string{"--requirepass", password, "--masterauth", password}
	master := startRedis(t, auth...)
	replica := startRedis(t, append(auth, "--replicaof", "127.0.0.1 "+fmt.Sprint(master.port))...)
	port, conf := freePort(t), filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nrequirepass %q\nsentinel monitor lab 127.0.0.1 %d 1\nsentinel auth-pass lab %q\n"+
		"sentinel down-after-milliseconds lab 500\nsentinel failover-timeout lab 3000\n", port, filepath.Dir(conf), password, master.port, password)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	watcher := &server{tb: t, port: port, args: []string{conf, "--sentinel"}, dir: filepath.Dir(conf)}
	watcher.start()
	t.Cleanup(watcher.kill)
	c := redis.NewClient(&redis.Options{Addr: watcher.addr(), Password: password})
	defer c.Close()
	eventually(t, 30*time.Second, func() string { // the Sentinel knows the replica, which follows
		v, err := c.Do(t.Context(), "SENTINEL", "REPLICAS", "lab").Slice()
		if err != nil || len(v) != 1 || !strings.Contains(fmt.Sprint(v), "master-link-status:ok") {
			return fmt.Sprintf("replicas: %v %v", v, err)
		}
		return ""
	})
	p := run(t, "one", &policy.RateLimitStore{Url: fmt.Sprintf("redis://%s?master_name=lab&sentinel_auth=true", watcher.addr()), Password: password})
	p.is(t, up, 1)
	b := quota(100, policy.Limit_Month)
	if got := p.take(t, b, 50); got != 50 {
		t.Fatalf("%d of 50 passed", got)
	}
	time.Sleep((idleSweeps + 3) * sweepEvery) // what is at hand goes back, and to the replica
	master.kill()
	p.is(t, lost, 1)
	eventually(t, 30*time.Second, func() string {
		if s := p.Status(); s.State != "up" {
			return fmt.Sprintf("after the failover: %+v", s)
		}
		return ""
	})
	if got := p.take(t, b, 60); got != 50 {
		t.Errorf("%d passed at the new master, want the 50 that were left", got)
	}
	_ = replica
}
