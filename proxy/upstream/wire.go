package upstream

import (
	"net"
	"sync/atomic"
	"time"
)

// wire lies between TLS and its socket.
type wire struct {
	net.Conn
	// dry makes Read fail with errDry without touching the socket. Owned by whoever may read.
	dry bool
	// closing bounds the time that the closing alert may take; crypto/tls would wait 5 s.
	closing atomic.Bool
}

// errDry says that nothing is buffered. crypto/tls keeps a connection usable after a read error that is temporary.
var errDry net.Error = dryError{}

type dryError struct{}

func (dryError) Error() string   { return "nothing buffered" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true }

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if w.dry {
		return 0, errDry
	}
	return w.Conn.Read(b)
}

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.closing.Load() {
		if soon := time.Now().Add(closeTimeout); t.IsZero() || soon.Before(t) {
			t = soon
		}
	}
	return w.Conn.SetWriteDeadline(t)
}
