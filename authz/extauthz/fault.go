package extauthz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// faultKind says whose fault it is that there is no answer. The zero value opens nothing.
type faultKind uint8

const (
	improper   faultKind = iota // the authorizer says what it must not, or what cannot be understood
	unshowable                  // the request cannot be shown to the authorizer
	failed                      // the authorizer cannot be reached, is late, or says that it failed
)

// fault is why there is no answer.
type fault struct {
	kind   faultKind
	status int // of unshowable, 0 for the standard one
	cause  error
}

func unshown(status int, format string, args ...any) *fault {
	return &fault{kind: unshowable, status: status, cause: fmt.Errorf("showing the request to the external authorizer: "+format, args...)}
}

func misanswered(err error) *fault {
	return &fault{kind: improper, cause: fmt.Errorf("reading the external authorizer's answer: %w", err)}
}

func failure(err error) *fault {
	return &fault{kind: failed, cause: fmt.Errorf("asking external authorizer: %w", err)}
}

// late is the cause of a check's end when its own timeout ran out.
type late struct{ after time.Duration }

func (l *late) Error() string { return fmt.Sprintf("no answer within %v", l.after) }

// Is makes it a context.DeadlineExceeded.
func (l *late) Is(target error) bool { return target == context.DeadlineExceeded }

var (
	errEnded     = errors.New("the connection ended before the answer")
	errMalformed = errors.New("the answer is not HTTP, or its head is too large")
)

// plainly says what went wrong on a connection without repeating what came over it.
func plainly(ctx context.Context, err error) error {
	var dial *dialError
	switch {
	case errors.As(err, &dial):
		return dial
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errEnded
	}
	return errMalformed
}

// health logs when an authorizer begins to fail and when it answers again, each at most once in logEvery.
type health struct {
	log      *slog.Logger
	provider string
	failing  atomic.Bool
	mu       sync.Mutex // guards what follows
	told     bool       // that it fails
	last     time.Time  // when that was
}

func (h *health) good() {
	if !h.failing.Load() || !h.failing.CompareAndSwap(true, false) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told {
		h.told = false
		h.log.Info("external authorizer answers again", "provider", h.provider)
	}
}

func (h *health) bad(cause error) {
	h.failing.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); h.last.IsZero() || now.Sub(h.last) >= logEvery {
		h.told, h.last = true, now
		h.log.Warn("external authorizer fails", "provider", h.provider, "error", cause)
	}
}
