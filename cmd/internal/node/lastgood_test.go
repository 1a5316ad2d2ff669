package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/ca"
)

func TestLastGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	d := lastGood(dir)
	if b, err := d.Load(); b != nil || err != nil {
		t.Fatalf("before anything was saved: %q, %v", b, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := d.Save([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := d.Load(); string(b) != text || err != nil {
			t.Fatalf("loaded %q, %v, want %q", b, err, text)
		}
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, d.path(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}

	half := filepath.Join(dir, ca.TempPrefix+"1")
	if err := os.WriteFile(half, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Error("what a crash left is still there")
	}

	if err := os.Chmod(d.path(), 0o620); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Load(); b != nil || err == nil || !strings.Contains(err.Error(), "want a file of mode 0600") {
		t.Errorf("a file that others may write: %q, %v", b, err)
	}
}
