package up

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/supervise"
)

// How the Procfile is followed: it is looked at every procfilePoll, and counts once it has been the same for procfileRest,
// so that one that is just being written starts and stops nothing.
const (
	procfilePoll = 100 * time.Millisecond
	procfileRest = 400 * time.Millisecond
)

// program is one running entry of the Procfile.
type program struct {
	entry Program
	stop  context.CancelFunc
	done  chan struct{}
}

// programs are the running entries; it belongs to keepPrograms.
type programs struct {
	u       *up
	all     map[string]*program
	leaving map[string]*program
	running sync.WaitGroup
}

// keepPrograms runs the programs of the Procfile and follows its changes until ctx ends.
func (u *up) keepPrograms(ctx context.Context) error {
	ps := &programs{u: u, all: map[string]*program{}, leaving: map[string]*program{}}
	defer ps.running.Wait()
	path := filepath.Join(u.cfg.Dir, procfileName)
	var now, applied source
	since := time.Time{} // when now was first seen
	tick := time.NewTicker(procfilePoll)
	defer tick.Stop()
	for first := true; ; first = false {
		if s := readProcfile(path); first || s != now {
			now, since = s, time.Now()
		}
		if first || now != applied && !now.blank() && time.Since(since) >= procfileRest {
			applied = now
			if entries, err := now.parse(path); err != nil {
				u.cfg.Log.Error(err.Error(), "effect", "the programs go on as they are")
			} else {
				ps.follow(ctx, entries)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow starts, ends and restarts programs until they are those of the entries.
func (ps *programs) follow(ctx context.Context, entries []Program) {
	want := map[string]Program{}
	for _, e := range entries {
		want[e.Name] = e
	}
	for name, p := range ps.all {
		if e, ok := want[name]; !ok || e.Command != p.entry.Command {
			ps.u.cfg.Log.Info("Procfile entry is gone or changed: ending the program", "program", name)
			p.stop()
			ps.leaving[name] = p
			delete(ps.all, name)
		}
	}
	for _, e := range entries {
		if ps.all[e.Name] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		p := &program{entry: e, stop: stop, done: make(chan struct{})}
		before := ps.leaving[e.Name]
		ps.all[e.Name] = p
		ps.running.Go(func() {
			defer stop()
			defer close(p.done)
			if before != nil {
				<-before.done
			}
			ps.u.keepProgram(own, e)
		})
	}
}

// keepProgram runs one entry in the directory of the Procfile. An entry that is named after a workload starts when its
// sidecar is ready, is told of its proxy, and starts again when that has another address.
func (u *up) keepProgram(ctx context.Context, p Program) {
	log := u.cfg.Log.With("program", p.Name)
	namespace, workload, attached := strings.Cut(p.Name, ".")
	if !attached {
		u.runProgram(ctx, p, os.Environ())
		return
	}
	for proxy := ""; ; {
		was := proxy
		if proxy = u.awaitProxy(ctx, namespace, workload, was); proxy == "" {
			return
		}
		if was != "" {
			log.Info("its proxy has another address: the program starts again", "http_proxy", "http://"+proxy)
		}
		own, stop := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() { u.awaitProxy(own, namespace, workload, proxy); stop() })
		u.runProgram(own, p, append(withoutProxy(os.Environ()), "http_proxy=http://"+proxy, "no_proxy=127.0.0.1"))
		stop()
		watch.Wait()
	}
}

func (u *up) runProgram(ctx context.Context, p Program, env []string) {
	log := u.cfg.Log.With("program", p.Name)
	defer u.starter.EndOrphans()            // of a keeper that was killed
	_ = u.starter.Keep(ctx, supervise.Spec{ // Exited gives no error
		Hurry: u.hurry,
		Command: func() (*exec.Cmd, error) {
			cmd := exec.Command(u.cfg.Executable, RoleProgram, "--", p.Command)
			cmd.Dir, cmd.Env = u.cfg.Dir, env
			return cmd, nil
		},
		Line: func(line string) { fmt.Fprintf(u.cfg.Stderr, "%s | %s\n", p.Name, line) },
		Exited: func(state string, code int, last []string, pause time.Duration) error {
			u.starter.EndOrphans()
			log.Error("program ended", "state", state, "code", code, "restart_in", pause, "last_lines", strings.Join(last, " / "))
			return nil
		},
	})
}

// awaitProxy waits until the workload's sidecar is ready and its proxy's address is another than was; "" when ctx ended.
func (u *up) awaitProxy(ctx context.Context, namespace, workload, was string) string {
	warned := false
	for {
		u.mu.Lock()
		sc, changed := u.sidecars[keyOf(namespace, workload)], u.changed
		out := ""
		if sc != nil && sc.status != nil {
			out = sc.status.Outbound
		}
		u.mu.Unlock()
		if out != "" && out != was {
			return out
		}
		if sc == nil && was == "" && !warned {
			warned = true
			u.cfg.Log.Warn("Procfile entry is named after no WorkloadEntry with a serviceAccount; it starts when there is one",
				"program", namespace+"."+workload)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

// withoutProxy leaves out everything that names a proxy: http_proxy, HTTPS_PROXY, no_proxy, all_proxy...
func withoutProxy(env []string) []string {
	out := make([]string, 0, len(env)+2)
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			out = append(out, e)
		}
	}
	return out
}
