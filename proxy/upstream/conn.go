package upstream

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/identity"
)

const (
	readBuffer   = 4 << 10  // what Conn.Buf starts with
	keptBuffer   = 16 << 10 // a larger Conn.Buf is not kept while idle
	closeTimeout = 250 * time.Millisecond
)

// Conn is a borrowed connection. Its borrower ends the loan by exactly one call of Release or Discard.
type Conn struct {
	// Conn is a *tls.Conn on an mTLS endpoint, else a *socket.Conn or *net.UnixConn.
	net.Conn
	// Buf is a read buffer of 4 KiB to start with that stays with the connection. The borrower may grow or replace it; what
	// is in it is void after Release.
	Buf []byte

	pool          *pool // nil: belongs to no cluster
	wire          *wire // under TLS; nil on a plain connection
	peer          identity.Peer
	local, remote netip.AddrPort
	reused        bool
	lent          atomic.Bool
	born, since   time.Time // when it was made, when it was released last

	// raw, peek and the rest look at the socket without allocating.
	raw    syscall.RawConn
	peek   func(fd uintptr) bool
	look   look
	silent bool
	probe  [1]byte
}

func newConn(c net.Conn) *Conn {
	out := &Conn{Conn: c, Buf: make([]byte, readBuffer), born: time.Now(), local: addrPort(c.LocalAddr()), remote: addrPort(c.RemoteAddr())}
	out.lent.Store(true)
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			out.raw = raw
			out.peek = func(fd uintptr) bool {
				out.silent = out.look.silent(int(fd))
				return true
			}
		}
	}
	return out
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Reused reports whether the connection served an exchange before this one.
func (c *Conn) Reused() bool { return c.reused }

// Peer is who the server proved to be; nobody on a plain connection.
func (c *Conn) Peer() identity.Peer { return c.peer }

// Local is the address the connection was made from; the zero value for a Unix socket.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Remote is the address the connection goes to; the zero value for a Unix socket.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Release gives the connection back for reuse, with its deadlines cleared. Only for an exchange that ended cleanly: the
// response was read to its end and nothing after it, and no goroutine reads or writes any more. A connection on which the
// TLS layer holds bytes that nobody asked for is closed instead.
func (c *Conn) Release() {
	if !c.lent.CompareAndSwap(true, false) {
		return
	}
	p := c.pool
	if p == nil {
		c.shut()
		return
	}
	p.active.Add(-1)
	if c.SetDeadline(time.Time{}) != nil || (c.wire != nil && !c.drained()) {
		c.shut()
		return
	}
	if cap(c.Buf) > keptBuffer {
		c.Buf = make([]byte, readBuffer)
	}
	p.put(c, time.Now())
}

// Discard ends the loan and closes the connection.
func (c *Conn) Discard() {
	if !c.lent.CompareAndSwap(true, false) {
		return
	}
	if c.pool != nil {
		c.pool.active.Add(-1)
	}
	c.shut()
}

// Close is Discard, so that whoever treats a Conn as a net.Conn ends the loan too.
func (c *Conn) Close() error {
	c.Discard()
	return nil
}

// shut closes the socket; under TLS it says so to the peer, but does not wait long for a peer that takes nothing.
func (c *Conn) shut() {
	if c.wire != nil {
		c.wire.closing.Store(true)
	}
	_ = c.Conn.Close() // nobody is left to care
}

// drained reports that the TLS layer holds neither data nor an alert that came after the last response. It reads what is
// buffered only, never the socket. (crypto/tls allocates 24 bytes for it, as for every record that it reads.)
func (c *Conn) drained() bool {
	c.wire.dry = true
	_, err := c.Conn.Read(c.probe[:])
	c.wire.dry = false
	return err == errDry
}

// quiet reports that the socket is open and has nothing to read.
func (c *Conn) quiet() bool {
	if c.raw == nil {
		return false
	}
	c.silent = false
	return c.raw.Read(c.peek) == nil && c.silent
}
