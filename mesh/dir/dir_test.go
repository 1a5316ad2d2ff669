package dir_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	workload = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: NAME}\nspec: {address: 127.0.30.1, serviceAccount: NAME}\n"
	policy   = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: NAME}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}\n"
	badRule  = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: NAME}\nspec: {selector: {matchLabels: {app: x}}, rules: [{to: [{operation: {paths: [/a/*/b]}}]}]}\n"
)

func named(text, name string) string { return strings.ReplaceAll(text, "NAME", name) }

// lab is one directory with a Dir that runs on it.
type lab struct {
	t    *testing.T
	path string
	d    *dir.Dir
	log  *lines
}

// lines collects what is logged.
type lines struct {
	sync.Mutex
	strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.Builder.Write(p)
}

func (l *lines) text() string {
	l.Lock()
	defer l.Unlock()
	return l.String()
}

func newLab(t *testing.T, files map[string]string) *lab {
	l := &lab{t: t, path: t.TempDir(), log: &lines{}}
	for name, text := range files {
		l.write(name, text)
	}
	return l
}

func (l *lab) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.path, name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) start(persist string) []mesh.Problem {
	l.t.Helper()
	l.d = dir.New(dir.Config{Dir: l.path, TrustDomain: "cluster.local", Log: slog.New(slog.NewTextHandler(l.log, nil)), Persist: persist})
	_, problems, err := l.d.Load()
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan error)
	go func() { done <- l.d.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	return problems
}

// objects are the names that stand, those of quarantines in parentheses.
func (l *lab) objects() string {
	var out []string
	for _, o := range l.d.Current().Objects() {
		if o.Quarantined() {
			out = append(out, "("+o.Name+")")
		} else {
			out = append(out, o.Name)
		}
	}
	return strings.Join(out, " ")
}

// soon waits up to a second, the promise of Run, for the objects that stand.
func (l *lab) soon(want string) {
	l.t.Helper()
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if l.objects() == want {
			return
		}
	}
	l.t.Fatalf("after a second: got %q, want %q\n%s", l.objects(), want, l.log.text())
}

// stays checks that nothing is dropped for longer than what vanished waits.
func (l *lab) stays(want string) {
	l.t.Helper()
	for end := time.Now().Add(dir.Settle + 400*time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got := l.objects(); got != want {
			l.t.Fatalf("got %q, want %q\n%s", got, want, l.log.text())
		}
	}
}

func TestChangesTakeEffect(t *testing.T) {
	l := newLab(t, map[string]string{"a.yaml": named(workload, "a")})
	l.start("")
	l.write("b.yaml", named(workload, "b"))
	l.soon("a b")
	l.write("a.yaml", named(workload, "c"))
	l.soon("b c")
	if err := os.Remove(filepath.Join(l.path, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	l.soon("c")
	l.write("a.yaml", "# nothing\n")
	l.soon("")
}

func TestEmptyAndBrokenFilesKeepTheirObjects(t *testing.T) {
	l := newLab(t, map[string]string{"a.yaml": named(workload, "a"), "p.yaml": named(policy, "p")})
	l.start("")
	l.write("a.yaml", " \n")
	l.write("p.yaml", named(policy, "p")+"---\nkind: [")
	l.stays("a p")
	if got := l.log.text(); strings.Count(got, "p.yaml:") != 1 || !strings.Contains(got, "what the file held stays in force") {
		t.Errorf("log:\n%s", got)
	}
	l.write("p.yaml", named(policy, "q"))
	l.soon("a q")
	if err := os.Remove(filepath.Join(l.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	l.soon("q")
}

func TestAtomicRenameIsNoDeletion(t *testing.T) {
	l := newLab(t, map[string]string{"a.yaml": named(workload, "a")})
	l.start("")
	name := filepath.Join(l.path, "a.yaml")
	for range 5 { // as vi does: away with the old, then the new under its name
		if err := os.Rename(name, name+"~"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if got := l.objects(); got != "a" {
			t.Fatalf("got %q while the file was away", got)
		}
		l.write("a.yaml", named(workload, "a"))
	}
	l.write(".new", named(workload, "b"))
	if err := os.Rename(filepath.Join(l.path, ".new"), name); err != nil {
		t.Fatal(err)
	}
	l.soon("b")
}

func TestConfigMapSymlinks(t *testing.T) {
	l := newLab(t, nil)
	put := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(l.path, version), 0o700); err != nil {
			t.Fatal(err)
		}
		l.write(filepath.Join(version, "a.yaml"), text)
		if err := os.Symlink(version, filepath.Join(l.path, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(l.path, "..data_tmp"), filepath.Join(l.path, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..1", named(workload, "a"))
	if err := os.Symlink(filepath.Join("..data", "a.yaml"), filepath.Join(l.path, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	l.start("")
	l.soon("a")
	put("..2", named(workload, "b"))
	l.soon("b")
}

func TestRefusedPolicy(t *testing.T) {
	persist := filepath.Join(t.TempDir(), "state", "good.json")
	l := newLab(t, map[string]string{"p.yaml": named(policy, "p")})
	l.start(persist)
	l.write("p.yaml", named(badRule, "p")+"---\n"+named(badRule, "q"))
	l.soon("p (q)")
	if n := len(l.d.Current().Objects()); n != 2 {
		t.Fatalf("%d objects", n)
	}
	if got := l.log.text(); !strings.Contains(got, "the last good version stays in force") || !strings.Contains(got, "quarantined") ||
		!strings.Contains(got, "p.yaml:4:78: AuthorizationPolicy default/p: spec.rules[0].to[0].operation.paths[0]: ") {
		t.Errorf("log:\n%s", got)
	}

	// Another process finds the same last good version.
	again := dir.New(dir.Config{Dir: l.path, TrustDomain: "cluster.local", Persist: persist})
	s, problems, err := again.Load()
	if err != nil || len(mesh.Refusals(problems)) != 2 {
		t.Fatalf("problems %v, error %v", problems, err)
	}
	if s.Hash() != l.d.Current().Hash() {
		t.Error("a restart changed what stands")
	}
	if info, err := os.Stat(persist); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of %s: %v, %v", persist, info.Mode(), err)
	}

	l.write("p.yaml", named(policy, "q"))
	l.soon("q")
}

func TestLoadFails(t *testing.T) {
	if _, _, err := dir.New(dir.Config{Dir: filepath.Join(t.TempDir(), "none")}).Load(); err == nil {
		t.Error("a missing directory was read")
	}
}

// A pipe or a device is refused, not waited for.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		path := t.TempDir()
		if err := os.Mkdir(filepath.Join(path, "directory.yaml"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := put(filepath.Join(path, "e.yaml")); err != nil {
			t.Fatal(err)
		}
		_, problems, err := dir.New(dir.Config{Dir: path, TrustDomain: "cluster.local"}).Load()
		if err != nil || len(mesh.Refusals(problems)) != 1 || !strings.Contains(problems[0].Error(), "e.yaml: it is not a regular file") {
			t.Errorf("%s: %v, %v", name, err, problems)
		}
	}
}
