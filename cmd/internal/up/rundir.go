package up

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"

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
		short, err := makeShort(leaves[1])
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

// makeShort makes a directory of our own (0700, a name nobody can guess) below the system's for temporary files.
func makeShort(leaf string) (string, error) {
	parent := os.TempDir()
	if !fits(filepath.Join(parent, "signet-0123456789", leaf)) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "signet-")
	if err != nil {
		return "", fmt.Errorf("making run directory: %w", err)
	}
	return dir, nil
}

func fits(dir string) bool {
	return len(filepath.Join(dir, node.AdminSocket)) <= maxSocketPath && len(filepath.Base(dir)) <= 255
}

// clear removes what a killed process left below the state directory, which is ours alone by now.
func (r *runDirs) clear() { _ = os.RemoveAll(r.base) }

// remove removes everything; all sidecars have ended.
func (r *runDirs) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = os.Remove(r.base) // empty: each sidecar's own is gone
	if r.short != "" {
		_ = os.RemoveAll(r.short)
	}
}
