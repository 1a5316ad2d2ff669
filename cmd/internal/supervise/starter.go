package supervise

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Starter starts processes from one OS thread that lives as long as this process: the kernel ties a child's parent-death
// signal to the thread that started it (prctl(2), PR_SET_PDEATHSIG). It also makes this process the one that orphans among
// its descendants are given to (PR_SET_CHILD_SUBREAPER), so that EndOrphans finds them.
type Starter struct {
	jobs chan func()

	mu      sync.Mutex // guards what follows, and that no process starts unnoticed
	own     map[int]bool
	foreign []int // children that this process was born with
}

// NewStarter returns a Starter; Run must run while it is used.
func NewStarter() *Starter { return &Starter{jobs: make(chan func()), own: map[int]bool{}} }

// Run serves starts until ctx ends.
func (s *Starter) Run(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: see Starter
	s.mu.Lock()
	s.foreign = children(os.Getpid())
	s.mu.Unlock()
	// Where the kernel refuses, orphans of a killed program keeper go to init, as they would anyway.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for {
		select {
		case job := <-s.jobs:
			job()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Starter) start(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	select {
	case s.jobs <- func() { done <- s.startNow(cmd) }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Starter) startNow(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		s.own[cmd.Process.Pid] = true
	}
	return err
}

func (s *Starter) forget(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.own, pid)
}

// EndOrphans kills what was left by a RunProgram process that was itself killed.
func (s *Starter) EndOrphans() {
	s.mu.Lock()
	defer s.mu.Unlock()
	endAll(func() []int {
		return slices.DeleteFunc(children(os.Getpid()), func(pid int) bool { return s.own[pid] || slices.Contains(s.foreign, pid) })
	})
}
