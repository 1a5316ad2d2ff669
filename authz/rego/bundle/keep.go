package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const bundlesDir = "bundles"

// fileName is where the bundle of a policy is kept: by the policy, and by where it came from, so that a policy that points
// elsewhere does not begin with what another server said. Names of policies may be longer than those of files.
func fileName(stateDir, name, url string) string {
	return filepath.Join(stateDir, bundlesDir, short(name)+"-"+short(url)+".tar.gz")
}

func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:12])
}

// restore activates the kept bundle. It is verified like one that was fetched: the key may have changed, and so may the disk.
func (s *Source) restore() {
	if s.file == "" {
		return
	}
	raw, err := readBounded(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = s.use(raw, "")
	}
	if err != nil {
		err = fmt.Errorf("restoring bundle from %q: %w", s.file, err)
		s.mu.Lock()
		s.status.LastError = err.Error()
		s.mu.Unlock()
		s.cfg.Log.Warn("kept bundle is not used", "policy", s.cfg.Name, "error", err)
	}
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxCompressed+1)) // one too many is refused when it is read
}

// keep replaces the kept bundle, and drops those of the same policy from other places and what a crash left.
func (s *Source) keep(raw []byte) error {
	if s.file == "" {
		return nil
	}
	if err := replace(s.file, raw); err != nil {
		return fmt.Errorf("keeping bundle: %w", err)
	}
	name := filepath.Base(s.file)
	prefix, _, _ := strings.Cut(name, "-")
	entries, err := os.ReadDir(filepath.Dir(s.file))
	if err != nil {
		return fmt.Errorf("keeping bundle: %w", err)
	}
	for _, e := range entries {
		if e.Name() != name && strings.HasPrefix(strings.TrimPrefix(e.Name(), "."), prefix+"-") {
			if err := os.Remove(filepath.Join(filepath.Dir(s.file), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("dropping a bundle from elsewhere: %w", err)
			}
		}
	}
	return nil
}

// replace writes a file, mode 0600, so that a reader, or a crash, sees the old content or the new, whole.
func replace(name string, data []byte) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
