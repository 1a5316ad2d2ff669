// Package turn divides what there is too little of among those who ask, so that no one of them keeps it from the others:
// a Share refuses at once, a Queue lets wait.
package turn

import (
	"net"
	"sync"
)

// Share is so many units (connections, calls, bytes) that are held at once, in all and by one holder. Safe for concurrent use.
type Share struct {
	all, each int

	mu   sync.Mutex // guards all below
	held int
	by   map[string]int
}

// NewShare is a Share of so many units in all, of which one holder has at most each.
func NewShare(all, each int) *Share { return &Share{all: all, each: each, by: map[string]int{}} }

// Take takes n units for who; false, with nothing taken, if there are not as many. Give gives them back.
func (s *Share) Take(who string, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held+n > s.all || s.by[who]+n > s.each {
		return false
	}
	s.held += n
	s.by[who] += n
	return true
}

// Give gives back n units that who took.
func (s *Share) Give(who string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	if s.by[who] -= n; s.by[who] == 0 {
		delete(s.by, who)
	}
}

// Source is the holder that an address (HOST:PORT) stands for: its host, whatever the port.
func Source(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// Listener closes connections beyond the share of their source at once. A connection gives its place back when it is closed.
type Listener struct {
	net.Listener
	Share *Share
}

// Accept is part of net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := Source(c.RemoteAddr().String())
		if l.Share.Take(who, 1) {
			return &Conn{Conn: c, Leave: sync.OnceFunc(func() { l.Share.Give(who, 1) })}, nil
		}
		_ = c.Close()
	}
}

// Conn calls Leave when it is closed.
type Conn struct {
	net.Conn
	// Leave may be called more than once.
	Leave func()
}

// Close is part of net.Conn.
func (c *Conn) Close() error {
	defer c.Leave()
	return c.Conn.Close()
}
