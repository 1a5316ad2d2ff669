package attest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-mesh/signet/ca"
)

// Lifetimes of join tokens.
const (
	DefaultTokenTTL = time.Hour
	MaxTokenTTL     = 90 * 24 * time.Hour
)

// sweepEvery is how often expired tokens are removed.
const sweepEvery = 10 * time.Minute

// maxRecordBytes bounds a stored token.
const maxRecordBytes = 4096

// Errors of redeeming. A caller of the door never learns which.
var (
	ErrTokenUnknown = errors.New("join token is unknown")
	ErrTokenExpired = errors.New("join token has expired")
	ErrTokenBound   = errors.New("join token was redeemed for another key")
)

// Tokens is the store of join tokens: the directory tokens/ of a CA's state. A token is two files named by the SHA-256
// of its secret: HASH.json, which minting writes, and HASH.key, which the first redemption creates and which holds the
// key it is bound to. Creation is by link(2), so that of two redemptions at once, in any number of processes, one wins;
// both files are on disk before anybody is told. Safe for concurrent use.
type Tokens struct{ dir string }

// NewTokens is the store inside a CA's state directory. Nothing is read or made yet.
func NewTokens(stateDir string) *Tokens { return &Tokens{dir: filepath.Join(stateDir, ca.TokensDir)} }

// record is HASH.json.
type record struct {
	Workload string    `json:"workload"` // NAMESPACE/WORKLOAD
	Expires  time.Time `json:"expires"`

	token Token
}

// MintToken makes a join token for one workload and stores its hash. It needs a state directory that a CA has set up,
// takes no lock on it, and may run beside the control plane. A ttl of zero means DefaultTokenTTL; below zero or over
// MaxTokenTTL is an error. Whether there is such a workload is seen when the token is redeemed.
func MintToken(stateDir, namespace, workload string, ttl time.Duration) (string, error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < 0 || ttl > MaxTokenTTL {
		return "", fmt.Errorf("minting join token: lifetime %v must be above zero and at most %v", ttl, MaxTokenTTL)
	}
	root, err := rootHash(stateDir)
	if err != nil {
		return "", fmt.Errorf("minting join token: %w", err)
	}
	t, err := newToken(namespace, workload, root)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(record{Workload: namespace + "/" + workload, Expires: time.Now().Add(ttl).UTC()})
	if err != nil {
		return "", fmt.Errorf("minting join token: %w", err)
	}
	store := NewTokens(stateDir)
	if err := os.MkdirAll(store.dir, 0o700); err != nil {
		return "", fmt.Errorf("minting join token: %w", err)
	}
	if err := ca.CreateDurable(store.recordPath(t.id()), body); err != nil {
		return "", fmt.Errorf("minting join token: %w", err)
	}
	return t.text(), nil
}

func rootHash(stateDir string) ([sha256.Size]byte, error) {
	path := filepath.Join(stateDir, ca.RootCertFile)
	data, err := readSmall(path, 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return [sha256.Size]byte{}, fmt.Errorf("there is no CA in %q yet: start the control plane with this state directory first", stateDir)
	}
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return [sha256.Size]byte{}, fmt.Errorf("reading %q: it is no certificate in PEM", path)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("reading %q: %w", path, err)
	}
	return sha256.Sum256(block.Bytes), nil
}

func (s *Tokens) recordPath(id [sha256.Size]byte) string {
	return filepath.Join(s.dir, hex.EncodeToString(id[:])+".json")
}

func (s *Tokens) keyPath(id [sha256.Size]byte) string {
	return filepath.Join(s.dir, hex.EncodeToString(id[:])+".key")
}

// lookup finds a token that is good now. The secret itself is compared with nothing: its hash is the file's name.
func (s *Tokens) lookup(text string, now time.Time) (record, error) {
	t, err := ParseToken(text)
	if err != nil {
		return record{}, err
	}
	data, err := readSmall(s.recordPath(t.id()), maxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, ErrTokenUnknown
	}
	if err != nil {
		return record{}, fmt.Errorf("reading stored token: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("reading stored token: %w", err)
	}
	if r.Workload != t.Namespace+"/"+t.Workload {
		return record{}, fmt.Errorf("join token names %q but was minted for %q", t.Namespace+"/"+t.Workload, r.Workload)
	}
	if !now.Before(r.Expires) {
		return record{}, fmt.Errorf("%w at %v", ErrTokenExpired, r.Expires)
	}
	r.token = t
	return r, nil
}

// bind ties a token to the first key that comes, and finds it tied for every one after.
func (s *Tokens) bind(r record, key [sha256.Size]byte) error {
	path := s.keyPath(r.token.id())
	want := hex.EncodeToString(key[:])
	// Renewing with the same token is rare and losing a race rarer: the common case is the first redemption.
	err := ca.CreateDurable(path, []byte(want))
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	bound, err := readSmall(path, maxRecordBytes)
	if err != nil {
		return fmt.Errorf("reading stored token: %w", err)
	}
	if subtle.ConstantTimeCompare(bound, []byte(want)) != 1 {
		return ErrTokenBound
	}
	return nil
}

// Run removes expired tokens, and what a crash left half-written, until ctx ends; it then returns nil.
func (s *Tokens) Run(ctx context.Context, log *slog.Logger) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if n, err := s.Sweep(time.Now()); err != nil {
			log.Warn("sweeping join tokens failed", "err", err)
		} else if n > 0 {
			log.Info("expired join tokens removed", "count", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Sweep removes the tokens that have expired at the moment now, and returns how many. The record goes first: a token
// without one is unknown, so a crash in between brings none back to life unbound.
func (s *Tokens) Sweep(now time.Time) (removed int, err error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("sweeping join tokens: %w", err)
	}
	var errs []error
	for _, e := range entries {
		gone, err := s.sweepOne(e, now)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sweeping join token: %w", err))
		}
		if gone {
			removed++
		}
	}
	return removed, errors.Join(errs...)
}

func (s *Tokens) sweepOne(e fs.DirEntry, now time.Time) (removed bool, err error) {
	path := filepath.Join(s.dir, e.Name())
	switch base, ext := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), filepath.Ext(e.Name()); {
	case strings.HasPrefix(e.Name(), ca.TempPrefix):
		return false, removeOlder(e, path, now.Add(-sweepEvery))
	case ext == ".key":
		// Left by a crash of a sweep.
		if _, err := os.Lstat(filepath.Join(s.dir, base+".json")); errors.Is(err, fs.ErrNotExist) {
			return false, os.Remove(path)
		}
	case ext == ".json":
		data, err := readSmall(path, maxRecordBytes)
		if err != nil {
			return false, err
		}
		var r record
		if err := json.Unmarshal(data, &r); err != nil {
			return false, fmt.Errorf("reading %q: %w", path, err)
		}
		if now.Before(r.Expires) {
			return false, nil
		}
		if err := os.Remove(path); err != nil {
			return false, err
		}
		return true, os.Remove(filepath.Join(s.dir, base+".key"))
	}
	return false, nil
}

// removeOlder leaves alone what another process may be writing at this moment.
func removeOlder(e fs.DirEntry, path string, than time.Time) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	if info.ModTime().After(than) {
		return nil
	}
	return os.Remove(path)
}

func readSmall(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("reading %q: it is no plain file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}
