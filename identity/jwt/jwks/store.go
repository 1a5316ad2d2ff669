package jwks

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// store keeps the last good set of one issuer in a file, so that a restart while the issuer is away takes no service down. The
// zero value keeps nothing. Only Run uses it.
type store struct{ path, issuer, url string }

// kept is the file. Issuer and URL say whose it is.
type kept struct {
	Issuer  string    `json:"issuer"`
	URL     string    `json:"url,omitempty"`
	Fetched time.Time `json:"fetched"`
	Set     []byte    `json:"set"`
}

// maxKeptBytes bounds the file: a set in base64 and what is around it.
const maxKeptBytes = 2 * MaxSetBytes

func newStore(dir, issuer, url string) store {
	if dir == "" {
		return store{}
	}
	sum := sha256.Sum256([]byte(issuer + "\n" + url))
	return store{filepath.Join(dir, "jwks-"+hex.EncodeToString(sum[:16])+".json"), issuer, url}
}

// load gives nil without an error if there is nothing.
func (s store) load() ([]byte, time.Time, error) {
	if s.path == "" {
		return nil, time.Time{}, nil
	}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	} else if err != nil {
		return nil, time.Time{}, fmt.Errorf("opening kept keys: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeptBytes+1))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading %q: %w", s.path, err)
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, time.Time{}, fmt.Errorf("reading %q: %w", s.path, err)
	}
	if k.Issuer != s.issuer || k.URL != s.url {
		return nil, time.Time{}, fmt.Errorf("reading %q: it is of issuer %q", s.path, k.Issuer)
	}
	return k.Set, k.Fetched, nil
}

// save replaces the file at once, or leaves the old one.
func (s store) save(set []byte, at time.Time) error {
	if s.path == "" {
		return nil
	}
	text, err := json.Marshal(kept{s.issuer, s.url, at, set})
	if err != nil {
		return fmt.Errorf("writing kept keys: %w", err)
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making state directory: %w", err)
	}
	f, err := os.CreateTemp(dir, filepath.Base(s.path)+".*") // 0600
	if err != nil {
		return fmt.Errorf("writing kept keys: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %q: %w", s.path, err), os.Remove(f.Name()))
	}
	return nil
}
