package upstream

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bindWithoutPort binds a socket to an address and leaves the choice of its port to connect (ip(7),
// IP_BIND_ADDRESS_NO_PORT), so that a local port can serve many destinations at once.
func bindWithoutPort(_, _ string, raw syscall.RawConn) error {
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); err != nil {
		return err
	}
	return failed
}

// look is what silent needs of one socket, kept so that looking allocates nothing.
type look [1]unix.PollFd

// silent reports that a socket is open and has nothing to read: neither data, nor its end, nor an error.
func (l *look) silent(fd int) bool {
	l[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	n, err := unix.Poll(l[:], 0)
	return n == 0 && err == nil
}
