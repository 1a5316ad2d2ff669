package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// programGrace is how long a program may take to end; less than Grace, so that what it left behind can be ended too.
const programGrace = 5 * time.Second

// orphanGrace is the same when whoever started this process is gone: nobody waits, and the next start may want the ports.
const orphanGrace = time.Second

// RunProgram runs a shell command until it ends or ctx does, and ends everything that it started and left behind. It makes
// the calling process a child subreaper (prctl(2)): it is meant for a process of its own. It returns the exit code.
func RunProgram(ctx context.Context, command string) (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("becoming child subreaper: %w", err)
	}
	runtime.LockOSThread() // its end would send the parent-death signal
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 127, fmt.Errorf("starting %q: %w", command, err)
	}
	group, parent := -cmd.Process.Pid, os.Getppid()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(group, syscall.SIGTERM)
		grace := programGrace
		if os.Getppid() != parent {
			grace = orphanGrace
		}
		select {
		case <-ended:
		case <-time.After(grace):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	endDescendants()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// endDescendants kills whatever is left below this process; orphans were given to it, since it is their subreaper.
func endDescendants() { endAll(func() []int { return children(os.Getpid()) }) }

// endAll kills and reaps what list gives until it gives nothing; the children of what was killed come to it next.
func endAll(list func() []int) {
	for range 100 {
		pids := list()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
		for _, pid := range pids {
			var ws syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil) // one that has not ended yet is seen in the next round
		}
	}
}

// children lists the direct children of a process.
func children(parent int) []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (comm) state ppid ...; comm may hold anything, even ')'.
		_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			continue
		}
		if ppid, err := strconv.Atoi(fields[1]); err == nil && ppid == parent {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}

// EndWithParent asks the kernel to end this process when its parent ends, if the parent is a tool that only ran it (go run,
// make): such a parent, killed, would otherwise leave it behind. A shell or a service manager is no such parent.
func EndWithParent() error {
	ppid := os.Getppid()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", ppid))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	switch strings.TrimSpace(string(comm)) {
	case "go", "make", "gmake":
	default:
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0); err != nil {
		return fmt.Errorf("setting parent-death signal: %w", err)
	}
	if os.Getppid() != ppid { // it ended in between
		return syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}
	return nil
}
