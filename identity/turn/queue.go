package turn

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrBusy is why there is no turn: as many wait already as may.
var ErrBusy = errors.New("too many are waiting already, try again later")

// Queue gives turns. Those that wait are served one asker after the other, so that one that asks without end delays another by
// one turn at most. Safe for concurrent use.
type Queue struct {
	all, each int

	mu      sync.Mutex // guards all below
	free    int
	waiting int
	// lines are the waiting calls of each asker, first come first; ring the askers that have any, next first.
	lines map[string][]chan struct{}
	ring  []string
}

// NewQueue is a Queue of so many turns at once, for which all may wait together and each asker so many times.
func NewQueue(turns, all, each int) *Queue {
	return &Queue{all: all, each: each, free: turns, lines: map[string][]chan struct{}{}}
}

// Enter waits for a turn of who; leave gives it back. It fails with ErrBusy at once when the queue is full, and with the
// context's error.
func (q *Queue) Enter(ctx context.Context, who string) (leave func(), err error) {
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return q.leave, nil
	}
	if q.waiting >= q.all || len(q.lines[who]) >= q.each {
		q.mu.Unlock()
		return nil, ErrBusy
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

// leave hands the turn to the first call of the next asker, which goes to the end of the ring if it has more.
func (q *Queue) leave() {
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
func (q *Queue) abandon(who string, turn chan struct{}) bool {
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
func (q *Queue) take(who string, at int) {
	q.lines[who] = slices.Delete(q.lines[who], at, at+1)
	if len(q.lines[who]) == 0 {
		delete(q.lines, who)
	}
	q.waiting--
}
