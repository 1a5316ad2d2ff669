package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/signet-mesh/signet/ca"
)

// Names of files, besides ca.RootCertFile.
const (
	lockFile        = "lock"
	trustDomainFile = "trust-domain"
	rootKeyFile     = "root-key.pem"
	caKeyFile       = "ca-key.pem"
	caCertFile      = "ca-cert.pem"
	caNextKeyFile   = "ca-key-next.pem"
)

// maxFileBytes bounds what is read of any of them.
const maxFileBytes = 64 << 10

// directory is the path of a state directory.
type directory string

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

// prepare makes the directory where it is missing and closes it to others. One that others can write to and that holds
// something already is not trusted.
func (d directory) prepare() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("making directory: %w", err)
	}
	info, err := os.Stat(string(d))
	if err != nil {
		return fmt.Errorf("looking at directory: %w", err)
	}
	if !info.IsDir() {
		return errors.New("it is not a directory")
	}
	mode := info.Mode().Perm()
	if mode&0o077 == 0 {
		return nil
	}
	if mode&0o022 != 0 {
		entries, err := os.ReadDir(string(d))
		if err != nil {
			return fmt.Errorf("reading directory: %w", err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("it has mode %04o: others may have written what is in it; it must be 0700", mode)
		}
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return fmt.Errorf("closing directory to others: %w", err)
	}
	return nil
}

// lock takes the directory for this process. The lock goes with the file descriptor, so a process that was killed
// holds none.
func (d directory) lock() (*os.File, error) {
	f, err := os.OpenFile(d.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := holderOf(f)
		return nil, errors.Join(fmt.Errorf("locking: %s holds it: %w", holder, err), f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing lock: %w", err), f.Close())
	}
	return f, nil
}

func holderOf(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || perr != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}

// sweepTemp removes what a crash left half-written.
func (d directory) sweepTemp() error {
	left, err := filepath.Glob(d.path(ca.TempPrefix + "*"))
	if err != nil {
		return fmt.Errorf("looking for temporary files: %w", err)
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("removing temporary file: %w", err)
		}
	}
	return nil
}

// read returns a file's content, and whether there is one. A file that others may read or write, or that is no plain
// file, is an error.
func (d directory) read(name string) (data []byte, ok bool, err error) {
	f, err := os.OpenFile(d.path(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading %q: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("reading %q: %w", name, err)
	}
	forbidden := fs.FileMode(0o077)
	if !strings.Contains(name, "key") {
		forbidden = 0o022 // not secret
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, false, fmt.Errorf("reading %q: it is no plain file", name)
	case info.Mode().Perm()&forbidden != 0:
		return nil, false, fmt.Errorf("reading %q: it has mode %04o, must be 0600", name, info.Mode().Perm())
	case info.Size() > maxFileBytes:
		return nil, false, fmt.Errorf("reading %q: it has %d bytes, at most %d are read", name, info.Size(), maxFileBytes)
	}
	data, err = io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, false, fmt.Errorf("reading %q: %w", name, err)
	}
	return data, true, nil
}

func (d directory) write(name string, data []byte) error { return ca.WriteDurable(d.path(name), data) }

func (d directory) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil {
		return fmt.Errorf("removing %q: %w", name, err)
	}
	return ca.SyncDir(string(d))
}

func (d directory) readKey(name string) (*ecdsa.PrivateKey, bool, error) {
	der, ok, err := d.readPEM(name, "PRIVATE KEY")
	if err != nil || !ok {
		return nil, false, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, false, fmt.Errorf("reading %q: it holds no key that can be read", name) // the cause may quote the key
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, false, fmt.Errorf("reading %q: key is %T, not ECDSA", name, key)
	}
	return ec, true, nil
}

func (d directory) readCert(name string) (*x509.Certificate, bool, error) {
	der, ok, err := d.readPEM(name, "CERTIFICATE")
	if err != nil || !ok {
		return nil, false, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, false, fmt.Errorf("reading %q: %w", name, err)
	}
	return cert, true, nil
}

func (d directory) readPEM(name, kind string) ([]byte, bool, error) {
	data, ok, err := d.read(name)
	if err != nil || !ok {
		return nil, false, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) != 0 {
		return nil, false, fmt.Errorf("reading %q: it is not one PEM block of type %q", name, kind)
	}
	return block.Bytes, true, nil
}

func (d directory) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding key for %q: %w", name, err)
	}
	return d.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (d directory) writeCert(name string, cert *x509.Certificate) error {
	return d.write(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// saveIntermediate puts a new signing certificate and its key in place. The certificate's rename is the moment at which
// it counts: before it the old pair stands, after it load finds the key under its name next.
func (d directory) saveIntermediate(p pair) error {
	if err := d.writeKey(caNextKeyFile, p.key); err != nil {
		return err
	}
	if err := d.writeCert(caCertFile, p.cert); err != nil {
		return err
	}
	return d.promoteKey()
}

func (d directory) promoteKey() error {
	if err := os.Rename(d.path(caNextKeyFile), d.path(caKeyFile)); err != nil {
		return fmt.Errorf("putting %q in place: %w", caKeyFile, err)
	}
	return ca.SyncDir(string(d))
}
