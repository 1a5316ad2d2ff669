// Package cli holds what the commands of the three executables share. signet, signetd and signet-proxy are the same code under
// other names: a command is built once, in a package below this one, and mounted where it belongs, so that an executable
// links only what it does.
package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes of all executables.
const (
	ExitOK      = 0
	ExitFailure = 1 // something failed while it ran
	ExitMistake = 2 // a flag, a file or an object is wrong; nothing was started
)

// mistake marks an error as the caller's: exit code 2.
type mistake struct{ error }

func (m mistake) Unwrap() error { return m.error }

// ExitCode is what Main ends with. Errors of other packages may have one as well.
func (m mistake) ExitCode() int { return ExitMistake }

// Mistake marks an error as the caller's: nothing was started, and the exit code is 2.
func Mistake(err error) error { return mistake{err} }

// exit is an error that has said what it has to say and only sets the code.
type exit struct{ code int }

// Exit is an error for an exit code alone: nothing is printed for it.
func Exit(code int) error { return exit{code} }

func (e exit) Error() string { return fmt.Sprintf("exit %d", e.code) }

// Main runs a root command until it is done, SIGINT or SIGTERM, and returns the exit code.
func Main(root *cobra.Command) int {
	ctx, stop := untilSignal(context.Background())
	defer stop()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return mistake{fmt.Errorf("%w\nSee '%s --help'", err, c.CommandPath())}
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	var code exit
	if errors.As(err, &code) {
		return code.code
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", root.Name(), err)
	var own interface{ ExitCode() int }
	if errors.As(err, &own) {
		return own.ExitCode()
	}
	return ExitFailure
}

// endWithin is how long a process may take to end once it was told to. Everything in it has a shorter limit of its own: this
// is for what is stuck when nobody is left to kill it.
const endWithin = 9500 * time.Millisecond

// patience is how long a process may take to end, in nanoseconds.
type patience struct{ atomic.Int64 }

type patienceKey struct{}

// EndWithin gives the process of that command context another time to end in, for one that kubelet gives a time of its own.
func EndWithin(ctx context.Context, d time.Duration) {
	if limit, ok := ctx.Value(patienceKey{}).(*patience); ok {
		limit.Store(int64(d))
	}
}

// untilSignal returns a context that ends with SIGINT, SIGTERM or, unless it was ignored (nohup), SIGHUP. A second SIGINT
// ends the process at once: its children see that and end too. A second SIGTERM does not: a parent that is killed sends one
// for each of its threads.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	limit := &patience{}
	limit.Store(int64(endWithin))
	ctx, stop := signal.NotifyContext(context.WithValue(parent, patienceKey{}, limit), signals...)
	ended := context.AfterFunc(ctx, func() {
		signal.Reset(syscall.SIGINT)
		within := time.Duration(limit.Load())
		time.AfterFunc(within, func() {
			fmt.Fprintf(os.Stderr, "%s: not ended %s after it was told to; giving up\n", filepath.Base(os.Args[0]), within)
			os.Exit(ExitFailure)
		})
	})
	return ctx, func() {
		ended() // a command that ends by itself is not told to, and its process may go on
		stop()
	}
}

// Args wraps cobra's check of positional arguments so that what is wrong is a mistake.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return mistake{fmt.Errorf("%w\nSee '%s --help'", err, c.CommandPath())}
		}
		return nil
	}
}

// Version is the module's version and commit, as the build knows them.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += "-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}

// StateHome is where state goes by default: $XDG_STATE_HOME, else ~/.local/state. A path that is not absolute does not count
// (XDG Base Directory Specification).
func StateHome() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "signet"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the state directory: set $XDG_STATE_HOME or --state: %w", err)
	}
	return filepath.Join(home, ".local", "state", "signet"), nil
}

// NewLog is what every process logs to: text on standard error, each line naming the workload that speaks.
func NewLog(workload string) *slog.Logger {
	l := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if workload != "" {
		l = l.With("workload", workload)
	}
	return l
}

// NewVersion is the command that prints Version.
func NewVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: Args(cobra.NoArgs),
		Long: "Print the version of this executable, on one line: the module's, or devel and the commit where it was built from a\ntree.",
		Run:  func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), Version()) },
	}
}
