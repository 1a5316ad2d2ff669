package node

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the connections at one of a pod's ports. Nobody can keep kubelet waiting, whose liveness probes would then end the
// program: each address has its own share, and where all are taken those give way that wait for nothing.
const (
	maxWatchers   = 256
	maxPerWatcher = 16 // from one address, beside one for each probe: kubelet opens one for each, all at once at worst
)

// watchers is the listener of one of the pod's ports: it closes what is above its bounds, where others wait. Its state is to be
// called as the http.Server's ConnState.
type watchers struct {
	net.Listener
	most, perAddress int

	mu    sync.Mutex
	conns map[net.Conn]*watcher
	count map[netip.Addr]int
}

// watcher is one connection. waiting says that nothing is asked on it, since when.
type watcher struct {
	from    netip.Addr
	waiting bool
	since   time.Time
}

func newWatchers(ln net.Listener, most, perAddress int) *watchers {
	return &watchers{Listener: ln, most: most, perAddress: perAddress, conns: map[net.Conn]*watcher{}, count: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (w *watchers) Accept() (net.Conn, error) {
	for {
		c, err := w.Listener.Accept()
		if err != nil {
			return nil, err
		}
		out := w.admit(c)
		if out != nil {
			_ = out.Close()
		}
		if out != c {
			return c, nil
		}
	}
}

// admit takes a connection on and gives the one that is to be closed for it, nil for none: the one itself where it must not come in.
func (w *watchers) admit(c net.Conn) (out net.Conn) {
	var from netip.Addr
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		from = t.AddrPort().Addr().Unmap()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.count[from] >= w.perAddress:
		out = w.oldest(func(o *watcher) bool { return o.waiting && o.from == from })
	case len(w.conns) >= w.most:
		if out = w.oldest(func(o *watcher) bool { return o.waiting }); out == nil { // all are served: who has the most gives one up
			most := w.busiest()
			out = w.oldest(func(o *watcher) bool { return w.count[o.from] == most && most > w.count[from]+1 })
		}
	default:
		w.add(c, from)
		return nil
	}
	if out == nil {
		return c
	}
	w.remove(out)
	w.add(c, from)
	return out
}

func (w *watchers) add(c net.Conn, from netip.Addr) {
	w.conns[c] = &watcher{from: from, waiting: true, since: time.Now()}
	w.count[from]++
}

func (w *watchers) remove(c net.Conn) {
	o := w.conns[c]
	if o == nil {
		return
	}
	delete(w.conns, c)
	if w.count[o.from]--; w.count[o.from] == 0 {
		delete(w.count, o.from)
	}
}

// oldest is the connection of that kind which is as it is for longest, nil if there is none.
func (w *watchers) oldest(of func(*watcher) bool) (out net.Conn) {
	for c, o := range w.conns {
		if of(o) && (out == nil || o.since.Before(w.conns[out].since)) {
			out = c
		}
	}
	return out
}

// busiest is how many connections the address has that has most.
func (w *watchers) busiest() int {
	most := 0
	for _, n := range w.count {
		most = max(most, n)
	}
	return most
}

// state follows what the server says of a connection.
func (w *watchers) state(c net.Conn, s http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch s {
	case http.StateClosed, http.StateHijacked:
		w.remove(c)
	case http.StateActive, http.StateIdle:
		if o := w.conns[c]; o != nil {
			o.waiting, o.since = s == http.StateIdle, time.Now()
		}
	}
}
