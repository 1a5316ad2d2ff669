package dir

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watch waits for something to happen in a directory. Without inotify (its instances are limited) it only polls.
type watch struct {
	dir     string
	watcher *fsnotify.Watcher // nil when only polling
}

func newWatch(dir string, log *slog.Logger) *watch {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("configuration directory is only polled", "error", err)
		return &watch{dir: dir}
	}
	return &watch{dir: dir, watcher: w}
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // nothing is left to lose
	}
}

// wait returns true when there is reason to look: after a burst of events, or when idle has passed. It returns false when
// ctx is done.
func (w *watch) wait(ctx context.Context, idle time.Duration) bool {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	if w.watcher == nil {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		}
	}
	// Adding a watch again does nothing, save when the directory was replaced by another one.
	_ = w.watcher.Add(w.dir)
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-w.watcher.Errors: // an overflow at worst: look at everything
		case <-w.watcher.Events:
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		timer.Reset(max(min(debounce, first.Add(debounceMax).Sub(now)), 0))
	}
}
