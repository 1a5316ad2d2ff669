package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy/socket"
)

// maxConnections bounds the connections of one listener; further ones are closed at once.
const maxConnections = 65536

// drainTime is how long connections may finish what they do when their listener goes.
const drainTime = 5 * time.Second

// Listener accepts connections and owns their goroutines.
type Listener struct {
	ln     net.Listener
	handle func(net.Conn, *Live)

	mu    sync.Mutex // guards conns
	conns map[*Live]struct{}
	wg    sync.WaitGroup
	// leaving is set by Leave.
	leaving atomic.Bool
	life    context.Context // of the connections: ends when they are cut off
}

// NewListener serves ln with handle, which must return when its connection is closed. Run starts it.
func NewListener(ln net.Listener, handle func(net.Conn, *Live)) *Listener {
	return &Listener{ln: ln, handle: handle, conns: map[*Live]struct{}{}}
}

// Addr is the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Run accepts until ctx ends, then drains: nothing new is accepted, idle connections are closed, busy ones get drainTime.
func (l *Listener) Run(ctx context.Context) error {
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	l.life = life
	stop := context.AfterFunc(ctx, func() {
		l.Leave() // before anybody can know
		l.ln.Close()
	})
	defer stop()
	backoff := time.Duration(0)
	for {
		c, err := l.ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				break
			}
			// Out of file descriptors, or the peer was gone before it was accepted.
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
			}
			continue
		}
		backoff = 0
		l.start(c)
	}
	l.ln.Close()
	l.drain(cut)
	return nil
}

func (l *Listener) start(accepted net.Conn) {
	c := socket.Wrap(accepted)
	live := &Live{conn: c, life: l.life, leaving: &l.leaving}
	l.mu.Lock()
	full := len(l.conns) >= maxConnections
	if !full {
		l.conns[live] = struct{}{}
	}
	l.mu.Unlock()
	if full {
		c.Close()
		return
	}
	l.wg.Go(func() {
		defer func() {
			c.Close()
			l.mu.Lock()
			delete(l.conns, live)
			l.mu.Unlock()
		}()
		l.handle(c, live)
	})
}

// Leave asks clients to go elsewhere while they are still served: every answer from now on says that its connection is used no
// more.
func (l *Listener) Leave() { l.leaving.Store(true) }

// Rejudge asks again about everything in flight, and closes what is denied now.
func (l *Listener) Rejudge(judge Judgement) {
	for _, live := range l.snapshot() {
		live.Rejudge(judge)
	}
}

func (l *Listener) snapshot() []*Live {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*Live, 0, len(l.conns))
	for live := range l.conns {
		out = append(out, live)
	}
	return out
}

// drain lets busy connections finish, for drainTime; then cut ends dials, and the connections are closed.
func (l *Listener) drain(cut context.CancelFunc) {
	for _, live := range l.snapshot() {
		live.draining.Store(true)
		if live.idle.Load() {
			_ = live.conn.SetReadDeadline(time.Unix(1, 0))
		}
	}
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	select {
	case <-done:
		return
	case <-time.After(drainTime):
	}
	cut()
	for _, live := range l.snapshot() {
		live.cut.Store(true)
		live.mu.Lock()
		if live.up != nil {
			_ = live.up.SetDeadline(time.Unix(1, 0))
		}
		live.mu.Unlock()
		live.conn.Close()
	}
	<-done
}
