package dir

import (
	"context"
	"log/slog"
	"path/filepath"
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

// wait returns when there is reason to look: after a burst of events, or when idle has passed. touched says that a file
// that is read was among the events, even if it looks now as it did before. ok is false when ctx is done.
func (w *watch) wait(ctx context.Context, idle time.Duration) (touched, ok bool) {
	timer := time.NewTimer(idle)
	defer timer.Stop()
	if w.watcher == nil {
		select {
		case <-ctx.Done():
			return false, false
		case <-timer.C:
			return false, true
		}
	}
	// Adding a watch again does nothing, save when the directory was replaced by another one.
	_ = w.watcher.Add(w.dir)
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return touched, false
		case <-timer.C:
			return touched, true
		case <-w.watcher.Errors: // an overflow at worst: look at everything
		case e := <-w.watcher.Events:
			touched = touched || readable(filepath.Base(e.Name))
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		}
		timer.Reset(max(min(debounce, first.Add(debounceMax).Sub(now)), 0))
	}
}
