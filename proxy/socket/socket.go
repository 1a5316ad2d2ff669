// Package socket makes TCP connections cheaper to read and write than package net alone does, for the data path: its system
// calls do not pass through the scheduler.
//
// Around every read and write of package net the Go scheduler assumes that the call may block: it accounts for the
// processor that is held, and the first such call after a moment of rest wakes the runtime's monitor thread, which then
// looks around every 20 µs until all is quiet again. At a few thousand requests a second that costs about as much as the
// calls. The sockets of package net never block, though: a call that would is answered EAGAIN and the goroutine parks in the
// poller. So the calls are made raw, and parking, deadlines and closing stay package net's.
package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Conn is a TCP connection with raw reads and writes. Everything else, deadlines among it, is net.TCPConn's own. Safe for
// concurrent use as any net.Conn is.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is one direction. mu is held by the one call that moves bytes; the rest is that call's.
type transfer struct {
	mu   sync.Mutex
	buf  []byte
	n    int
	err  syscall.Errno
	step func(fd uintptr) bool // made once, so that a call allocates nothing
	// eager counts the calls since one had to wait.
	eager int
}

// mostEager is after how many reads without a wait one is made the ordinary way. A flow that always finds bytes never parks
// its goroutine, and the monitor thread, which would interrupt it in favour of others, may be asleep: such a read wakes it.
const mostEager = 64

// Wrap returns c with raw reads and writes if it is a TCP connection on a system where that is known to work, else c.
func Wrap(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok || !supported {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	s := &Conn{TCPConn: t, raw: raw}
	s.in.step, s.out.step = s.in.read, s.out.write
	return s
}

// TCP is the connection of package net under c: c itself, or what Wrap wrapped; nil if c is no TCP connection.
func TCP(c net.Conn) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *Conn:
		return c.TCPConn
	}
	return nil
}

// Read implements net.Conn. An error is a *net.OpError or io.EOF, as with net.TCPConn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t := &c.in
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.eager++; t.eager > mostEager {
		t.eager = 0
		return c.TCPConn.Read(b)
	}
	t.buf, t.n, t.err = b, 0, 0
	err := c.raw.Read(t.step)
	t.buf = nil
	switch {
	case err != nil:
		return 0, c.failed("read", err)
	case t.err != 0:
		return 0, c.failed("read", os.NewSyscallError("read", t.err))
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	t := &c.out
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf, t.n, t.err = b, 0, 0
	err := c.raw.Write(t.step)
	t.buf = nil
	switch {
	case err != nil:
		return t.n, c.failed("write", err)
	case t.err != 0:
		return t.n, c.failed("write", os.NewSyscallError("write", t.err))
	}
	return t.n, nil
}

// failed names the operation as package net would.
func (c *Conn) failed(op string, err error) error {
	if o, ok := err.(*net.OpError); ok {
		o.Op = op
		return o
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
