package ca

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names inside a CA's state directory that more than one package reads.
const (
	RootCertFile = "root-cert.pem"
	TokensDir    = "tokens"
)

// RequestPEM puts a certificate request into PEM where it is DER.
func RequestPEM(csr []byte) []byte {
	if bytes.HasPrefix(bytes.TrimLeft(csr, " \t\r\n"), []byte("-----BEGIN ")) {
		return csr
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
}

// WriteDurable replaces path by data, mode 0600, at once: whoever reads it sees the old content or the new, also after a
// crash, and when it returns nil the new content is on disk.
func WriteDurable(path string, data []byte) error {
	tmp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(fmt.Errorf("replacing %q: %w", path, err), os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// CreateDurable is WriteDurable for a file that must not exist yet: of any number of callers one wins, and the others
// get an error that is fs.ErrExist. A reader never sees less than the whole content.
func CreateDurable(path string, data []byte) error {
	tmp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	err = os.Link(tmp, path)
	if rmErr := os.Remove(tmp); err == nil && rmErr != nil {
		err = rmErr
	}
	if err != nil {
		return fmt.Errorf("creating %q: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// TempPrefix begins the name of a file that is being written; after a crash it may be left, and may be removed.
const TempPrefix = ".tmp-"

func writeTemp(path string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix) // mode 0600
	if err != nil {
		return "", fmt.Errorf("writing %q: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("writing %q: %w", path, err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// SyncDir makes renames and removals in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory %q: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("syncing directory %q: %w", dir, err)
	}
	return nil
}
