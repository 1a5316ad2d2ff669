// Package up runs a whole mesh on one machine: a control plane, one sidecar process for each WorkloadEntry, and the
// programs of a Procfile.
package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/cmd/internal/node"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
)

// Config is what `signet up` is told.
type Config struct {
	Dir, State     string
	TrustDomain    string
	ControlAddress string
	// TTL is the certificate lifetime that sidecars ask for; 0 leaves it to the CA.
	TTL  time.Duration
	JSON bool
	// Executable is this program, which plays all roles.
	Executable string
	// Stdout takes the table or the object and nothing else; Stderr all logs.
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

// RefusedError says that the directory holds something that is refused: nothing was started.
type RefusedError struct{ Problems []mesh.Problem }

// Error lists every refusal, a line each.
func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%d refused; nothing was started", len(e.Problems))
	for i := range e.Problems {
		s += "\n  " + e.Problems[i].Error()
	}
	return s
}

// mesh on one machine.
type up struct {
	cfg      Config
	starter  *supervise.Starter
	runDir   string
	control  net.Listener
	procfile []Program

	mu       sync.Mutex // guards what follows
	sidecars map[string]*sidecar
	leaving  map[string]*sidecar // the last one of that workload that was stopped
	ready    map[string]node.Status
	changed  chan struct{} // closed when ready or sidecars change
}

// sidecar is one running sidecar process.
type sidecar struct {
	id   identity.ID
	stop context.CancelFunc
	done chan struct{}
}

// Run starts everything, prints the table once all sidecars are ready, and serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	objects := dir.New(dir.Config{Dir: cfg.Dir, TrustDomain: cfg.TrustDomain})
	snapshot, problems, err := objects.Load()
	if err != nil {
		return err
	}
	if refused := mesh.Refusals(problems); len(refused) > 0 {
		return &RefusedError{refused}
	}
	procfile, err := LoadProcfile(filepath.Join(cfg.Dir, "Procfile"))
	if err != nil {
		return err
	}
	u := &up{cfg: cfg, starter: supervise.NewStarter(), runDir: filepath.Join(cfg.State, "run"), procfile: procfile,
		sidecars: map[string]*sidecar{}, leaving: map[string]*sidecar{}, ready: map[string]node.Status{},
		changed: make(chan struct{})}
	if u.control, err = net.Listen("tcp", cfg.ControlAddress); err != nil {
		return fmt.Errorf("opening control address %s: %w", cfg.ControlAddress, err)
	}
	defer u.control.Close()
	return u.run(ctx, snapshot)
}

func (u *up) run(ctx context.Context, snapshot *mesh.Snapshot) error {
	// What starts processes outlives them.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	var starter sync.WaitGroup
	starter.Go(func() { _ = u.starter.Run(below) })
	defer starter.Wait()
	defer stop()

	g, ctx := errgroup.WithContext(ctx)
	controlUp := make(chan struct{})
	g.Go(func() error { return u.keepControl(ctx, controlUp) })
	select {
	case <-controlUp:
	case <-ctx.Done():
		return g.Wait()
	}
	watch := dir.New(dir.Config{Dir: u.cfg.Dir, TrustDomain: u.cfg.TrustDomain,
		OnChange: func(s *mesh.Snapshot, _ []mesh.Problem) { u.follow(ctx, g, s) }})
	u.follow(ctx, g, snapshot)
	g.Go(func() error { return watch.Run(ctx) })
	g.Go(func() error { return u.refreshTokens(ctx) })
	g.Go(func() error { return u.announce(ctx) })
	for _, p := range u.procfile {
		g.Go(func() error { return u.keepProgram(ctx, p) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// follow starts the sidecars of new workloads and stops those of workloads that are gone.
func (u *up) follow(ctx context.Context, g *errgroup.Group, s *mesh.Snapshot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	want := map[string]*mesh.Workload{}
	for _, w := range s.Workloads() {
		if !w.ID.IsZero() { // no service account, no identity, no sidecar
			want[w.Namespace+"/"+w.Name] = w
		}
	}
	for key, sc := range u.sidecars {
		if w := want[key]; w == nil || w.ID != sc.id {
			sc.stop()
			u.leaving[key] = sc
			delete(u.sidecars, key)
			delete(u.ready, key)
		}
	}
	for key, w := range want {
		if u.sidecars[key] == nil {
			u.sidecars[key] = u.startSidecar(ctx, g, w, u.leaving[key])
		}
	}
	u.wake()
}

// startSidecar starts a workload's sidecar as soon as the one before it has ended.
func (u *up) startSidecar(ctx context.Context, g *errgroup.Group, w *mesh.Workload, before *sidecar) *sidecar {
	own, stop := context.WithCancel(ctx)
	sc := &sidecar{id: w.ID, stop: stop, done: make(chan struct{})}
	g.Go(func() error {
		defer close(sc.done)
		if before != nil {
			<-before.done
		}
		return u.keepSidecar(own, w.Namespace, w.Name)
	})
	return sc
}

// wake tells those who wait that something changed. mu is held.
func (u *up) wake() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// setReady takes a sidecar's word that it is ready.
func (u *up) setReady(s node.Status) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if key := s.Namespace + "/" + s.Name; u.sidecars[key] != nil {
		u.ready[key] = s
		u.wake()
	}
}

// unready forgets a sidecar that ended.
func (u *up) unready(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ready, key)
}

// waiting lists the sidecars that are not ready yet.
func (u *up) waiting() (missing []string, changed <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key := range u.sidecars {
		if _, ok := u.ready[key]; !ok {
			missing = append(missing, key)
		}
	}
	return missing, u.changed
}

// readStatuses takes the lines that a sidecar writes whenever it is ready anew.
func (u *up) readStatuses(r *os.File) {
	dec := json.NewDecoder(r)
	for {
		var s node.Status
		if err := dec.Decode(&s); err != nil {
			return
		}
		u.setReady(s)
	}
}
