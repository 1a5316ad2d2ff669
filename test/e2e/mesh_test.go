// Package e2e runs the real executable as a person would, and real clients against it.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// bin is the directory of the executables under test, built once by TestMain.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "signet-e2e-")
	if err != nil {
		panic(err)
	}
	bin = dir
	build := exec.Command("go", "build", "-o", dir+"/", "../../cmd/signet", "../../cmd/signetd", "../../cmd/signet-proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building executables: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// status is one workload of the object that `up -o json` prints.
type status struct {
	Name, Namespace, SPIFFEID, Outbound, SDS, Admin, Metrics string
	Inbound                                                  []string
	NotAfter                                                 time.Time
}

// running is a mesh that `signet up` runs for one test.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	Dir   string
	State string
	Ready struct {
		Ready       bool
		TrustDomain string
		Control     struct{ CA, ADS string }
		Workloads   []status
	}
	mu  sync.Mutex
	log bytes.Buffer
	end chan error
}

// block hands out a loopback network 127.x.y.0/24 of its own to each mesh, so that tests don't meet.
var block atomic.Int32

// addr is a fresh prefix such as "127.77.3.": a test writes its addresses into its YAML with it.
func addr() string {
	n := block.Add(1)
	return fmt.Sprintf("127.%d.%d.", 64+os.Getpid()%100, n)
}

// freePort is a TCP port on 127.0.0.1 that nobody uses now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// up starts a mesh on files (name -> content) and waits until it is ready. It is ended, and its end judged, with the test.
func up(t *testing.T, files map[string]string, flags ...string) *running {
	t.Helper()
	m := &running{t: t, Dir: t.TempDir(), State: shortDir(t), end: make(chan error, 1)}
	for name, content := range files {
		m.write(name, content)
	}
	m.start(flags...)
	t.Cleanup(m.stop)
	return m
}

// shortDir is a scratch directory with a short path: Unix sockets live below it.
func shortDir(t *testing.T) string {
	d, err := os.MkdirTemp("", "sg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func (m *running) start(flags ...string) {
	m.t.Helper()
	args := append([]string{"up", "-o", "json", "--state", m.State, "--control-address", "127.0.0.1:0"}, flags...)
	m.cmd = exec.Command(filepath.Join(bin, "signet"), append(args, m.Dir)...)
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd.Stderr = m
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	line := make(chan []byte, 1)
	go func() {
		r := bufio.NewReader(out)
		b, _ := r.ReadBytes('\n')
		line <- b
		if more, _ := io.ReadAll(r); len(more) > 0 {
			fmt.Fprintf(m, "standard output carries more than the object: %q\n", more)
		}
		m.end <- m.cmd.Wait()
	}()
	select {
	case b := <-line:
		if err := json.Unmarshal(b, &m.Ready); err != nil {
			m.t.Fatalf("up printed %q: %v\n%s", b, err, m.Log())
		}
	case <-time.After(60 * time.Second):
		m.t.Fatalf("mesh not ready within 60 s\n%s", m.Log())
	}
}

// Write takes the standard error of the mesh.
func (m *running) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(b)
}

// Log is what all processes of the mesh have logged so far.
func (m *running) Log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.String()
}

// write saves a file of the mesh's directory at once, as an editor that renames does.
func (m *running) write(name, content string) {
	m.t.Helper()
	tmp := filepath.Join(m.Dir, "."+name+".tmp")
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(m.Dir, name)); err != nil {
		m.t.Fatal(err)
	}
}

// stop ends the mesh as Ctrl-C does and fails the test if that takes over 10 s or leaves a process behind.
func (m *running) stop() {
	if m.cmd.ProcessState != nil {
		return
	}
	pid := m.cmd.Process.Pid
	_ = m.cmd.Process.Signal(syscall.SIGINT)
	select {
	case err := <-m.end:
		if err != nil {
			m.t.Errorf("up ended with %v\n%s", err, m.Log())
		}
	case <-time.After(10 * time.Second):
		m.t.Errorf("up did not end within 10 s of SIGINT\n%s", m.Log())
		_ = m.cmd.Process.Kill()
	}
	if strings.Contains(m.Log(), "standard output carries more than the object") {
		m.t.Errorf("standard output is not clean\n%s", m.Log())
	}
	if left := descendants(m.State); len(left) > 0 {
		m.t.Errorf("processes left behind by up (pid %d): %v", pid, left)
	}
}

// descendants are the command lines of processes that mention a state directory.
func descendants(state string) []string {
	var out []string
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range cmdlines {
		if b, err := os.ReadFile(c); err == nil && bytes.Contains(b, []byte(state)) {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// workload is the status of NAMESPACE/NAME.
func (m *running) workload(key string) status {
	m.t.Helper()
	for _, w := range m.Ready.Workloads {
		if w.Namespace+"/"+w.Name == key {
			return w
		}
	}
	m.t.Fatalf("no workload %s in %+v", key, m.Ready.Workloads)
	return status{}
}

// eventually waits until f returns "" and fails with what it returned last.
func eventually(t *testing.T, within time.Duration, f func() string) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		what := f()
		if what == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// curl runs the real curl and returns what it printed (standard output and error) and its exit code.
func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "curl", append([]string{"-sS", "-i", "--max-time", "20"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("running curl: %v", err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// code is the status that curl gets, or "curl N" with its exit code.
func code(t *testing.T, args ...string) string {
	t.Helper()
	out, exit := curl(t, append([]string{"-o", "/dev/null", "-w", "%{http_code}"}, args...)...)
	if exit != 0 {
		return fmt.Sprintf("curl %d", exit)
	}
	return out
}

// echo is a program behind a sidecar: it answers with what it saw. Its handler may be replaced.
func echo(t *testing.T, h http.HandlerFunc) (port int) {
	t.Helper()
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s\nhost: %s\n", r.Method, r.RequestURI, r.Host)
			_ = r.Header.Write(w)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().(*net.TCPAddr).Port
}
