package rotate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/signet-mesh/signet/certs"
)

// FileName is the one file of a FileStore's directory. Key and chain are in one file so that they can never mismatch.
const FileName = "identity.json"

// maxFile bounds what is read, bytes.
const maxFile = 4 << 20

// FileStore keeps the identity in dir/identity.json, mode 0600; a missing directory is made 0700 by the first Save.
func FileStore(dir string) Store { return fileStore{dir: dir} }

type fileStore struct{ dir string }

// file is the form on disk: every member is PEM.
type file struct {
	Version int    `json:"version"`
	JoinKey string `json:"joinKey,omitempty"`
	Key     string `json:"key,omitempty"`
	Chain   string `json:"chain,omitempty"`
	Roots   string `json:"roots,omitempty"`
}

const fileVersion = 1

// Load implements Store. A file that others may read is refused: its keys must be taken as known.
func (s fileStore) Load() (*Stored, error) {
	path := filepath.Join(s.dir, FileName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("loading identity: %s has mode %v, want a file of mode 0600", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("loading identity: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("loading identity: %s is over %d bytes", path, maxFile)
	}
	out, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("loading identity: %s: %w", path, err)
	}
	return out, nil
}

func decode(b []byte) (*Stored, error) {
	var in file
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, errors.New("not well-formed JSON") // the decoder's own words may quote a key
	}
	if in.Version != fileVersion {
		return nil, fmt.Errorf("version %d, want %d", in.Version, fileVersion)
	}
	var out Stored
	var err error
	if in.JoinKey != "" {
		if out.JoinKey, err = certs.ParseKeyPEM([]byte(in.JoinKey)); err != nil {
			return nil, fmt.Errorf("field joinKey: %w", err)
		}
	}
	if in.Key == "" {
		return &out, nil
	}
	if out.Key, err = certs.ParseKeyPEM([]byte(in.Key)); err != nil {
		return nil, fmt.Errorf("field key: %w", err)
	}
	if out.Chain, err = certs.ParseChainPEM([]byte(in.Chain)); err != nil {
		return nil, fmt.Errorf("field chain: %w", err)
	}
	if out.Roots, err = certs.ParseChainPEM([]byte(in.Roots)); err != nil {
		return nil, fmt.Errorf("field roots: %w", err)
	}
	return &out, nil
}

func encode(s *Stored) ([]byte, error) {
	out := file{Version: fileVersion}
	if s.JoinKey != nil {
		key, err := certs.KeyPEM(s.JoinKey)
		if err != nil {
			return nil, err
		}
		out.JoinKey = string(key)
	}
	if s.Key != nil {
		key, err := certs.KeyPEM(s.Key)
		if err != nil {
			return nil, err
		}
		out.Key = string(key)
		out.Chain = string(certs.ChainPEM(s.Chain))
		out.Roots = string(certs.ChainPEM(s.Roots))
	}
	return json.Marshal(out)
}

// Save implements Store: a new file beside the old one, flushed, renamed over it, and the directory flushed.
func (s fileStore) Save(stored *Stored) error {
	b, err := encode(stored)
	if err != nil {
		return fmt.Errorf("saving identity: %w", err)
	}
	if err := s.replace(b); err != nil {
		return fmt.Errorf("saving identity: %w", err)
	}
	return nil
}

func (s fileStore) replace(b []byte) (err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(s.dir, FileName)
	tmp := path + ".new" // a fixed name: what a crash left is overwritten by the next Save
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
