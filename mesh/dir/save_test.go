package dir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh/dir"
)

// TestHalfWrittenFileIsNotRead writes a file in pieces each of which is good YAML and means something else.
func TestHalfWrittenFileIsNotRead(t *testing.T) {
	whole := named(workload, "a") + "---\n" + strings.Replace(named(workload, "b"), "127.0.30.1", "127.0.30.12", 1)
	l := newLab(t, map[string]string{"a.yaml": whole})
	l.start("")
	cuts := []int{len(named(workload, "a")), len(whole) / 2, len(whole) - 12}
	for range 2 {
		for _, n := range cuts {
			l.write("a.yaml", whole[:n])
			for end := time.Now().Add(dir.Quiet / 2); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if got := l.objects(); got != "a b" {
					t.Fatalf("%q after %d of %d bytes", got, n, len(whole))
				}
			}
		}
	}
	l.write("a.yaml", whole+"---\n"+strings.Replace(named(workload, "c"), "127.0.30.1", "127.0.30.3", 1))
	l.soon("a b c")
	if log := l.log.text(); log != "" {
		t.Errorf("a piece was judged:\n%s", log)
	}
}

// TestFileThatNeverRestsIsReadAtLast rewrites a file again and again.
func TestFileThatNeverRestsIsReadAtLast(t *testing.T) {
	l := newLab(t, map[string]string{"a.yaml": named(workload, "a")})
	l.start("")
	for end := time.Now().Add(6 * time.Second); l.objects() != "a b"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("got %q", l.objects())
		}
		l.write("a.yaml", named(workload, "a")+"---\n"+strings.Replace(named(workload, "b"), "127.0.30.1", "127.0.30.2", 1)+"# "+time.Now().String()+"\n")
	}
}

// TestDanglingLink is a file that is there and can't be read: what it held stays.
func TestDanglingLink(t *testing.T) {
	l := newLab(t, map[string]string{"target": named(policy, "p")})
	link := filepath.Join(l.path, "p.yaml")
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	l.start("")
	if err := os.Rename(filepath.Join(l.path, "target"), filepath.Join(l.path, "away")); err != nil {
		t.Fatal(err)
	}
	l.stays("p")
	if log := l.log.text(); strings.Count(log, "p.yaml: it is a link to") != 1 {
		t.Errorf("log:\n%s", log)
	}
	if err := os.Rename(filepath.Join(l.path, "away"), filepath.Join(l.path, "target")); err != nil {
		t.Fatal(err)
	}
	l.write("target", named(policy, "q"))
	l.soon("q")
}

// TestRestartKeepsWhatABrokenFileHeld is for all kinds: a control plane that crashed and is started again changes nothing.
func TestRestartKeepsWhatABrokenFileHeld(t *testing.T) {
	persist := filepath.Join(t.TempDir(), "good.json")
	l := newLab(t, map[string]string{"a.yaml": named(workload, "a"), "b.yaml": strings.Replace(named(workload, "b"), "127.0.30.1", "127.0.30.2", 1)})
	l.start(persist)
	before := l.d.Current().Hash()
	l.write("a.yaml", "kind: [")
	again := dir.New(dir.Config{Dir: l.path, TrustDomain: "cluster.local", Persist: persist})
	s, problems, err := again.Load()
	if err != nil || len(problems) != 1 || s.Hash() != before {
		t.Errorf("problems %v, error %v, unchanged: %v", problems, err, s.Hash() == before)
	}
	l.remove("b.yaml") // and a file that went while nobody looked is gone
	if s, _, err := dir.New(dir.Config{Dir: l.path, TrustDomain: "cluster.local", Persist: persist}).Load(); err != nil || len(s.Workloads()) != 1 {
		t.Errorf("%d workloads, %v", len(s.Workloads()), err)
	}
}

func (l *lab) remove(name string) {
	l.t.Helper()
	if err := os.Remove(filepath.Join(l.path, name)); err != nil {
		l.t.Fatal(err)
	}
}
