package turn

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// one is a queue with a single turn, which is taken.
func one(t *testing.T, all, each int) (q *Queue, leave func()) {
	t.Helper()
	q = NewQueue(1, all, each)
	leave, err := q.Enter(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	return q, leave
}

// TestQueueIsFair lets a greedy one line up before two modest ones: each is served in its turn.
func TestQueueIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, leave := one(t, 100, 10)
		var (
			mu     sync.Mutex
			served []string
			wg     sync.WaitGroup
		)
		for _, who := range []string{"greedy", "greedy", "greedy", "greedy", "a", "b", "a"} {
			wg.Go(func() {
				done, err := q.Enter(t.Context(), who)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				served = append(served, who)
				mu.Unlock()
				done()
			})
			synctest.Wait()
		}
		leave()
		wg.Wait()
		if want := []string{"greedy", "a", "b", "greedy", "a", "greedy", "greedy"}; !slices.Equal(served, want) {
			t.Fatalf("served %v, want %v", served, want)
		}
		if q.free != 1 || q.waiting != 0 || len(q.lines) != 0 || len(q.ring) != 0 {
			t.Fatalf("left behind: %+v", q)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, leave := one(t, 3, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		enter := func(who string) {
			wg.Go(func() {
				if done, err := q.Enter(ctx, who); err == nil {
					done()
					t.Error("got a turn")
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		enter("a")
		enter("a")
		if _, err := q.Enter(ctx, "a"); !errors.Is(err, ErrBusy) {
			t.Errorf("third of one asker: %v", err)
		}
		enter("b")
		if _, err := q.Enter(ctx, "c"); !errors.Is(err, ErrBusy) {
			t.Errorf("fourth of all: %v", err)
		}
		cancel()
		wg.Wait()
		leave()
		if q.free != 1 || q.waiting != 0 || len(q.lines) != 0 || len(q.ring) != 0 {
			t.Fatalf("left behind: %+v", q)
		}
	})
}
