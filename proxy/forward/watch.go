package forward

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy/upstream"
)

// watch reads the client's side while a slow upstream is waited for, to notice that it has gone. What it reads (a pipelined
// request) stays in the exchange's buffer, which it owns until stop returns.
type watch struct {
	x    *Exchange
	done chan struct{}
	left atomic.Bool
}

// watchClient starts a watch, or returns nil when there is no room to read into.
func (x *Exchange) watchClient(u *upstream.Conn) *watch {
	hold := x.r + x.pending
	if x.w == len(x.buf) || hold < x.w {
		return nil
	}
	w := &watch{x: x, done: make(chan struct{})}
	x.read.exactly(x.Conn, time.Time{})
	go w.run(u)
	return w
}

func (w *watch) run(u *upstream.Conn) {
	defer close(w.done)
	x := w.x
	n, err := x.Conn.Read(x.buf[x.w:])
	x.w += n
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	// A closed sending side may be all there is to it: such a client still gets its answer, for a while.
	x.read.exactly(x.Conn, time.Now().Add(halfClosed))
	x.mustEnd = true
	t := time.AfterFunc(halfClosed, func() {
		w.left.Store(true)
		_ = u.SetReadDeadline(time.Unix(1, 0))
	})
	w.x.stopGone = t.Stop
}

// gone reports that the client closed and its time to wait is over.
func (w *watch) gone() bool { return w != nil && w.left.Load() }

// stop ends the watch and waits for it.
func (w *watch) stop() {
	x := w.x
	_ = x.Conn.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	if x.stopGone != nil {
		x.stopGone()
		x.stopGone = nil
	}
	x.read.exactly(x.Conn, time.Time{})
}
