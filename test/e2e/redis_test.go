package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs/certtest"
)

// redisServer is a real redis-server of one test. It writes down what it is told before it answers, so that a new process
// on the same directory knows it.
type redisServer struct {
	t         *testing.T
	port      int
	dir, conf string
	cmd       *exec.Cmd
	// url, passwordFile and caFile are what signet is told of it.
	url, passwordFile, caFile string
}

// redisPassword has what a shell, a URL and a line of YAML would each read in their own way.
const redisPassword = "Correct-Horse#Battery&Staple%21"

// startRedis starts a server in plaintext and without a password, or with both.
func startRedis(t *testing.T, locked bool) *redisServer {
	t.Helper()
	r := &redisServer{t: t, port: freePort(t), dir: t.TempDir()}
	r.url = fmt.Sprintf("redis://127.0.0.1:%d", r.port)
	lines := []string{"bind 127.0.0.1", "dir " + r.dir, `save ""`, "appendonly yes", "logfile " + filepath.Join(r.dir, "log")}
	if locked {
		ca := certtest.NewCA(t, "store.example")
		chain, key := ca.Chain(t, "spiffe://store.example/ns/store/sa/redis", certtest.AlsoDNS("localhost"))
		certFile, keyFile := save(t, chain, key)
		r.url = fmt.Sprintf("rediss://localhost:%d", r.port)
		r.passwordFile, r.caFile = r.file("password", redisPassword+"\n"), r.file("ca.pem", string(ca.Bundle().PEM()))
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", r.port), "tls-cert-file "+certFile, "tls-key-file "+keyFile,
			"tls-ca-cert-file "+r.caFile, "tls-auth-clients no", `requirepass "`+redisPassword+`"`)
	} else {
		lines = append(lines, fmt.Sprintf("port %d", r.port))
	}
	r.conf = r.file("redis.conf", strings.Join(lines, "\n")+"\n")
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// flags are what signet up and signetd are given.
func (r *redisServer) flags() []string {
	out := []string{"--redis", r.url}
	if r.passwordFile != "" {
		out = append(out, "--redis-password-file", r.passwordFile, "--redis-ca-file", r.caFile)
	}
	return out
}

func (r *redisServer) start() {
	r.t.Helper()
	r.cmd = exec.Command("redis-server", r.conf)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("starting redis-server (test/setup.sh installs it): %v", err)
	}
	eventually(r.t, 20*time.Second, func() string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(r.dir, "log"))
			return fmt.Sprintf("%v\n%s", err, log)
		}
		c.Close()
		return ""
	})
}

func (r *redisServer) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// kill ends it without notice, also when it is stopped.
func (r *redisServer) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}
