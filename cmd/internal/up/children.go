package up

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
)

// Roles of the executable that a person never calls.
const (
	RoleControl = "role-control"
	RoleSidecar = "role-sidecar"
	RoleProgram = "role-program"
)

// ControlError says that the control plane could not be started. Code is its exit code.
type ControlError struct {
	State string
	Code  int
}

// Error implements error.
func (e *ControlError) Error() string {
	return "starting the control plane: " + e.State + " (its reason is above)"
}

// ExitCode is 2 if the control plane says that it is the caller's mistake.
func (e *ControlError) ExitCode() int {
	if e.Code == 2 {
		return 2
	}
	return 1
}

// keepControl runs the control plane on the one listening socket, which outlives its restarts. told gets each list of
// workloads that it writes; the first means that it serves.
func (u *up) keepControl(ctx context.Context, told chan<- []plane.Workload) error {
	var started atomic.Bool
	return u.starter.Keep(ctx, supervise.Spec{
		Hurry: u.hurry,
		Command: func() (*exec.Cmd, error) {
			ln, err := u.control.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				return nil, fmt.Errorf("passing the control socket on: %w", err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				return nil, errors.Join(fmt.Errorf("making readiness pipe: %w", err), ln.Close())
			}
			args := []string{RoleControl, u.cfg.Dir, "--trust-domain", u.cfg.TrustDomain, "--state", u.cfg.State,
				"--listen-fd", "3", "--ready-fd", "4", "--workload-cert-ttl", u.cfg.TTL.String(), "--max-workload-cert-ttl", u.cfg.MaxTTL.String()}
			args = append(args, u.cfg.ControlArgs...)
			cmd := exec.Command(u.cfg.Executable, args...)
			cmd.Stdout, cmd.Stderr = u.cfg.Stderr, u.cfg.Stderr
			cmd.ExtraFiles = []*os.File{ln, w}
			go func() {
				defer r.Close()
				b := bufio.NewReader(r)
				if _, err := b.Peek(1); err == nil {
					started.Store(true)
				}
				readWorkloads(ctx, b, told)
			}()
			return cmd, nil
		},
		Exited: func(state string, code int, _ []string, pause time.Duration) error {
			if !started.Load() {
				return &ControlError{state, code}
			}
			u.cfg.Log.Error("control plane ended; traffic goes on", "state", state, "restart_in", pause)
			return nil
		},
	})
}

// keepSidecar runs the sidecar of one workload, with a new join token at each start, and removes what it left when it is
// over.
func (u *up) keepSidecar(ctx context.Context, sc *sidecar) {
	u.mu.Lock()
	namespace, name := sc.who.Namespace, sc.who.Name
	u.mu.Unlock()
	log := u.cfg.Log.With("workload", namespace+"."+name)
	runDir := ""
	var reading sync.WaitGroup
	_ = u.starter.Keep(ctx, supervise.Spec{ // Exited gives no error
		Hurry: sc.hurry,
		Command: func() (*exec.Cmd, error) {
			reading.Wait() // of the process before
			var err error
			if runDir, err = u.mint(namespace, name); err != nil {
				return nil, err
			}
			r, w, err := os.Pipe()
			if err != nil {
				return nil, fmt.Errorf("making readiness pipe: %w", err)
			}
			args := []string{RoleSidecar, "--control", u.control.Addr().String(), "--token", filepath.Join(runDir, tokenFile),
				"--state=", "--run-dir", runDir, "--ready-fd", "3", "--cache", filepath.Join(u.cfg.State, "cache", namespace+"."+name)}
			if u.cfg.TTL > 0 {
				args = append(args, "--workload-cert-ttl", u.cfg.TTL.String())
			}
			cmd := exec.Command(u.cfg.Executable, args...)
			cmd.Stdout, cmd.Stderr = u.cfg.Stderr, u.cfg.Stderr
			cmd.ExtraFiles = []*os.File{w}
			reading.Go(func() { defer r.Close(); u.readStatuses(sc, r) })
			return cmd, nil
		},
		Exited: func(state string, _ int, _ []string, pause time.Duration) error {
			log.Error("sidecar ended", "state", state, "restart_in", pause)
			return nil
		},
	})
	if runDir != "" {
		_ = os.RemoveAll(runDir) // the next start makes it again
	}
}

// started lists the workloads that have a sidecar.
func (u *up) started() []plane.Workload {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]plane.Workload, 0, len(u.sidecars))
	for _, sc := range u.sidecars {
		out = append(out, sc.who)
	}
	return out
}
