package up

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
)

// Roles of the executable that a person never calls.
const (
	RoleControl = "role-control"
	RoleSidecar = "role-sidecar"
	RoleProgram = "role-program"
)

// A sidecar's token is good for tokenTTL and replaced well before, so that one whose certificate ran out while the control
// plane was away can always begin again.
const (
	tokenTTL     = time.Hour
	tokenRefresh = 20 * time.Minute
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

// keepControl runs the control plane on the one listening socket, which outlives its restarts. up is closed when it serves
// for the first time.
func (u *up) keepControl(ctx context.Context, up chan struct{}) error {
	var once sync.Once
	var started atomic.Bool
	return u.starter.Keep(ctx, supervise.Spec{
		Command: func() (*exec.Cmd, error) {
			ln, err := u.control.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				return nil, fmt.Errorf("passing the control socket on: %w", err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				return nil, fmt.Errorf("making readiness pipe: %w", err)
			}
			args := []string{RoleControl, u.cfg.Dir, "--trust-domain", u.cfg.TrustDomain, "--state", u.cfg.State,
				"--listen-fd", "3", "--ready-fd", "4"}
			cmd := exec.Command(u.cfg.Executable, args...)
			cmd.Stdout, cmd.Stderr = u.cfg.Stderr, u.cfg.Stderr
			cmd.ExtraFiles = []*os.File{ln, w}
			go func() {
				defer r.Close()
				if _, err := bufio.NewReader(r).ReadString('\n'); err == nil {
					once.Do(func() { started.Store(true); close(up) })
				}
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

// keepSidecar runs the sidecar of one workload, with a new join token at each start.
func (u *up) keepSidecar(ctx context.Context, namespace, name string) error {
	key, log := namespace+"/"+name, u.cfg.Log.With("workload", namespace+"."+name)
	runDir := u.sidecarDir(namespace, name)
	defer os.RemoveAll(runDir)
	return u.starter.Keep(ctx, supervise.Spec{
		Command: func() (*exec.Cmd, error) {
			if err := u.mint(namespace, name); err != nil {
				return nil, err
			}
			r, w, err := os.Pipe()
			if err != nil {
				return nil, fmt.Errorf("making readiness pipe: %w", err)
			}
			args := []string{RoleSidecar, "--control", u.control.Addr().String(), "--token", filepath.Join(runDir, tokenFile),
				"--state=", "--run-dir", runDir, "--ready-fd", "3"}
			if u.cfg.TTL > 0 {
				args = append(args, "--workload-cert-ttl", u.cfg.TTL.String())
			}
			cmd := exec.Command(u.cfg.Executable, args...)
			cmd.Stdout, cmd.Stderr = u.cfg.Stderr, u.cfg.Stderr
			cmd.ExtraFiles = []*os.File{w}
			go func() { defer r.Close(); u.readStatuses(r) }()
			return cmd, nil
		},
		Exited: func(state string, _ int, _ []string, pause time.Duration) error {
			u.unready(key)
			log.Error("sidecar ended", "state", state, "restart_in", pause)
			return nil
		},
	})
}

const tokenFile = "token"

// sidecarDir is short: a Unix socket's path has 107 bytes at most.
func (u *up) sidecarDir(namespace, name string) string {
	return filepath.Join(u.runDir, namespace+"."+name)
}

// mint puts a new join token where the sidecar looks for one.
func (u *up) mint(namespace, name string) error {
	token, err := attest.MintToken(u.cfg.State, namespace, name, tokenTTL)
	if err != nil {
		return err
	}
	dir := u.sidecarDir(namespace, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making run directory: %w", err)
	}
	return ca.WriteDurable(filepath.Join(dir, tokenFile), []byte(token+"\n"))
}

func (u *up) refreshTokens(ctx context.Context) error {
	tick := time.NewTicker(tokenRefresh)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		u.mu.Lock()
		keys := make([]string, 0, len(u.sidecars))
		for key := range u.sidecars {
			keys = append(keys, key)
		}
		u.mu.Unlock()
		for _, key := range keys {
			namespace, name, _ := strings.Cut(key, "/")
			if err := u.mint(namespace, name); err != nil {
				u.cfg.Log.Error("join token not refreshed", "workload", namespace+"."+name, "error", err)
			}
		}
	}
}

// keepProgram runs one entry of the Procfile, in the directory of the Procfile. An entry that is named after a workload
// starts when its sidecar is ready, and is told of its proxy.
func (u *up) keepProgram(ctx context.Context, p Program) error {
	env, err := u.programEnv(ctx, p.Name)
	if err != nil {
		return nil // ctx ended
	}
	log := u.cfg.Log.With("program", p.Name)
	return u.starter.Keep(ctx, supervise.Spec{
		Command: func() (*exec.Cmd, error) {
			cmd := exec.Command(u.cfg.Executable, RoleProgram, "--", p.Command)
			cmd.Dir, cmd.Env = u.cfg.Dir, env
			return cmd, nil
		},
		Line: func(line string) { fmt.Fprintf(u.cfg.Stderr, "%s | %s\n", p.Name, line) },
		Exited: func(state string, code int, last []string, pause time.Duration) error {
			log.Error("program ended", "code", code, "restart_in", pause, "last_lines", strings.Join(last, " / "))
			return nil
		},
	})
}

var errEnded = errors.New("ended")

// programEnv waits for the workload that an entry is named after, if it is, and adds http_proxy and no_proxy.
func (u *up) programEnv(ctx context.Context, name string) ([]string, error) {
	env := os.Environ()
	namespace, workload, dotted := strings.Cut(name, ".")
	if !dotted {
		return env, nil
	}
	key := namespace + "/" + workload
	for {
		u.mu.Lock()
		status, ready := u.ready[key]
		known, changed := u.sidecars[key] != nil, u.changed
		u.mu.Unlock()
		if ready && status.Outbound != "" {
			return append(withoutProxy(env), "http_proxy=http://"+status.Outbound, "no_proxy=127.0.0.1"), nil
		}
		if !known {
			u.cfg.Log.Warn("Procfile entry names no workload of the mesh; it starts when there is one", "program", name)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errEnded
		}
	}
}

func withoutProxy(env []string) []string {
	out := make([]string, 0, len(env)+2)
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "no_proxy", "all_proxy":
			continue
		}
		out = append(out, e)
	}
	return out
}
