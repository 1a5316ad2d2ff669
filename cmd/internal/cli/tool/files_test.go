package tool

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

// What has no end, or blocks, is not read.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory": func(path string) error { return os.Symlink(filepath.Dir(path), path) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "e.yaml")
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"validate", dir}, {"why", "-f", dir, "--from", "a/b", "--to", "a/b"}} {
			if code, _, errs := signet(t, "", args...); code != cli.ExitMistake || !strings.Contains(errs, path+" is not a regular file") {
				t.Errorf("%s: %s: exit %d, %s", name, args[0], code, errs)
			}
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "target"), []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", filepath.Join(dir, "e.yaml")); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := signet(t, "", "validate", dir); code != 0 {
		t.Errorf("a link to a file: exit %d, %s", code, errs)
	}
}

// The sockets of a mesh are those of its state directory, and of the short one that it names if it is this user's alone.
func TestRunDirsAreOfOneMesh(t *testing.T) {
	state, short, other := t.TempDir(), filepath.Join(t.TempDir(), "signet-1"), filepath.Join(t.TempDir(), "signet-2")
	t.Setenv("TMPDIR", filepath.Dir(other))
	for _, dir := range []string{short, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, want ...string) {
		t.Helper()
		w := where{state: state, trustDomain: "cluster.local"}
		got, err := w.runDirs()
		if want = append([]string{filepath.Join(state, "run")}, want...); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q", what, got, err, want)
		}
	}
	check("none is named")
	name := func(dir string) {
		if err := os.WriteFile(filepath.Join(state, "run.short"), []byte(dir), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	name(short)
	check("one is named", short)
	if err := os.Chmod(short, 0o710); err != nil {
		t.Fatal(err)
	}
	check("others can enter")
	name("signet-1")
	check("a relative name")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	name(link)
	check("a link")
	theirs := "/root"
	if os.Getuid() == 0 {
		theirs = other
		if err := os.Chown(other, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	name(theirs)
	check("another user's")
}

// untilWritten ends a context with the first write.
type untilWritten struct {
	strings.Builder
	end context.CancelFunc
}

func (u *untilWritten) Write(b []byte) (int, error) {
	u.end()
	return u.Builder.Write(b)
}

func (u *untilWritten) WriteString(s string) (int, error) { return u.Write([]byte(s)) }

// Elsewhere than on a terminal every denial is a line, whatever the limit of a table is.
func TestTopLines(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cart := serveAdmin(t, "shop/cart", []explain.Denial{{From: "a", To: "shop/cart", By: "x", Count: 9, Last: at}, {From: "b", To: "shop/cart", By: "x", Count: 1, Last: at}})
	live, err := explain.Connect(t.Context(), []string{cart})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	ctx, cancel := context.WithCancel(t.Context())
	out := &untilWritten{end: cancel}
	if err := (&top{live: live, out: out, limit: 1}).run(ctx, false); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, " 1 x b -> shop/cart") {
		t.Errorf("got\n%s", got)
	}
}

func TestSuggestCounts(t *testing.T) {
	const line = `{"workload":"shop.cart","method":"GET","path":"/items/1","protocol":"HTTP/1.1","response_code":200,"authority":"cart.shop.mesh","upstream_cluster":"inbound|8080||",` +
		`"downstream_local_address":"127.0.40.2:8080","source_principal":"spiffe://cluster.local/ns/shop/sa/front"}` + "\nno JSON\n"
	code, out, errs := signet(t, line, "suggest", "-f", "testdata/shop", "--log", "-")
	if code != 0 || !strings.HasPrefix(errs, "1 policy for 1 recorded request\nleft out, 1 line: ") || !strings.HasPrefix(out, "# What 1 recorded request needs, and nothing else.") {
		t.Errorf("exit %d: %s\n%s", code, errs, out)
	}
}
