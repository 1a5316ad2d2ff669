package lease_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/lease"
)

// api is the API server's configuration; TestMain sets it once, before any test.
var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

// replica is one that competes.
type replica struct {
	lease  *lease.Lease
	stop   func() // in order
	cut    func() // as if the API server were away
	leads  chan struct{}
	ended  chan struct{}
	errors chan error // makes Lead return
}

// gate lets every request hang while it is shut, as when packets are lost.
type gate struct {
	next http.RoundTripper
	shut atomic.Bool
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if g.shut.Load() {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return g.next.RoundTrip(r)
}

// only counts those who lead at once.
type only struct {
	mu  sync.Mutex // guards n
	n   int
	bad bool
}

func (o *only) add(d int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n += d
	o.bad = o.bad || o.n > 1
}

func start(t *testing.T, name string, i int, o *only) *replica {
	t.Helper()
	cfg := rest.CopyConfig(api)
	g := &gate{}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		g.next = next
		return g
	})
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{leads: make(chan struct{}, 8), ended: make(chan struct{}, 8), errors: make(chan error, 1)}
	r.lease, err = lease.New(lease.Config{
		Client: client, Namespace: "default", Name: name, Identity: fmt.Sprintf("signetd-%d", i),
		Duration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond,
		Lead: func(ctx context.Context) error {
			o.add(1)
			defer o.add(-1)
			r.leads <- struct{}{}
			defer func() { r.ended <- struct{}{} }()
			select {
			case err := <-r.errors:
				return err
			case <-ctx.Done():
				time.Sleep(100 * time.Millisecond) // an orderly end takes time, which the others must wait for
				return nil
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.lease.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.cut = func() { g.shut.Store(true) }
	t.Cleanup(r.stop)
	return r
}

func leader(t *testing.T, list ...*replica) *replica {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, r := range list {
			if r.lease.Leading() {
				<-r.leads
				return r
			}
		}
	}
	t.Fatal("nobody leads")
	return nil
}

func others(list []*replica, not *replica) []*replica {
	var out []*replica
	for _, r := range list {
		if r != not {
			out = append(out, r)
		}
	}
	return out
}

func TestElection(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), connections())
	t.Run("run", func(t *testing.T) {
		var o only
		var all []*replica
		for i := range 3 {
			all = append(all, start(t, "election", i, &o))
		}
		first := leader(t, all...)

		// An orderly end hands over at once: long before the lease would have ended.
		began := time.Now()
		first.stop()
		<-first.ended
		all = others(all, first)
		second := leader(t, all...)
		if took := time.Since(began); took > 2500*time.Millisecond {
			t.Errorf("an orderly end took %v to be followed", took)
		}

		// A Lead that fails gives the lease back; somebody leads again.
		second.errors <- errors.New("broken")
		<-second.ended
		third := leader(t, all...)

		// One that is cut off stops leading before another one leads.
		third.cut()
		<-third.ended
		if rest := others(all, third); rest[0] != leader(t, rest...) {
			t.Error("the last one does not lead")
		}
		if third.lease.Leading() {
			t.Error("the one that was cut off leads still")
		}
		if o.bad {
			t.Error("two led at once")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		t.Fatal(err)
	}
	good := lease.Config{Client: client, Namespace: "default", Name: "x", Identity: "a", Lead: func(context.Context) error { return nil }}
	if _, err := lease.New(good); err != nil {
		t.Fatal(err)
	}
	bad := good
	bad.Identity = ""
	if _, err := lease.New(bad); err == nil {
		t.Error("no identity")
	}
	bad = good
	bad.RenewDeadline = time.Minute
	if _, err := lease.New(bad); err == nil {
		t.Error("a renew deadline beyond the duration")
	}
}

// connections are those of clients, which client-go keeps for the next one of the same configuration.
func connections() goleak.Option {
	return goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop")
}
