package extauthz

import (
	"context"
	"errors"
	"net"
	"sync"
)

var errClosed = errors.New("asking external authorizer: its client is closed")

// dialError is a failure to connect.
type dialError struct{ cause error }

func (d *dialError) Error() string { return "connecting: " + d.cause.Error() }
func (d *dialError) Unwrap() error { return d.cause }

// door opens connections and closes all of them with itself, those that are only being opened too.
type door struct {
	dial   func(context.Context) (net.Conn, error)
	mu     sync.Mutex // guards what follows
	closed bool
	open   map[*passage]struct{}
}

// passage is a connection, or the attempt at one.
type passage struct {
	net.Conn
	door   *door
	cancel context.CancelFunc
}

// connect is a dialer for net/http and grpc-go, which name an address that has been settled already.
func (d *door) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	p := &passage{door: d, cancel: cancel}
	if !d.enter(p) {
		return nil, &dialError{errClosed}
	}
	conn, err := d.dial(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		delete(d.open, p)
		return nil, &dialError{err}
	case d.closed:
		conn.Close()
		return nil, &dialError{errClosed}
	}
	p.Conn = conn
	return p, nil
}

func (d *door) enter(p *passage) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if d.open == nil {
		d.open = map[*passage]struct{}{}
	}
	d.open[p] = struct{}{}
	return true
}

// Close implements net.Conn.
func (p *passage) Close() error {
	p.door.mu.Lock()
	delete(p.door.open, p)
	p.door.mu.Unlock()
	return p.Conn.Close()
}

func (d *door) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *door) close() {
	d.mu.Lock()
	all := d.open
	d.open, d.closed = nil, true
	conns := make([]net.Conn, 0, len(all))
	for p := range all {
		p.cancel()
		if p.Conn != nil {
			conns = append(conns, p.Conn)
		}
	}
	d.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}
