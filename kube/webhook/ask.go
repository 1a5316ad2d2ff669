package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits of what callers can make the webhooks ask of the API server and write there. They are well below the 50 a second of
// the control plane's client, so that what nobody could prove to be the API server can't use that up.
const (
	// Questions about namespaces a second: those that the cache has, and names that it hasn't.
	asksKnown, asksUnknown = 20, 5
	// askTimeout bounds a question with its wait. A pod whose question takes longer is refused.
	askTimeout = 3 * time.Second
	// Events about one namespace: so many at once, and then one in tellEvery.
	tellBurst = 10
	tellEvery = 10 * time.Second
	// maxTold is how many namespaces are remembered for that.
	maxTold = 4096
)

// asks asks for the labels of namespaces. Those who wait for the same one share a question that has not begun when they come, never
// one that has: its answer may be older than the label that their pod counts on.
type asks struct {
	ask            func(context.Context, string) (map[string]string, error)
	known, unknown *rate.Limiter

	mu      sync.Mutex           // guards waiting
	waiting map[string]*question // by namespace
}

// question is written before done is closed.
type question struct {
	done   chan struct{}
	labels map[string]string
	err    error
}

func newAsks(ask func(context.Context, string) (map[string]string, error)) *asks {
	return &asks{ask: ask, known: rate.NewLimiter(asksKnown, asksKnown), unknown: rate.NewLimiter(asksUnknown, asksUnknown), waiting: map[string]*question{}}
}

// labels are those of the namespace at a moment after the call. known is what the cache says of its name.
func (a *asks) labels(ctx context.Context, namespace string, known bool) (map[string]string, error) {
	a.mu.Lock()
	q := a.waiting[namespace]
	if q == nil {
		q = &question{done: make(chan struct{})}
		a.waiting[namespace] = q
		go a.run(context.WithoutCancel(ctx), q, namespace, known)
	}
	a.mu.Unlock()
	select {
	case <-q.done:
		return q.labels, q.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *asks) run(ctx context.Context, q *question, namespace string, known bool) {
	defer close(q.done)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	limit := a.unknown
	if known {
		limit = a.known
	}
	err := limit.Wait(ctx)
	a.mu.Lock()
	delete(a.waiting, namespace)
	a.mu.Unlock()
	if err != nil {
		q.err = fmt.Errorf("too many such questions to the API server wait: %w", err)
		return
	}
	q.labels, q.err = a.ask(ctx, namespace)
}

// ask asks the API server for a namespace's labels. Meanwhile the request leaves its turn to others.
func (s *Server) ask(ctx context.Context, namespace string, known bool) (map[string]string, error) {
	return aside(ctx, func() (map[string]string, error) { return s.asks.labels(ctx, namespace, known) })
}

// pace is how often a namespace is told of. Safe for concurrent use.
type pace struct {
	mu sync.Mutex // guards of
	of map[string]*rate.Limiter
}

// may reports whether the namespace can be told of once more.
func (p *pace) may(namespace string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.of[namespace]
	if l == nil {
		if p.of == nil || len(p.of) >= maxTold {
			p.of = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Every(tellEvery), tellBurst)
		p.of[namespace] = l
	}
	return l.AllowN(now, 1)
}
