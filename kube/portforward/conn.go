package portforward

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	//lint:ignore SA1019 client-go gives and takes these types
	"k8s.io/apimachinery/pkg/util/httpstream"
)

const (
	// maxFailure bounds what is read of the kubelet's words, in bytes.
	maxFailure = 4096
	// failureWait is how long the end of the data waits for the reason, which travels on another stream.
	failureWait = time.Second
)

// conn is one forwarded connection with a session of its own.
type conn struct {
	session httpstream.Connection
	data    httpstream.Stream
	name    address
	// failure is what the kubelet said; written by listen before done is closed.
	failure string
	done    chan struct{}
}

// listen reads the stream of failures until the session ends. Close waits for it.
func (c *conn) listen(failures io.Reader) {
	defer close(c.done)
	b, _ := io.ReadAll(io.LimitReader(failures, maxFailure)) // what came before an error counts
	c.failure = strings.TrimSpace(string(b))
}

// Read implements net.Conn. The end of the stream is the kubelet's reason, if it gave one.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	select {
	case <-c.done:
		if c.failure != "" {
			return 0, errors.New(c.failure)
		}
	case <-time.After(failureWait):
	}
	return 0, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) { return c.data.Write(p) }

// Close implements net.Conn.
func (c *conn) Close() error {
	_ = c.data.Reset() // tells the kubelet at once; the session ends anyway
	err := c.session.Close()
	<-c.done
	return err
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address("this process") }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.name }

// SetDeadline implements net.Conn: there are none. HTTP clients end an exchange by closing.
func (c *conn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// address names a pod's port.
type address string

// Network implements net.Addr.
func (address) Network() string { return "portforward" }

// String implements net.Addr.
func (a address) String() string { return string(a) }
