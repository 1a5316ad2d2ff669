// Package lease makes one of several replicas the leader, by a Lease of coordination.k8s.io. It needs get, create and
// update of that Lease.
package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// How long, where Config sets none: a leader that dies without a word is followed after Duration at most (and one
// RetryPeriod), one that ends in order at once.
const (
	Duration      = 15 * time.Second
	RenewDeadline = 10 * time.Second
	RetryPeriod   = 2 * time.Second
)

// Config is what New needs. Client, Namespace, Name, Identity and Lead are required.
type Config struct {
	Client          kubernetes.Interface
	Namespace, Name string
	// Identity is this replica's, its pod's name: no two may have the same.
	Identity string
	// Lead is called whenever this replica has become the leader. Its ctx ends when it is not any more, and Lead must then
	// return well within Duration-RenewDeadline, before another one leads. On an orderly end the lease is given back after
	// Lead has returned. A Lead that returns earlier gives the lease back too, and is called again when it is won again.
	Lead func(ctx context.Context) error
	Log  *slog.Logger
	// Duration, RenewDeadline and RetryPeriod are Kubernetes' words; zero means the constants.
	Duration, RenewDeadline, RetryPeriod time.Duration
}

// Lease is one replica's part in the election.
type Lease struct {
	cfg     Config
	leading atomic.Bool
}

// New checks the configuration.
func New(cfg Config) (*Lease, error) {
	if cfg.Client == nil || cfg.Namespace == "" || cfg.Name == "" || cfg.Identity == "" || cfg.Lead == nil {
		return nil, errors.New("building lease: client, namespace, name, identity and lead must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Duration = cmp.Or(cfg.Duration, Duration)
	cfg.RenewDeadline = cmp.Or(cfg.RenewDeadline, RenewDeadline)
	cfg.RetryPeriod = cmp.Or(cfg.RetryPeriod, RetryPeriod)
	l := &Lease{cfg: cfg}
	if _, _, err := l.elector(func(context.Context, *watched) {}); err != nil {
		return nil, fmt.Errorf("building lease: %w", err)
	}
	return l, nil
}

// Leading reports whether this replica leads now.
func (l *Lease) Leading() bool { return l.leading.Load() }

// Run competes until ctx ends, and returns nil.
func (l *Lease) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := l.term(ctx); err != nil {
			return err
		}
		// Whoever could not lead, or lost the lease, lets the others try first.
		timer := time.NewTimer(l.cfg.RetryPeriod)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// term waits for the lease, leads, and gives it back. Lead has returned when term returns.
func (l *Lease) term(ctx context.Context) error {
	// The election goes on after ctx, until Lead has returned: only then is the lease free for another.
	election, end := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), logr.FromSlogHandler(l.cfg.Log.Handler())))
	defer end()
	var leads atomic.Bool
	done := make(chan struct{})
	elector, lock, err := l.elector(func(held context.Context, lock *watched) {
		defer close(done)
		defer end()
		leads.Store(true)
		work, stop := context.WithCancel(held)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		defer lock.overdue(l.cfg.RenewDeadline, stop)()
		if ctx.Err() == nil {
			l.lead(work)
		}
	})
	if err != nil {
		return fmt.Errorf("competing for lease: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		if !leads.Load() { // nobody else would end the election
			end()
		}
	})()
	elector.Run(election)
	if lock.won.Load() {
		<-done
	}
	return nil
}

func (l *Lease) lead(ctx context.Context) {
	l.cfg.Log.Info("leading", "lease", l.cfg.Namespace+"/"+l.cfg.Name, "identity", l.cfg.Identity)
	l.leading.Store(true)
	defer l.leading.Store(false)
	if err := l.cfg.Lead(ctx); err != nil && ctx.Err() == nil {
		l.cfg.Log.Error("leading failed, giving the lease back", "lease", l.cfg.Namespace+"/"+l.cfg.Name, "error", err)
		return
	}
	l.cfg.Log.Info("leading no more", "lease", l.cfg.Namespace+"/"+l.cfg.Name, "identity", l.cfg.Identity)
}

// watched is a lock that tells whether it was won: only then does client-go start the callback, in a goroutine of its own.
// It also keeps the time: client-go tries to give back a lease that it lost before it ends the callback's context, which
// takes as long again when the API server does not answer.
type watched struct {
	resourcelock.Interface
	won atomic.Bool

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	after time.Duration
}

// RecordEvent is called when the lock is won and when it is lost.
func (w *watched) RecordEvent(string) { w.won.Store(true) }

// Update is every renewal.
func (w *watched) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	err := w.Interface.Update(ctx, r)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.timer != nil {
			w.timer.Reset(w.after)
		}
	}
	return err
}

// overdue calls stop when the lock was not renewed for so long; the function returned ends that.
func (w *watched) overdue(after time.Duration, stop func()) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer, w.after = time.AfterFunc(after, stop), after
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timer.Stop()
		w.timer = nil
	}
}

func (l *Lease) elector(started func(context.Context, *watched)) (*leaderelection.LeaderElector, *watched, error) {
	lock := &watched{Interface: &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: l.cfg.Namespace, Name: l.cfg.Name},
		Client:     l.cfg.Client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: l.cfg.Identity},
	}}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: l.cfg.Duration, RenewDeadline: l.cfg.RenewDeadline, RetryPeriod: l.cfg.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { started(ctx, lock) }, OnStoppedLeading: func() {},
		},
		ReleaseOnCancel: true, Name: l.cfg.Name,
	})
	return elector, lock, err
}
