package sdsserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxSocketPath is sun_path of sockaddr_un less its final NUL, bytes.
const maxSocketPath = 107

// ErrInUse says that a live process serves the socket.
var ErrInUse = errors.New("another process serves it")

// listen opens the socket, mode 0600 from its first moment. A missing parent directory is made 0700; one that others may
// write to is refused, since they could put a socket of their own there. What a dead process left is removed, a socket
// that answers and anything that is not a socket are left alone and refused.
func listen(ctx context.Context, path string) (net.Listener, error) {
	l, err := listenLocked(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("listening for SDS on %q: %w", path, err)
	}
	return l, nil
}

func listenLocked(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("path has %d bytes, the limit is %d", len(path), maxSocketPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(dir) // locked so that two processes can't both take over one stale socket
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := private(lock); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %q: %w", dir, err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		// Linux gives the file the mode of the unbound socket: there is no moment at which others may connect.
		controlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func private(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("directory %q has mode %v: others can replace the socket", dir.Name(), mode.Perm())
	}
	return nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("a file of mode %v is in the way", info.Mode())
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w, or so it seems: %w", ErrInUse, err) // for example a full backlog: somebody is there
	}
	return os.Remove(path)
}

// limited bounds how many connections are open at once: one more is closed at once.
type limited struct {
	net.Listener
	slots chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &limitedConn{Conn: conn, slots: l.slots}, nil
		default:
			conn.Close()
		}
	}
}
