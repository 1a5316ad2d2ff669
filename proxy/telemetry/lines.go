package telemetry

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

const (
	flushEvery  = 100 * time.Millisecond
	flushAt     = 64 << 10  // bytes in one shard that wake the writer
	maxBuffered = 256 << 10 // bytes in one shard beyond which lines are dropped
	maxShards   = 8
)

// lines buffers the access log. Lines are formatted in place under the lock of a shard that nobody else holds: the first
// while there is no contention, so that the lines of a quiet sidecar stay in order. Under load lines of two shards may
// change places within one flush; each carries its start time.
type lines struct {
	prefix  string
	w       io.Writer
	log     *slog.Logger
	shards  []shard
	full    chan struct{}
	dropped atomic.Uint64

	// said and saidAt are the writer goroutine's: what was last said of dropped lines.
	said   uint64
	saidAt time.Time
}

type shard struct {
	mu    sync.Mutex
	buf   []byte // guarded by mu
	spare []byte // the writer's
	_     [64]byte
}

func newLines(prefix string, w io.Writer, log *slog.Logger) *lines {
	n := min(runtime.GOMAXPROCS(0), maxShards)
	return &lines{prefix: prefix, w: w, log: log, shards: make([]shard, n), full: make(chan struct{}, 1)}
}

// add buffers one line, or drops it where the writer is too far behind.
func (l *lines) add(form AccessLog, rec *proxy.Record) {
	s := &l.shards[len(l.shards)-1]
	locked := false
	for i := range l.shards {
		if l.shards[i].mu.TryLock() {
			s, locked = &l.shards[i], true
			break
		}
	}
	if !locked {
		s.mu.Lock()
	}
	if len(s.buf) >= maxBuffered {
		s.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	if form == LogJSON {
		s.buf = appendJSON(s.buf, l.prefix, rec)
	} else {
		s.buf = appendText(s.buf, l.prefix, rec)
	}
	wake := len(s.buf) >= flushAt
	s.mu.Unlock()
	if wake {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx ends, then what is left.
func (l *lines) run(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.full:
		case <-ctx.Done():
			l.flush()
			l.confess(time.Time{})
			return
		}
		l.flush()
		l.confess(time.Now())
	}
}

// flush writes what the shards hold. A writer that fails loses the lines, which count as dropped once.
func (l *lines) flush() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		out := s.buf
		s.buf = s.spare[:0]
		s.mu.Unlock()
		if len(out) > 0 {
			if _, err := l.w.Write(out); err != nil {
				l.dropped.Add(countLines(out))
			}
		}
		s.spare = out
	}
}

func countLines(b []byte) (n uint64) {
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return n
}

// confess logs how many lines were dropped since it last did, at most once a second; the zero time means now or never.
func (l *lines) confess(now time.Time) {
	dropped := l.dropped.Load()
	if dropped == l.said || (!now.IsZero() && now.Sub(l.saidAt) < time.Second) {
		return
	}
	l.log.Warn("access log lines dropped", slog.Uint64("lines", dropped-l.said))
	l.said, l.saidAt = dropped, now
}
