package lease

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a real redis-server (or with --sentinel a Sentinel) of one test.
type server struct {
	tb   testing.TB
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

func freePort(tb testing.TB) int {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// startRedis starts a server on a free port; it ends with the test.
func startRedis(tb testing.TB, args ...string) *server {
	tb.Helper()
	s := &server{tb: tb, port: freePort(tb), dir: tb.TempDir(), args: args}
	s.start()
	tb.Cleanup(s.kill)
	return s
}

func (s *server) addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

func (s *server) start() {
	s.tb.Helper()
	args := append([]string{"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--logfile", filepath.Join(s.dir, "log")}, s.args...)
	if len(s.args) > 0 && strings.HasSuffix(s.args[0], ".conf") {
		args = s.args
	}
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("starting redis-server (test/setup.sh installs it): %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.addr()); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.tb.Fatalf("redis-server does not listen:\n%s", log)
		}
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // also when stopped
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.addr()})
	s.tb.Cleanup(func() { c.Close() })
	return c
}

// proxy is one Leases that runs.
type proxy struct {
	*Leases
	end func()
	log *bytes.Buffer
}

func run(tb testing.TB, id string, store *policy.RateLimitStore) *proxy {
	tb.Helper()
	log := &bytes.Buffer{}
	l, err := New(Config{Store: store, ID: id, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	ended := false
	p := &proxy{Leases: l, log: log}
	p.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(p.end)
	return p
}

func (s *server) store() *policy.RateLimitStore {
	return &policy.RateLimitStore{Url: "redis://" + s.addr()}
}

// is waits until the store is in a state, and that n proxies are known.
func (p *proxy) is(tb testing.TB, want state, n int) {
	tb.Helper()
	eventually(tb, 10*time.Second, func() string {
		if s := p.Status(); s.State != want.String() || n > 0 && s.Replicas != n {
			return fmt.Sprintf("the store is %s (%s) with %d proxies, want %s with %d", s.State, s.Error, s.Replicas, want, n)
		}
		return ""
	})
}

func eventually(tb testing.TB, within time.Duration, check func() string) {
	tb.Helper()
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		wrong := check()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			tb.Fatal(wrong)
		}
	}
}

func rate(requests, burst uint32, period time.Duration) *limit.Bucket {
	return &limit.Bucket{Name: fmt.Sprintf("lab/oven/0/%d-%d-%s", requests, burst, period), Requests: requests, Burst: burst, Period: period}
}

func quota(requests uint32, unit policy.Limit_Unit) *limit.Bucket {
	return &limit.Bucket{Name: fmt.Sprintf("lab/oven/1/%d-%s", requests, unit), Requests: requests, Burst: requests, Calendar: unit}
}

// sure asks until there is an answer: on a busy machine one may take longer than a request waits.
func (p *proxy) sure(t testing.TB, b *limit.Bucket, key limit.Key) limit.Grant {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if g, ok := p.Take(t.Context(), b, key); ok {
			return g
		}
		if time.Now().After(end) {
			t.Errorf("no answer: %+v", p.Status())
			return limit.Grant{}
		}
	}
}

// take makes n requests and says how many were let through.
func (p *proxy) take(t testing.TB, b *limit.Bucket, n int) int {
	t.Helper()
	passed := 0
	for range n {
		if p.sure(t, b, limit.Key{1}).Allowed {
			passed++
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	return passed
}
