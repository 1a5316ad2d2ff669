// Package up runs a whole mesh on one machine: a control plane, one sidecar process for each WorkloadEntry, and the
// programs of a Procfile.
package up

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Config is what `signet up` is told.
type Config struct {
	Dir, State     string
	TrustDomain    string
	ControlAddress string
	// TTL is the certificate lifetime that sidecars ask for; 0 leaves it to the CA.
	TTL time.Duration
	// MaxTTL bounds what the CA gives; 0 leaves it to the CA.
	MaxTTL time.Duration
	// Control is what proxies must know beside the objects; ControlArgs are the flags that say it to the control plane.
	Control     *policy.ControlSettings
	ControlArgs []string
	JSON        bool
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

// ExitCode marks it as the caller's mistake.
func (e *RefusedError) ExitCode() int { return 2 }

// endWithin is how long all processes together may take to end; what is left then is killed.
const endWithin = 8 * time.Second

// up is a mesh on one machine.
type up struct {
	cfg     Config
	starter *supervise.Starter
	run     *runDirs
	control net.Listener
	hurry   chan struct{} // closed when what still runs at the end is to be killed

	mu       sync.Mutex // guards what follows
	sidecars map[string]*sidecar
	leaving  map[string]*sidecar // the last one of that workload that was told to go
	refused  map[string]string   // workloads that can't have a sidecar, and why
	ended    bool                // no sidecar is started any more
	changed  chan struct{}       // closed when any of that changes
	running  sync.WaitGroup      // every sidecar
}

// Run starts everything, prints the table once all sidecars are ready, and serves until ctx ends. It returns when every
// process has ended.
func Run(ctx context.Context, cfg Config) error {
	if err := check(cfg); err != nil {
		return err
	}
	u := &up{cfg: cfg, starter: supervise.NewStarter(), run: newRunDirs(filepath.Join(cfg.State, "run")),
		hurry: make(chan struct{}), sidecars: map[string]*sidecar{}, leaving: map[string]*sidecar{},
		refused: map[string]string{}, changed: make(chan struct{})}
	var err error
	if u.control, err = net.Listen("tcp", cfg.ControlAddress); err != nil {
		return fmt.Errorf("opening control address (--control-address; port 0 takes a free one): %w", err)
	}
	defer u.control.Close()
	defer u.run.remove()
	return u.serve(ctx)
}

// check judges everything that can be judged before something is started.
func check(cfg Config) error {
	objects := dir.New(dir.Config{Dir: cfg.Dir, TrustDomain: cfg.TrustDomain, Judge: compile.Judge(cfg.TrustDomain, cfg.Control), Check: compile.NewCheck(), Control: cfg.Control})
	snapshot, problems, err := objects.Load()
	if err != nil {
		return err
	}
	refused := append(mesh.Refusals(problems), sharedAddresses(snapshot)...)
	if len(refused) > 0 {
		return &RefusedError{refused}
	}
	if _, err := LoadProcfile(filepath.Join(cfg.Dir, procfileName)); err != nil {
		return err
	}
	if len(plane.Workloads(snapshot)) == 0 {
		cfg.Log.Warn("there is no WorkloadEntry with a serviceAccount in *.yaml; sidecars start when there is one", "dir", cfg.Dir)
	}
	return nil
}

// sharedAddresses refuses workloads that have the address of another: both sidecars would want its ports.
func sharedAddresses(s *mesh.Snapshot) []mesh.Problem {
	objects := map[mesh.Key]*mesh.Object{}
	for _, o := range s.Objects() {
		objects[o.Key] = o
	}
	var out []mesh.Problem
	taken := map[netip.Addr]plane.Workload{}
	for _, w := range plane.Workloads(s) {
		first, shared := taken[w.Address]
		if !shared {
			taken[w.Address] = w
			continue
		}
		key := mesh.Key{Group: mesh.GroupNetworking, Kind: mesh.KindWorkloadEntry, Namespace: w.Namespace, Name: w.Name}
		out = append(out, mesh.Fault(objects[key], "spec.address", sharedAddress(w, first)))
	}
	return out
}

func sharedAddress(w, first plane.Workload) string {
	return fmt.Sprintf("%q is the address of WorkloadEntry %s/%s (%s) too; on one machine each sidecar needs its own",
		w.Address, first.Namespace, first.Name, first.Position)
}

// serve runs the control plane, and while it serves everything else; it ends them in the opposite order.
func (u *up) serve(ctx context.Context) error {
	// What starts processes outlives them: see supervise.Starter.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	var starter sync.WaitGroup
	starter.Go(func() { u.starter.Run(below) })
	defer starter.Wait()
	defer stop()

	// A failed start ends ctx, as a signal does.
	g, ctx := errgroup.WithContext(ctx)
	hurry := context.AfterFunc(ctx, func() { time.AfterFunc(endWithin, func() { close(u.hurry) }) })
	defer hurry()
	controlCtx, stopControl := context.WithCancel(below)
	defer stopControl()
	var control errgroup.Group
	workloads, failed := make(chan []plane.Workload), make(chan struct{})
	control.Go(func() error {
		err := u.keepControl(controlCtx, workloads)
		if err != nil {
			close(failed)
		}
		return err
	})
	select {
	case first := <-workloads: // the control plane serves
		u.run.clear()
		u.follow(ctx, first)
		g.Go(func() error { u.keepFollowing(ctx, workloads); return nil })
		g.Go(func() error { return u.refreshTokens(ctx) })
		g.Go(func() error { return u.announce(ctx) })
		g.Go(func() error { return u.keepPrograms(ctx) })
	case <-failed:
	case <-ctx.Done():
	}
	err := g.Wait()
	u.endSidecars()
	stopControl()
	if controlErr := control.Wait(); err == nil {
		err = controlErr
	}
	return err
}
