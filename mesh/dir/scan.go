package dir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/mesh"
)

// file is what was read of one file.
type file struct {
	info fs.FileInfo
	sum  [sha256.Size]byte
	// held says that the file says nothing about what it defines: it is empty, or can't be read as YAML. Its last good
	// objects stay.
	held     bool
	objects  []*mesh.Object
	problems []mesh.Problem
}

// recent is how long after its last change a file is read even if size and time look the same: a second write within the
// granularity of the clock of the file system changes neither.
const recent = 2 * time.Second

// writing is a file that was found changed, and has looked like that since.
type writing struct {
	info         fs.FileInfo // nil for one that could not be looked at
	since, first time.Time   // when it was first seen like that, and at all
}

// longest is how long a file that never rests goes unread.
const longest = 3 * time.Second

// scan reads every file that changed and has looked the same for quiet, and forgets those that are gone; it reports whether
// anything did.
func (d *Dir) scan(now time.Time, quiet time.Duration) (bool, error) {
	list, err := os.ReadDir(d.config.Dir)
	if err != nil {
		return false, fmt.Errorf("reading configuration directory: %w", err)
	}
	changed, seen := false, make(map[string]bool)
	for _, e := range list {
		name := filepath.Join(d.config.Dir, e.Name())
		if !readable(e.Name()) {
			continue
		}
		info, err := os.Stat(name)
		if err == nil && info.IsDir() || os.IsNotExist(err) && e.Type()&fs.ModeSymlink == 0 {
			continue // a directory, or gone between the two calls: judged as absent
		}
		if seen[name] = true; len(seen) > MaxFiles {
			return false, fmt.Errorf("reading configuration directory: %s holds more than %d files", d.config.Dir, MaxFiles)
		}
		have := d.files[name]
		if err == nil && have != nil && have.info != nil && same(have.info, info) && now.Sub(info.ModTime()) > recent {
			delete(d.busy, name)
			continue
		}
		if d.settled(name, info, now, quiet) && d.read(name, info, now) {
			changed = true
		}
	}
	for name := range d.busy {
		if !seen[name] {
			delete(d.busy, name)
		}
	}
	for name := range d.files {
		if !seen[name] {
			delete(d.files, name)
			changed = true
		}
	}
	return changed, nil
}

// readable reports whether a name is one that is read: not an editor's, and of a known ending.
func readable(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// settled reports whether a file that changed has looked the same for quiet. info is nil where it can't be looked at.
func (d *Dir) settled(name string, info fs.FileInfo, now time.Time, quiet time.Duration) bool {
	have, busy := d.files[name], d.busy[name]
	if have != nil && same(have.info, info) && busy == nil {
		return true // read only to be sure
	}
	if busy == nil || !same(busy.info, info) {
		next := &writing{info: info, since: now, first: now}
		if busy != nil {
			next.first = busy.first
		}
		busy = next
		d.busy[name] = busy
	}
	if now.Sub(busy.since) < quiet && now.Sub(busy.first) < longest {
		return false
	}
	delete(d.busy, name)
	return true
}

func same(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// read parses one file and reports whether its content changed.
func (d *Dir) read(name string, info fs.FileInfo, now time.Time) bool {
	data, err := readLimited(name)
	if os.IsNotExist(err) && info != nil {
		return false
	}
	have := d.files[name]
	if err != nil {
		if info == nil && os.IsNotExist(err) {
			err = fmt.Errorf("it is a link to %w", err)
		}
		broken := &file{info: info, held: true, problems: []mesh.Problem{{Position: mesh.Position{File: name}, Message: err.Error()}}}
		d.files[name] = broken
		return have == nil || len(have.problems) != 1 || have.problems[0].Message != err.Error()
	}
	sum := sha256.Sum256(data)
	if have != nil && have.sum == sum {
		have.info = info
		return false
	}
	f := &file{info: info, sum: sum}
	d.files[name] = f
	if len(bytes.TrimSpace(data)) == 0 {
		f.held = true
		return true
	}
	f.objects, f.problems = mesh.Parse(name, data, mesh.ParseOptions{TrustDomain: d.config.TrustDomain, Now: now, Judge: d.config.Judge})
	for i := range f.problems {
		f.held = f.held || f.problems[i].WholeFile()
	}
	for _, o := range f.objects {
		d.firstSeen(o, now)
	}
	return true
}

// firstSeen gives an object that carries no time of its own the time it was first seen. The object was just parsed and
// nobody else has it yet.
func (d *Dir) firstSeen(o *mesh.Object, now time.Time) {
	if !o.Created.Equal(now) {
		return
	}
	if t, ok := d.created[o.Key]; ok {
		o.Created = t
		return
	}
	d.created[o.Key] = now
}

// readLimited reads at most one byte more than a file may have, which is enough to refuse it. A pipe or a device is an error:
// it may have no end.
func readLimited(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0) // a pipe without a writer would block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	return io.ReadAll(io.LimitReader(f, mesh.MaxFileBytes+1))
}
