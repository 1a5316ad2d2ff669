package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/mesh/adsclient"
)

// configFile is the last good configuration, in the state directory beside the identity.
const configFile = "config.pb"

// lastGood is the adsclient.Store of a state directory. The file says who may do what: one that others can write to is
// refused.
type lastGood string

func (d lastGood) path() string { return filepath.Join(string(d), configFile) }

// Load implements adsclient.Store. What a crash left half-written is removed.
func (d lastGood) Load() ([]byte, error) {
	left, _ := filepath.Glob(filepath.Join(string(d), ca.TempPrefix+"*"))
	for _, f := range left {
		os.Remove(f)
	}
	f, err := os.Open(d.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("loading configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("loading configuration: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("loading configuration: %s has mode %v, want a file of mode 0600", d.path(), mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, adsclient.MaxStoredBytes+1))
	if err != nil {
		return nil, fmt.Errorf("loading configuration: %w", err)
	}
	return b, nil
}

// Save implements adsclient.Store.
func (d lastGood) Save(b []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("saving configuration: %w", err)
	}
	return ca.WriteDurable(d.path(), b)
}
