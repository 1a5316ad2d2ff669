package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roleEnv makes this test's executable play a program's keeper: RunProgram is meant for a process of its own.
const roleEnv = "SUPERVISE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if command := os.Getenv(roleEnv); command != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code, err := RunProgram(ctx, command)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

func keeper(t *testing.T, command string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+command)
	return cmd
}

func newStarter(t *testing.T) *Starter {
	s := NewStarter()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return s
}

// end is one call of Spec.Exited.
type ended struct {
	state string
	code  int
	last  string
	pause time.Duration
}

func TestKeepRestartsWithBackoff(t *testing.T) {
	var ends []ended
	var lines []string
	done := errors.New("seen enough")
	err := newStarter(t).Keep(t.Context(), Spec{
		Command: func() (*exec.Cmd, error) {
			if len(ends) == 2 {
				return nil, errors.New("no command now")
			}
			return exec.Command("sh", "-c", "seq 12; echo no newline >&2; printf end; exit 3"), nil
		},
		Line: func(line string) { lines = append(lines, line) },
		Exited: func(state string, code int, last []string, pause time.Duration) error {
			ends = append(ends, ended{state, code, strings.Join(last, " "), pause})
			if len(ends) == 3 {
				return done
			}
			return nil
		},
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	const last = "5 6 7 8 9 10 11 12 no newline end"
	want := []ended{{"exit status 3", 3, last, firstBackoff}, {"exit status 3", 3, last, 2 * firstBackoff}, {"no command now", 1, "", 4 * firstBackoff}}
	if !slices.Equal(ends, want) {
		t.Errorf("got %+v\nwant %+v", ends, want)
	}
	if len(lines) != 2*14 || lines[0] != "1" || lines[13] != "end" {
		t.Errorf("lines: %q", lines)
	}
}

func TestLongLinesComeInPieces(t *testing.T) {
	l := &lines{}
	var sizes []int
	l.read(strings.NewReader(strings.Repeat("x", maxLineBytes+10)+"\nshort\r\n\n"), func(s string) { sizes = append(sizes, len(s)) })
	if want := []int{maxLineBytes, 10, 5, 0}; !slices.Equal(sizes, want) {
		t.Errorf("got %v, want %v", sizes, want)
	}
}

// startOne keeps one command and returns once it has written a line.
func startOne(t *testing.T, s *Starter, spec Spec) (stop func() time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan string, 100), make(chan error, 1)
	spec.Line = func(line string) { up <- line }
	if spec.Exited == nil {
		spec.Exited = func(state string, _ int, _ []string, _ time.Duration) error { return errors.New(state) }
	}
	go func() { done <- s.Keep(ctx, spec) }()
	t.Cleanup(cancel)
	select {
	case <-up:
	case <-time.After(10 * time.Second):
		t.Fatal("the command does not run")
	}
	return func() time.Duration {
		t.Helper()
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return time.Since(began)
	}
}

func command(args ...string) func() (*exec.Cmd, error) {
	return func() (*exec.Cmd, error) { return exec.Command(args[0], args[1:]...), nil }
}

func TestKeepEnds(t *testing.T) {
	s := newStarter(t)
	stop := startOne(t, s, Spec{Command: command("sh", "-c", "echo up; exec sleep 100")})
	if took := stop(); took > 2*time.Second {
		t.Errorf("SIGTERM took %s", took)
	}
	hurry := make(chan struct{})
	stop = startOne(t, s, Spec{Command: command("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"), Hurry: hurry})
	time.AfterFunc(100*time.Millisecond, func() { close(hurry) })
	if took := stop(); took > 2*time.Second {
		t.Errorf("SIGKILL took %s", took)
	}
	if len(s.own) != 0 {
		t.Errorf("processes not forgotten: %v", s.own)
	}
}

func TestRunProgramCodes(t *testing.T) {
	for command, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "kill -KILL $$": 137, "kill -TERM $$": 143, "nonesuch-command": 127,
	} {
		if err := keeper(t, command).Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		} else if got := exitCode(err); got != want {
			t.Errorf("%q: exit code %d, want %d", command, got, want)
		}
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// withMark are the processes that have a word in their environment.
func withMark(mark string) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range paths {
		var pid int
		_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), mark) && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func gone(t *testing.T, mark string) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); len(withMark(mark)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left: %v", withMark(mark))
		}
	}
}

// daemons start what is hard to end and stay.
const daemons = "sleep 100 & setsid sh -c 'sleep 100 & exec setsid sleep 100' & (trap '' TERM; exec sleep 100) & sleep 0.2; echo up; "

func TestRunProgramLeavesNothing(t *testing.T) {
	s := newStarter(t)
	marked := func(command, mark string) func() (*exec.Cmd, error) {
		return func() (*exec.Cmd, error) {
			cmd := keeper(t, command)
			cmd.Env = append(cmd.Env, mark)
			return cmd, nil
		}
	}
	t.Run("asked to end", func(t *testing.T) {
		stop := startOne(t, s, Spec{Command: marked(daemons+"wait", "MARK=asked.1")})
		if n := len(withMark("MARK=asked.1")); n < 6 {
			t.Fatalf("%d processes run", n)
		}
		stop()
		gone(t, "MARK=asked.1")
	})
	t.Run("ends by itself", func(t *testing.T) {
		cmd, _ := marked(daemons, "MARK=itself.1")()
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		gone(t, "MARK=itself.1")
	})
	t.Run("keeper killed", func(t *testing.T) {
		seen := make(chan struct{})
		stop := startOne(t, s, Spec{Command: marked(daemons+"wait", "MARK=killed.1"), Exited: func(string, int, []string, time.Duration) error {
			s.EndOrphans()
			close(seen)
			return nil
		}})
		for _, pid := range withMark("MARK=killed.1") {
			if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); strings.Contains(string(b), "\x00MARK=killed.1") && slices.Contains(children(os.Getpid()), pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		<-seen
		gone(t, "MARK=killed.1")
		stop()
	})
}
