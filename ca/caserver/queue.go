package caserver

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
)

// Bounds of the queue where Options set none.
const (
	defaultQueuePerIdentity = 32
	defaultQueue            = 4096
)

// errBusy is what a caller beyond the queue's bounds is told.
var errBusy = errors.New("too many certificate requests are waiting, try again later")

// queue gives turns to as many calls as there are processors. Those that wait are served one identity after the other,
// so that one that asks without end delays another by one issuance at most.
type queue struct {
	perIdentity, total int

	mu      sync.Mutex // guards all below
	free    int
	waiting int
	// lines are the waiting calls of each identity, first come first; ring the identities that have any, next first.
	lines map[string][]chan struct{}
	ring  []string
}

func newQueue(perIdentity, total int) *queue {
	if perIdentity <= 0 {
		perIdentity = defaultQueuePerIdentity
	}
	if total <= 0 {
		total = defaultQueue
	}
	return &queue{perIdentity: perIdentity, total: total, free: runtime.GOMAXPROCS(0), lines: map[string][]chan struct{}{}}
}

// enter waits for a turn of who; leave gives it back. It fails with errBusy at once when the queue is full, and with the
// context's error.
func (q *queue) enter(ctx context.Context, who string) (leave func(), err error) {
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return q.leave, nil
	}
	if q.waiting >= q.total || len(q.lines[who]) >= q.perIdentity {
		q.mu.Unlock()
		return nil, errBusy
	}
	turn := make(chan struct{})
	if len(q.lines[who]) == 0 {
		q.ring = append(q.ring, who)
	}
	q.lines[who] = append(q.lines[who], turn)
	q.waiting++
	q.mu.Unlock()

	select {
	case <-turn:
		return q.leave, nil
	case <-ctx.Done():
		if !q.abandon(who, turn) {
			q.leave() // the turn had come already
		}
		return nil, ctx.Err()
	}
}

// leave hands the turn to the first call of the next identity, which goes to the end of the ring if it has more.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ring) == 0 {
		q.free++
		return
	}
	who := q.ring[0]
	q.ring = q.ring[1:]
	turn := q.lines[who][0]
	q.take(who, 0)
	if len(q.lines[who]) > 0 {
		q.ring = append(q.ring, who)
	}
	close(turn)
}

// abandon takes a call out of its line; false if it is in none any more.
func (q *queue) abandon(who string, turn chan struct{}) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := slices.Index(q.lines[who], turn)
	if at < 0 {
		return false
	}
	q.take(who, at)
	if len(q.lines[who]) == 0 {
		i := slices.Index(q.ring, who)
		q.ring = slices.Delete(q.ring, i, i+1)
	}
	return true
}

// take removes one call of a line, and the line when it is empty. The caller holds mu and sees to ring.
func (q *queue) take(who string, at int) {
	q.lines[who] = slices.Delete(q.lines[who], at, at+1)
	if len(q.lines[who]) == 0 {
		delete(q.lines, who)
	}
	q.waiting--
}
