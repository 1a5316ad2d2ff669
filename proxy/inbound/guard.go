package inbound

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy/forward"
)

// errHTTP ends the carrying of a connection that speaks HTTP.
var errHTTP = errors.New("the connection speaks HTTP")

// guard is a client's connection on a port that declares nothing, which is carried as TCP since its caller says that it is, or was
// silent for a while. HTTP must not come to the program unread all the same: a caller may lie, or wait. So the client's first bytes
// are looked at when they come. A server that spoke before them does not speak HTTP.
//
// One goroutine may read while another writes.
type guard struct {
	net.Conn
	within time.Duration // how long bytes are held back that are too few to tell
	spoken atomic.Bool   // the server spoke

	// The reader's:
	watched bool   // what comes is looked at
	seen    []byte // what came first
	pending []byte // the end of it that is not read yet
	http    bool   // seen is HTTP, and none of it was read
	late    bool   // seen is HTTP, and some of it was read before that showed
}

// guarded watches conn, of which preread was read before.
func guarded(conn net.Conn, preread []byte, within time.Duration) *guard {
	_, more := forward.Sniff(preread)
	return &guard{Conn: conn, within: within, watched: more, seen: slices.Clone(preread)}
}

// NetConn is the connection under it, as tls.Conn has it.
func (g *guard) NetConn() net.Conn { return g.Conn }

// CloseWrite passes on that the server says nothing more.
func (g *guard) CloseWrite() error {
	if h, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return g.Conn.Close()
}

// Write implements net.Conn.
func (g *guard) Write(b []byte) (int, error) {
	g.spoken.Store(true)
	return g.Conn.Write(b)
}

// Read implements net.Conn.
func (g *guard) Read(b []byte) (int, error) {
	if len(g.pending) == 0 {
		n, err := g.Conn.Read(b)
		if !g.watched || n == 0 {
			return n, err
		}
		if err := g.look(b[:n]); err != nil {
			return 0, err
		}
	}
	n := copy(b, g.pending)
	g.pending = g.pending[n:]
	return n, nil
}

// look judges what came.
func (g *guard) look(b []byte) error {
	before := len(g.seen)
	g.seen = append(g.seen, b...)
	s, more := forward.Sniff(g.seen)
	if more && before == 0 && !g.spoken.Load() {
		var err error
		if g.seen, s, err = forward.Detect(g.Conn, g.seen, g.within); err != nil {
			return err
		}
		_, more = forward.Sniff(g.seen)
	}
	spoken := g.spoken.Load()
	if s == forward.HTTP1 && !spoken {
		g.http, g.late = before == 0, before > 0
		return errHTTP
	}
	g.pending, g.watched = g.seen[before:], more && !spoken
	return nil
}
