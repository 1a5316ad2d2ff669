package up

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/signet-mesh/signet/cmd/internal/node"
)

// maxSocketPath is how many bytes the path of a Unix socket may have (sun_path of sockaddr_un less its final NUL).
const maxSocketPath = 107

// runDirs gives each sidecar a directory for its sockets and its token: below the state directory, or where that is too
// deep for the path of a Unix socket, below a short one of this process's own.
type runDirs struct {
	base string

	mu    sync.Mutex
	short string // "" until it is needed
}

func newRunDirs(base string) *runDirs { return &runDirs{base: base} }

// of makes the directory of one sidecar, mode 0700.
func (r *runDirs) of(namespace, name string) (string, error) {
	dir, err := r.choose(namespace + "." + name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making run directory: %w", err)
	}
	return dir, nil
}

func (r *runDirs) choose(name string) (string, error) {
	leaves := []string{name, fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:16]}
	for _, leaf := range leaves {
		if dir := filepath.Join(r.base, leaf); fits(dir) {
			return dir, nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.short == "" {
		short, err := r.makeShort(leaves[1])
		if err != nil {
			return "", err
		}
		r.short = short
	}
	for _, leaf := range leaves {
		if dir := filepath.Join(r.short, leaf); fits(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("making run directory: the path of a socket has at most %d bytes, and %q is too long for it", maxSocketPath, r.short)
}

// pointer is the file STATE/run.short, by which others find the short directory.
func (r *runDirs) pointer() string { return r.base + ".short" }

// makeShort makes a directory of our own (0700, a name nobody can guess) below the system's for temporary files, and writes
// down where it is.
func (r *runDirs) makeShort(leaf string) (string, error) {
	parent := os.TempDir()
	if !fits(filepath.Join(parent, "signet-0123456789", leaf)) {
		parent = "/tmp"
	}
	parent, err := filepath.Abs(parent)
	if err != nil {
		return "", fmt.Errorf("making run directory: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "signet-")
	if err != nil {
		return "", fmt.Errorf("making run directory: %w", err)
	}
	if err := os.WriteFile(r.pointer(), []byte(dir), 0o600); err != nil {
		_ = os.Remove(dir)
		return "", fmt.Errorf("making run directory: %w", err)
	}
	return dir, nil
}

// ShortRunDir is the directory that `signet up` made for the sockets of the mesh with this state directory, because the state
// directory is too deep for their paths; "" if there is none. Anybody may make a directory in a place for temporary files:
// only one of this user's that nobody else can enter counts.
func ShortRunDir(state string) string {
	f, err := os.OpenFile(newRunDirs(filepath.Join(state, "run")).pointer(), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSocketPath+1))
	dir := string(text)
	if err != nil || len(dir) > maxSocketPath || !filepath.IsAbs(dir) {
		return ""
	}
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return ""
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Getuid() {
		return ""
	}
	return dir
}

func fits(dir string) bool {
	return len(filepath.Join(dir, node.AdminSocket)) <= maxSocketPath && len(filepath.Base(dir)) <= 255
}

// clear removes what a killed process left below the state directory, which is ours alone by now.
func (r *runDirs) clear() {
	_ = os.RemoveAll(r.base)
	_ = os.Remove(r.pointer())
}

// remove removes everything; all sidecars have ended.
func (r *runDirs) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = os.Remove(r.base) // empty: each sidecar's own is gone
	if r.short != "" {
		_ = os.Remove(r.pointer())
		_ = os.RemoveAll(r.short)
	}
}
