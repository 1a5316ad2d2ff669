package forward

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy/socket"
	"github.com/signet-mesh/signet/proxy/upstream"
)

// watch reads the client's side while a slow upstream is waited for, to notice that it has gone. What it reads (a pipelined
// request) stays in the exchange's buffer, which it owns until stop returns. A nil watch watches nothing.
type watch struct {
	x     *Exchange
	quit  chan struct{}
	done  chan struct{}
	left  atomic.Bool
	ended bool // the client sends nothing more; read after done
}

// watchClient starts a watch, or returns nil when there is no room to read into.
func (x *Exchange) watchClient(u *upstream.Conn) *watch {
	hold := x.r + x.pending
	if x.w == len(x.buf) || hold < x.w {
		return nil
	}
	w := &watch{x: x, quit: make(chan struct{}), done: make(chan struct{})}
	x.read.exactly(x.Conn, time.Time{})
	go w.run(u)
	return w
}

func (w *watch) run(u *upstream.Conn) {
	defer close(w.done)
	x := w.x
	n, err := x.Conn.Read(x.buf[x.w:])
	x.w += n
	if n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	w.ended = true
	// On a plain connection a closed sending side may be all there is to it: such a client still gets its answer, for a
	// while. Over TLS nobody does that.
	if errors.Is(err, io.EOF) && socket.TCP(x.Conn) != nil {
		t := time.NewTimer(halfClosed)
		defer t.Stop()
		select {
		case <-w.quit:
			return
		case <-t.C:
		}
	}
	w.left.Store(true)
	_ = u.SetReadDeadline(time.Unix(1, 0)) // wakes the exchange
}

// gone reports that the client closed and its time to wait is over.
func (w *watch) gone() bool { return w != nil && w.left.Load() }

// stop ends the watch and waits for it.
func (w *watch) stop() {
	if w == nil {
		return
	}
	x := w.x
	close(w.quit)
	_ = x.Conn.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	x.read.exactly(x.Conn, time.Time{})
	if w.ended {
		x.mustEnd = true
	}
}
