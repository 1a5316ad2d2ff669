package socket

import (
	"syscall"
	"unsafe"
)

const supported = true

// read takes what is there. false: nothing yet, wait.
func (t *transfer) read(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&t.buf[0])), uintptr(len(t.buf)))
		switch errno {
		case 0:
			t.n = int(n)
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			t.eager = 0
			return false
		}
		t.err = errno
		return true
	}
}

// write sends until all is sent. false: no room at present, wait.
func (t *transfer) write(fd uintptr) bool {
	for t.n < len(t.buf) {
		rest := t.buf[t.n:]
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
		switch errno {
		case 0:
			t.n += int(n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
	return true
}
