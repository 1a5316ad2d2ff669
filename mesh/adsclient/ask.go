package adsclient

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// askAgain is after how long a name that was asked for and not answered is sent once more, when somebody asks for it again:
// the control plane forgets names beyond adswire.MaxAsked.
const askAgain = time.Second

// asking are the names that the proxy asks for. Safe for concurrent use.
type asking struct {
	// clock counts the names asked for.
	clock atomic.Uint64

	mu    sync.Mutex // guards what follows
	names map[string]*question
	// uses are when what the names mean was used, by Answer.UsedAs. Who carries calls touches them without the lock.
	uses map[string]*mesh.LastUse
	// gone are names that the control plane need not answer any longer.
	gone []string
	// wake has room for one: there is something to send.
	wake chan struct{}
}

// question is one name.
type question struct {
	at       uint64    // by the clock, when it was asked for last
	usedAs   string    // by the last answer
	sent     time.Time // zero: it was not sent on this stream
	answered bool      // in the view that the proxy runs on
}

func newAsking() *asking {
	return &asking{names: map[string]*question{}, uses: map[string]*mesh.LastUse{}, wake: make(chan struct{}, 1)}
}

// Ask asks the control plane what hosts or IP addresses mean; mesh.Name says what can be asked for, all else is passed over.
// The answers come with a view, in View.Asked, and with every view after it while the name is among the adswire.MaxAsked last
// used: asked for, or touched in Uses. It never blocks, may be called at any time and as often as one likes, and does nothing
// unless Config.OnDemand.
func (c *Client) Ask(names ...string) {
	if c.cfg.OnDemand {
		c.asking.add(names, time.Now())
	}
}

// Connected reports whether a stream to the control plane is open. Safe for concurrent use.
func (c *Client) Connected() bool { return c.Status().Connected }

func (a *asking) add(names []string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range names {
		n, ok := mesh.Name(n)
		if !ok {
			continue
		}
		q := a.names[n]
		if q == nil {
			q = &question{}
			a.names[n] = q
		}
		q.at = a.clock.Add(1)
		if !q.answered && now.Sub(q.sent) >= askAgain {
			q.sent = time.Time{}
			a.rouse()
		}
		a.forget()
	}
}

// Uses are where to note that what these answers, those of the view that Apply is called with, are about is used, by
// Answer.UsedAs: the names used longest ago are those that are forgotten. Safe for concurrent use.
func (c *Client) Uses(answers map[string]mesh.Answer) map[string]*mesh.LastUse {
	a := c.asking
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]*mesh.LastUse, len(answers))
	for name, answer := range answers {
		as := answer.UsedAs(name)
		if a.uses[as] == nil {
			a.uses[as] = mesh.NewLastUse(&a.clock)
		}
		out[as] = a.uses[as]
	}
	return out
}

// forget drops the name used longest ago while there are too many. The lock is held.
func (a *asking) forget() {
	for len(a.names) > adswire.MaxAsked {
		oldest, used, asked := "", uint64(math.MaxUint64), uint64(math.MaxUint64)
		for n, q := range a.names {
			if at := max(q.at, a.uses[q.usedAs].Last()); at < used || at == used && q.at < asked {
				oldest, used, asked = n, at, q.at
			}
		}
		delete(a.names, oldest)
		a.gone = append(a.gone, oldest)
		a.rouse()
	}
}

// rouse says that there is something to send. The lock is held.
func (a *asking) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// applied notes the answers that the proxy runs on. Names that the control plane remembered from before are asked for from now
// on as if the proxy had asked, but longest ago.
func (a *asking) applied(answers map[string]mesh.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, q := range a.names {
		_, q.answered = answers[n]
	}
	uses := make(map[string]*mesh.LastUse, len(answers))
	for n, answer := range answers {
		q := a.names[n]
		if q == nil {
			q = &question{sent: time.Now(), answered: true}
			a.names[n] = q
		}
		q.usedAs = answer.UsedAs(n)
		if u := a.uses[q.usedAs]; u != nil {
			uses[q.usedAs] = u
		}
	}
	a.uses = uses
	a.forget()
}

// all are the names to begin a stream with.
func (a *asking) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = nil
	for _, q := range a.names {
		q.sent = time.Now()
	}
	return slices.Sorted(maps.Keys(a.names))
}

// news are the names to add and to take back.
func (a *asking) news() (add, drop []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, q := range a.names {
		if q.sent.IsZero() {
			q.sent = time.Now()
			add = append(add, n)
		}
	}
	for _, n := range a.gone {
		if a.names[n] == nil { // it was not asked for again since
			drop = append(drop, n)
		}
	}
	a.gone = nil
	slices.Sort(add)
	return add, drop
}

// ask sends what is asked for until ctx ends or the stream breaks, which whoever receives from it notices.
func (c *Client) ask(ctx context.Context, g *deltaStream) {
	for {
		select {
		case <-c.asking.wake:
		case <-ctx.Done():
			return
		}
		add, drop := c.asking.news()
		if len(add)+len(drop) == 0 {
			continue
		}
		r := &discovery.DeltaDiscoveryRequest{TypeUrl: adswire.HostType, ResourceNamesSubscribe: add, ResourceNamesUnsubscribe: drop}
		if g.Send(r) != nil {
			return
		}
	}
}
