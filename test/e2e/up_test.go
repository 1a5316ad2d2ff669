package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// marked is a command whose descendants can be told from all other processes: they have its mark in their environment.
type marked struct {
	*exec.Cmd
	t        *testing.T
	mark     string
	out, err *lockedBuffer
	ended    chan struct{}
}

var marks atomic.Int32

func mark(t *testing.T, name string, args ...string) *marked {
	t.Helper()
	if p := filepath.Join(bin, name); fileExists(p) {
		name = p
	}
	c := &marked{Cmd: exec.Command(name, args...), t: t, out: &lockedBuffer{}, err: &lockedBuffer{}, ended: make(chan struct{}),
		mark: fmt.Sprintf("SIGNET_E2E_MARK=%d.%d.", os.Getpid(), marks.Add(1))}
	c.Env = append(os.Environ(), c.mark, "https_proxy=http://192.0.2.1:1", "ALL_PROXY=http://192.0.2.1:1", "CGO_ENABLED=0")
	c.WaitDelay = time.Second
	c.Stdout, c.Stderr = c.out, c.err
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.Wait(); close(c.ended) }()
	t.Cleanup(func() {
		for _, pid := range slices.Collect(maps.Keys(c.processes())) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return c
}

// ready waits for the object.
func (c *marked) ready() map[string]any {
	c.t.Helper()
	eventually(c.t, 60*time.Second, func() string {
		if strings.HasSuffix(c.out.String(), "\n") {
			return ""
		}
		return "no line on standard output\n" + c.err.String()
	})
	var object map[string]any
	if err := json.Unmarshal([]byte(c.out.String()), &object); err != nil {
		c.t.Fatalf("%v in %q", err, c.out.String())
	}
	return object
}

// processes are those that have the mark, by id.
func (c *marked) processes() map[int]string {
	out := map[int]string{}
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range paths {
		var pid int
		_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(c.mark)) && pid != os.Getpid() {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			out[pid] = strings.ReplaceAll(string(cmdline), "\x00", " ")
		}
	}
	return out
}

// running waits until a process with the words in its command line runs.
func (c *marked) running(words string) (pid int) {
	c.t.Helper()
	eventually(c.t, 10*time.Second, func() string {
		for id, cmdline := range c.processes() {
			if strings.HasPrefix(strings.TrimPrefix(cmdline, bin+"/"), words) {
				pid = id
				return ""
			}
		}
		return fmt.Sprintf("no process %q among %v", words, c.processes())
	})
	return pid
}

// gone checks that nothing is left of it, nor a socket.
func (c *marked) gone(within time.Duration, places ...string) {
	c.t.Helper()
	eventually(c.t, within, func() string {
		if left := c.processes(); len(left) > 0 {
			return fmt.Sprintf("still there: %v", left)
		}
		return ""
	})
	for _, place := range places {
		_ = filepath.WalkDir(place, func(path string, d os.DirEntry, err error) error {
			if err == nil && (d.Type()&os.ModeSocket != 0 || d.Name() == "run") {
				c.t.Errorf("left behind: %s", path)
			}
			return nil
		})
	}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// forkers are programs that are hard to end.
const forkers = `# programs
plain: echo hello; echo $https_proxy; pwd -P; exec sleep 7771
shop.cart: env | grep -i _proxy= | sort; exec sleep 7772
forks: sleep 7773 & sleep 7774
daemon: setsid sh -c 'sleep 7775 & exec setsid sleep 7776' & exec sleep 7777
stubborn: trap '' TERM HUP INT; while :; do sleep 0.5; done
`

// fleet is a mesh of n workloads that only call.
func fleet(ip string, n int) string {
	docs := []string{entry("shop/cart", ip+"1", "cart", "app: cart", "")}
	for i := 2; i <= n; i++ {
		docs = append(docs, entry(fmt.Sprintf("shop/w%d", i), fmt.Sprintf("%s%d", ip, i), fmt.Sprintf("w%d", i), "", ""))
	}
	return objects(docs...)
}

func directory(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestUpAndItsEnd(t *testing.T) {
	t.Parallel()
	dir, state := directory(t, map[string]string{"mesh.yaml": fleet(addr(), 6), "Procfile": forkers}), shortDir(t)
	began := time.Now()
	c := mark(t, "signet", "up", "-o", "json", "--state", state, "--control-address", "127.0.0.1:0", dir)
	object := c.ready()
	t.Logf("6 workloads ready after %s", time.Since(began))
	checkKeys(t, "the object", object, "ready", "trustDomain", "control", "workloads")
	checkKeys(t, "control", object["control"].(map[string]any), "ca", "ads")
	workloads := object["workloads"].([]any)
	if len(workloads) != 6 {
		t.Fatalf("%d workloads", len(workloads))
	}
	for _, w := range workloads {
		checkKeys(t, "a workload", w.(map[string]any),
			"name", "namespace", "spiffeID", "inbound", "outbound", "sds", "admin", "metrics", "notAfter")
	}
	cart := workloads[0].(map[string]any)
	for _, socket := range []string{cart["sds"].(string), cart["admin"].(string)} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket %s: %v, %v", socket, info, err)
		}
	}
	c.running("sleep 7772")
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() string {
		for _, want := range []string{"plain | hello\n", "plain | http://192.0.2.1:1\n", "plain | " + real + "\n",
			"shop.cart | http_proxy=http://" + cart["outbound"].(string) + "\n", "shop.cart | no_proxy=127.0.0.1\n"} {
			if !strings.Contains(c.err.String(), want) {
				return fmt.Sprintf("standard error lacks %q\n%s", want, c.err.String())
			}
		}
		return ""
	})
	if strings.Contains(c.err.String(), "shop.cart | https_proxy") || strings.Contains(c.err.String(), "shop.cart | ALL_PROXY") {
		t.Errorf("another proxy leaks into a workload's program:\n%s", c.err.String())
	}
	for _, words := range []string{"sleep 7773", "sleep 7774", "sleep 7775", "sleep 7776", "sleep 7777"} {
		c.running(words)
	}
	began = time.Now()
	_ = c.Process.Signal(syscall.SIGTERM)
	c.gone(10*time.Second, state)
	t.Logf("ended in %s", time.Since(began))
	<-c.ended
	if code := c.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.err.String())
	}
	if out := c.out.String(); strings.Count(out, "\n") != 1 {
		t.Errorf("standard output carries more than the object: %q", out)
	}
	if log := c.err.String(); strings.Contains(log, "no configuration from the control plane") || strings.Contains(log, "level=ERROR") {
		t.Errorf("an orderly end is reported as trouble:\n%s", log)
	}
}

func checkKeys(t *testing.T, what string, object map[string]any, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, want) {
		t.Errorf("keys of %s: %q, want %q", what, got, want)
	}
}

// TestUpIsKilled kills what a person started, with no chance to clean up.
func TestUpIsKilled(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func(t *testing.T, flags []string) *marked{
		"signet": func(t *testing.T, flags []string) *marked { return mark(t, "signet", flags...) },
		"go run": func(t *testing.T, flags []string) *marked {
			return mark(t, "go", append([]string{"run", "-C", root, "./cmd/signet"}, flags...)...)
		},
		"make": func(t *testing.T, flags []string) *marked {
			makefile := fmt.Sprintf("up:\n\t@%s/signet %s\n", bin, strings.Join(flags, " "))
			return mark(t, "make", "--no-print-directory", "-f", filepath.Join(directory(t, map[string]string{"Makefile": makefile}), "Makefile"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, state := directory(t, map[string]string{"mesh.yaml": fleet(addr(), 2), "Procfile": forkers}), shortDir(t)
			c := start(t, []string{"up", "-o", "json", "--state", state, "--control-address", "127.0.0.1:0", dir})
			c.ready()
			for _, words := range []string{"sleep 7772", "sleep 7773", "sleep 7775", "sleep 7776"} {
				c.running(words)
			}
			began := time.Now()
			_ = c.Process.Kill()
			c.gone(10*time.Second, state)
			t.Logf("all gone %s after kill -9", time.Since(began))
		})
	}
}

// TestUpRefuses gives it what it can't run: it says why, starts nothing and prints nothing.
func TestUpRefuses(t *testing.T) {
	t.Parallel()
	ip := addr()
	good := map[string]string{"mesh.yaml": fleet(ip, 1)}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	badPolicy := policy("shop/p", "rules: [{to: [{operation: {pahts: [/a]}}]}]")
	for name, tc := range map[string]struct {
		files map[string]string
		flags []string // DIR is the directory, STATE a state directory
		exit  int
		want  []string
	}{
		"broken YAML":        {map[string]string{"a.yaml": "kind: [\n"}, []string{"DIR"}, 2, []string{"DIR/a.yaml:", "nothing was started"}},
		"refused object":     {map[string]string{"a.yaml": fleet(ip, 1), "p.yaml": badPolicy}, []string{"DIR"}, 2, []string{"DIR/p.yaml:", "AuthorizationPolicy shop/p", "pahts", "nothing was started"}},
		"shared address":     {map[string]string{"a.yaml": objects(entry("a/a", ip+"1", "a", "", ""), entry("b/b", ip+"1", "b", "", ""))}, []string{"DIR"}, 2, []string{"DIR/a.yaml:", "WorkloadEntry b/b: spec.address", "WorkloadEntry a/a"}},
		"broken Procfile":    {map[string]string{"Procfile": "# x\nweb: sleep 1\nno command\n"}, []string{"DIR"}, 2, []string{"DIR/Procfile:3", `"no command"`}},
		"double in Procfile": {map[string]string{"Procfile": "web: a\nweb: b\n"}, []string{"DIR"}, 2, []string{"DIR/Procfile:2", "line 1"}},
		"no directory":       {nil, []string{"DIR/none"}, 2, []string{"DIR/none"}},
		"a file":             {good, []string{"DIR/mesh.yaml"}, 2, []string{"DIR/mesh.yaml is not a directory"}},
		"no argument":        {nil, nil, 2, []string{"accepts 1 arg", "signet up --help"}},
		"unknown flag":       {nil, []string{"--sate", "x", "DIR"}, 2, []string{"--sate", "signet up --help"}},
		"output":             {nil, []string{"-o", "yaml", "DIR"}, 2, []string{`"yaml"`, "table or json"}},
		"lifetime":           {nil, []string{"--workload-cert-ttl", "soon", "DIR"}, 2, []string{`"soon"`, "--workload-cert-ttl"}},
		"short lifetime":     {nil, []string{"--workload-cert-ttl", "1ms", "DIR"}, 2, []string{"--workload-cert-ttl 1ms", "5s"}},
		"long lifetime":      {nil, []string{"--workload-cert-ttl", "2161h", "DIR"}, 2, []string{"--workload-cert-ttl 2161h", "2160h"}},
		"negative lifetime":  {nil, []string{"--workload-cert-ttl=-1h", "DIR"}, 2, []string{"--workload-cert-ttl -1h"}},
		"trust domain":       {nil, []string{"--trust-domain", "../x", "DIR"}, 2, []string{`"../x"`, "--trust-domain"}},
		"control address":    {nil, []string{"--control-address", "nowhere", "DIR"}, 2, []string{`"nowhere"`, "--control-address"}},
		"taken address":      {good, []string{"--state", "STATE", "--control-address", busy.Addr().String(), "DIR"}, 1, []string{busy.Addr().String(), "in use", "port 0"}},
		"unusable state":     {good, []string{"--state", "/dev/null/x", "--control-address", "127.0.0.1:0", "DIR"}, 1, []string{"/dev/null"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := directory(t, tc.files), shortDir(t)
			args := []string{"up", "-o", "json"}
			for _, f := range tc.flags {
				args = append(args, strings.ReplaceAll(strings.ReplaceAll(f, "DIR", dir), "STATE", state))
			}
			c := mark(t, "signet", args...)
			select {
			case <-c.ended:
			case <-time.After(10 * time.Second):
				t.Fatalf("it runs\n%s", c.err.String())
			}
			if code := c.ProcessState.ExitCode(); code != tc.exit {
				t.Errorf("exit code %d, want %d", code, tc.exit)
			}
			for _, want := range tc.want {
				if want = strings.ReplaceAll(want, "DIR", dir); !strings.Contains(c.err.String(), want) {
					t.Errorf("lacks %q:\n%s", want, c.err.String())
				}
			}
			if c.out.String() != "" {
				t.Errorf("standard output: %q", c.out.String())
			}
			if tc.exit == 2 && fileExists(filepath.Join(state, "root-key.pem")) {
				t.Error("a CA was made")
			}
			c.gone(2 * time.Second)
		})
	}
	t.Run("dangling link", func(t *testing.T) {
		dir := directory(t, good)
		if err := os.Symlink("nowhere", filepath.Join(dir, "policy.yaml")); err != nil {
			t.Fatal(err)
		}
		if _, errs, exit := run(t, "signet", "up", dir); exit != 2 || !strings.Contains(errs, "policy.yaml: it is a link to") {
			t.Errorf("exit %d\n%s", exit, errs)
		}
	})
}

// TestUpState is about the directory that keeps the CA.
func TestUpState(t *testing.T) {
	t.Parallel()
	home := shortDir(t)
	t.Run("default, kept, locked", func(t *testing.T) {
		dir := directory(t, map[string]string{"mesh.yaml": fleet(addr(), 1)})
		args := []string{"XDG_STATE_HOME=" + home, filepath.Join(bin, "signet"), "up", "-o", "json", "--trust-domain", "shop.example", "--control-address", "127.0.0.1:0", dir}
		c := mark(t, "env", args...)
		if td := c.ready()["trustDomain"]; td != "shop.example" {
			t.Errorf("trust domain %v", td)
		}
		state := filepath.Join(home, "signet", "shop.example")
		first := readCert(t, filepath.Join(state, "root-cert.pem"))
		holder := c.running("signet role-control")
		_, errs, exit := run(t, "env", args...)
		if exit != 1 || !strings.Contains(errs, fmt.Sprintf("process %d holds it", holder)) {
			t.Errorf("a second one on the same state: exit %d, want the holder %d\n%s", exit, holder, errs)
		}
		_ = c.Process.Signal(syscall.SIGINT)
		c.gone(10 * time.Second)
		again := mark(t, "env", args...)
		again.ready()
		if second := readCert(t, filepath.Join(state, "root-cert.pem")); !second.Equal(first) {
			t.Error("a second start made another root")
		}
		_ = again.Process.Signal(syscall.SIGINT)
		again.gone(10 * time.Second)
		_, errs, exit = run(t, "signet", "up", "--state", state, "--control-address", "127.0.0.1:0", dir)
		if exit != 1 || !strings.Contains(errs, `belongs to trust domain \"shop.example\"`) && !strings.Contains(errs, `belongs to trust domain "shop.example"`) {
			t.Errorf("another trust domain: exit %d\n%s", exit, errs)
		}
	})
	t.Run("deep", func(t *testing.T) {
		name := strings.Repeat("x", 63) + strings.Repeat("."+strings.Repeat("x", 62), 3)
		dir := directory(t, map[string]string{"mesh.yaml": objects(entry("shop/cart", addr()+"1", "cart", "", ""), entry("shop/"+name, addr()+"2", "w", "", ""))})
		state := filepath.Join(shortDir(t), strings.Repeat("d", 120), strings.Repeat("e", 120))
		c := mark(t, "signet", "up", "-o", "json", "--state", state, "--control-address", "127.0.0.1:0", dir)
		var sockets []string
		for _, w := range c.ready()["workloads"].([]any) {
			socket := w.(map[string]any)["sds"].(string)
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			sockets = append(sockets, socket)
		}
		_ = c.Process.Kill()
		c.gone(10 * time.Second)
		for _, s := range sockets {
			if short := filepath.Dir(filepath.Dir(s)); fileExists(short) {
				t.Errorf("%s is left behind", short)
			}
		}
	})
}

// TestUpTwice runs two meshes side by side, one in the form for people.
func TestUpTwice(t *testing.T) {
	t.Parallel()
	one, two := up(t, map[string]string{"mesh.yaml": shop(addr(), echo(t, nil))}), up(t, map[string]string{"mesh.yaml": shop(addr(), echo(t, nil))})
	if one.Ready.Control.CA == two.Ready.Control.CA {
		t.Errorf("both control planes are at %s", one.Ready.Control.CA)
	}
	for _, m := range []*running{one, two} {
		if got := code(t, "-x", "http://"+m.workload("shop/cart").Outbound, "http://pay.shop/"); got != "200" {
			t.Errorf("got %s\n%s", got, m.Log())
		}
	}
	c := mark(t, "signet", "up", "--state", shortDir(t), "--control-address", "127.0.0.1:0", directory(t, map[string]string{"m.yaml": fleet(addr(), 2)}))
	eventually(t, 20*time.Second, func() string {
		if strings.Count(c.out.String(), "\n") == 3 {
			return ""
		}
		return "no table of three lines: " + c.out.String()
	})
	sc := bufio.NewScanner(strings.NewReader(c.out.String()))
	for i, want := range []string{"WORKLOAD SPIFFE ID INBOUND OUTBOUND PROXY CERTIFICATE EXPIRES", "shop/cart spiffe://cluster.local/ns/shop/sa/cart - 127.", "shop/w2 spiffe://"} {
		if sc.Scan(); !strings.HasPrefix(strings.Join(strings.Fields(sc.Text()), " "), want) {
			t.Errorf("line %d: %q, want %q...", i, sc.Text(), want)
		}
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	c.gone(10 * time.Second)
}
