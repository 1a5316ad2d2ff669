// Package dir keeps a mesh.Snapshot of a directory of YAML files: it reads them, watches them, and puts the last good
// version, or a quarantine, in the place of what is broken.
//
// What a file held stays in force while the file can't be read as YAML, is empty, is being written, or is missing for a
// moment: editors and half-done saves never delete or change anything. A file counts once it has been left alone for Quiet,
// and an object is gone when the directory has been at rest for Settle without it.
package dir

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// How the directory is followed. A change is in force Quiet after the last write, and what vanished is dropped Settle after
// it, each plus debounce and the time to read.
const (
	poll        = 500 * time.Millisecond // safety net for events that never come
	debounce    = 20 * time.Millisecond  // after the last event
	debounceMax = 100 * time.Millisecond // after the first
	// Quiet is how long a file must not have changed before it is read: one that is written in pieces is not read in
	// between, where its first half may well be good YAML and mean something else.
	Quiet = 320 * time.Millisecond
	// Settle is how long a directory must be at rest before what vanished from it is dropped.
	Settle = 400 * time.Millisecond
	// MaxFiles is how many files a directory may hold.
	MaxFiles = 10000
)

// Config is what New takes.
type Config struct {
	// Dir is read for *.yaml, *.yml and *.json, not for its subdirectories or names that begin with a dot.
	Dir         string
	TrustDomain string
	// Log gets each problem once; nil discards.
	Log *slog.Logger
	// Persist is the file that keeps the last good objects over restarts, mode 0600; "" keeps none. It is replaced as a
	// whole.
	Persist string
	// Judge and Check are asked what can't be run: mesh.ParseOptions.Judge and mesh.BuildOptions.Check.
	Judge func(*mesh.Object) []mesh.Problem
	Check func(*mesh.Snapshot) []mesh.Problem
	// Control is mesh.BuildOptions.Control. It is never persisted.
	Control *policy.ControlSettings
	// OnChange is called from Run after every change of the snapshot or of the problems, one call at a time.
	OnChange func(*mesh.Snapshot, []mesh.Problem)
}

// Dir watches one directory. Current is safe for concurrent use; Load and Run must not run at once.
type Dir struct {
	config  Config
	log     *slog.Logger
	current atomic.Pointer[mesh.Snapshot]

	// The rest belongs to whoever runs Load or Run.
	loaded  bool
	files   map[string]*file
	busy    map[string]*writing       // files that changed and are not read yet
	good    map[mesh.Key]*mesh.Object // the last good version of what stands, quarantines excepted
	created map[mesh.Key]time.Time    // when objects without a timestamp were first seen
	changed time.Time                 // when a file last changed
	pending bool                      // something vanished and waits for Settle
	told    map[string]bool           // problems that were logged
	saved   []byte                    // what Persist holds
	unread  string                    // the last error of reading the directory
}

// New is pure: nothing is read before Load or Run.
func New(c Config) *Dir {
	d := &Dir{config: c, log: c.Log, files: map[string]*file{}, busy: map[string]*writing{}, good: map[mesh.Key]*mesh.Object{}, created: map[mesh.Key]time.Time{},
		told: map[string]bool{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Load reads the directory once. The problems are those of all objects; the error is for a directory or a Persist file
// that can't be read. `signet up` and `signet validate` refuse to go on when a problem is a refusal.
func (d *Dir) Load() (*mesh.Snapshot, []mesh.Problem, error) {
	if err := d.restore(); err != nil {
		return nil, nil, err
	}
	if _, err := d.scan(time.Now(), 0); err != nil {
		return nil, nil, err
	}
	d.loaded = true
	s, problems := d.apply(true)
	return s, problems, nil
}

// Current is the snapshot of the last Load or change, nil before the first.
func (d *Dir) Current() *mesh.Snapshot { return d.current.Load() }

// Run follows the directory until ctx is done, then returns nil. It calls Load (and OnChange) first if nobody called
// Load. A change takes effect within a second. The error is Load's: a directory that goes away later is only logged, and
// what it held stays in force.
func (d *Dir) Run(ctx context.Context) error {
	if !d.loaded {
		s, problems, err := d.Load()
		if err != nil {
			return err
		}
		d.tell(s, problems)
	}
	w := newWatch(d.config.Dir, d.log)
	defer w.close()
	touched := false
	for {
		// The first round catches what changed between Load and the watch.
		d.step(time.Now(), touched)
		var ok bool
		if touched, ok = w.wait(ctx, d.rest(time.Now())); !ok {
			return nil
		}
	}
}

// rest is how long until something is to be read or dropped; poll if nothing is.
func (d *Dir) rest(now time.Time) time.Duration {
	wait := poll
	if d.pending {
		wait = min(wait, d.changed.Add(Settle).Sub(now))
	}
	for _, w := range d.busy {
		wait = min(wait, w.since.Add(Quiet).Sub(now))
	}
	return max(wait, time.Millisecond)
}

// step reads what changed and puts it in force. touched says that files are being worked on, so that nothing is dropped
// yet: a file may be there and away again between two looks.
func (d *Dir) step(now time.Time, touched bool) {
	changed, err := d.scan(now, Quiet)
	if err != nil {
		if err.Error() != d.unread {
			d.log.Error("configuration directory can't be read, what ran goes on running", "error", err)
		}
		d.unread = err.Error()
		return
	}
	d.unread = ""
	if changed || touched {
		d.changed = now
	}
	if !changed && !d.pending {
		return
	}
	before := d.current.Load().Hash()
	s, problems := d.apply(len(d.busy) == 0 && now.Sub(d.changed) >= Settle)
	if changed || s.Hash() != before {
		d.tell(s, problems)
	}
}

func (d *Dir) tell(s *mesh.Snapshot, problems []mesh.Problem) {
	if d.config.OnChange != nil {
		d.config.OnChange(s, problems)
	}
}
