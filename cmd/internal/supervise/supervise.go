// Package supervise keeps child processes running: it starts them, restarts them with back-off, and sees to it that none
// outlives this process, not even when it is killed.
package supervise

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Timing of restarts and of the end.
const (
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// steady is how long a process must have run for its next restart to begin with the first back-off again.
	steady = 10 * time.Second
	// Grace is how long a process may take to end when it is asked to.
	Grace = 7 * time.Second
)

const (
	keptLines    = 10
	maxLineBytes = 16 << 10
)

// Spec is one process to keep running.
type Spec struct {
	// Command builds the command for each start. Its SysProcAttr is supplied and its ExtraFiles are closed here.
	Command func() (*exec.Cmd, error)
	// Line takes each line of output that the command left unconnected; nil if it connected all.
	Line func(line string)
	// Exited is told of each end that nobody asked for: the state, the last lines and the pause before the next start. Its
	// error, if any, ends Keep.
	Exited func(state string, code int, last []string, pause time.Duration) error
	// Hurry is closed to kill the process at once where it was asked to end; nil for never.
	Hurry <-chan struct{}
}

// Keep runs the process again and again until ctx ends, and then ends it: SIGTERM, and SIGKILL after Grace.
func (s *Starter) Keep(ctx context.Context, spec Spec) error {
	backoff := firstBackoff
	for ctx.Err() == nil {
		began := time.Now()
		last := &lines{}
		state, code, err := s.once(ctx, spec, last)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			state, code = err.Error(), 1
		}
		if time.Since(began) > steady {
			backoff = firstBackoff
		}
		if err := spec.Exited(state, code, last.all(), backoff); err != nil {
			return err
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, lastBackoff)
	}
	return nil
}

func (s *Starter) once(ctx context.Context, spec Spec, last *lines) (state string, code int, err error) {
	cmd, err := spec.Command()
	if err != nil {
		return "", 0, err
	}
	// Its own process group, so that Ctrl-C in a terminal reaches this process alone, which then ends the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	var out *os.File
	if spec.Line != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return "", 0, fmt.Errorf("making output pipe: %w", err)
		}
		defer r.Close()
		cmd.Stdout, cmd.Stderr, out = w, w, r
	}
	err = s.start(ctx, cmd)
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if w, ok := cmd.Stdout.(*os.File); ok && spec.Line != nil {
		w.Close()
	}
	if err != nil {
		return "", 0, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	var reading sync.WaitGroup
	if out != nil {
		reading.Go(func() { last.read(out, spec.Line) })
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = end(cmd, ended, spec.Hurry)
	}
	s.forget(cmd.Process.Pid)
	if out != nil { // a grandchild may hold the pipe open
		_ = out.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	}
	reading.Wait()
	return describe(cmd, err)
}

// end asks a process to end, and kills it when it takes too long.
func end(cmd *exec.Cmd, ended <-chan error, hurry <-chan struct{}) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return err
	case <-grace.C:
	case <-hurry:
	}
	_ = cmd.Process.Kill()
	return <-ended
}

func describe(cmd *exec.Cmd, err error) (string, int, error) {
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, err
	}
	return cmd.ProcessState.String(), cmd.ProcessState.ExitCode(), nil
}

// lines keeps the last lines of an output. Safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	kept []string
}

func (l *lines) read(r io.Reader, line func(string)) {
	br := bufio.NewReaderSize(r, maxLineBytes)
	for {
		b, err := br.ReadSlice('\n') // a longer line comes in pieces
		if len(b) > 0 {
			s := string(bytes.TrimRight(b, "\r\n"))
			l.mu.Lock()
			l.kept = append(l.kept, s)
			if len(l.kept) > keptLines {
				l.kept = l.kept[1:]
			}
			l.mu.Unlock()
			line(s)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.kept...)
}
