package decisionlog

import "sync/atomic"

// queue holds events until they are sent. Like OPA's buffer of type event it drops the oldest for a new one.
type queue struct {
	events  chan *Event
	dropped atomic.Uint64
}

// push queues an event without waiting. Other callers may fill the place that it made: after a few of those the event
// itself is the one that is dropped.
func (q *queue) push(e *Event) {
	for range 4 {
		select {
		case q.events <- e:
			return
		default:
		}
		select {
		case <-q.events:
			q.dropped.Add(1)
		default:
		}
	}
	q.dropped.Add(1)
}

// drop counts events that were taken and are lost.
func (q *queue) drop(n int) { q.dropped.Add(uint64(n)) }
