package dir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/signet-mesh/signet/mesh"
)

// state is the form of the Persist file. Version is 1.
type state struct {
	Version int
	// Created says when objects without a timestamp of their own were first seen.
	Created []seen
	Objects []stored
}

type seen struct {
	mesh.Key
	At time.Time
}

// stored is one last good object. File is the name in the directory.
type stored struct {
	mesh.Key
	Version, File       string
	Line, Column        int
	Labels, Annotations map[string]string
	Created             time.Time
	Spec                json.RawMessage
}

const stateVersion = 1

// save writes the last good objects, if they changed. A failure is logged: the mesh runs on without the safety net.
func (d *Dir) save() {
	if d.config.Persist == "" {
		return
	}
	data, err := d.encode()
	if err == nil && !bytes.Equal(data, d.saved) {
		if err = replace(d.config.Persist, data); err == nil {
			d.saved = data
		}
	}
	if err != nil {
		d.log.Error("last good objects can't be saved", "file", d.config.Persist, "error", err)
	}
}

func (d *Dir) encode() ([]byte, error) {
	s := state{Version: stateVersion}
	for _, o := range d.lastGood() {
		if t, ok := d.created[o.Key]; ok {
			s.Created = append(s.Created, seen{o.Key, t})
		}
		spec, err := protojson.Marshal(o.Spec)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", o.Key, err)
		}
		var compact bytes.Buffer // protojson varies its spaces
		if err := json.Compact(&compact, spec); err != nil {
			return nil, fmt.Errorf("encoding %s: %w", o.Key, err)
		}
		s.Objects = append(s.Objects, stored{Key: o.Key, Version: o.Version, File: filepath.Base(o.Position.File), Line: o.Position.Line,
			Column: o.Position.Column, Labels: o.Labels, Annotations: o.Annotations, Created: o.Created, Spec: compact.Bytes()})
	}
	return json.MarshalIndent(s, "", " ")
}

// replace writes a file so that a reader, or a crash, sees the old or the new one, whole.
func replace(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// restore reads what save wrote. A missing file is none; one that is damaged is passed over with a log line, since what is
// broken then is quarantined, which is the safe side.
func (d *Dir) restore() error {
	if d.config.Persist == "" {
		return nil
	}
	data, err := os.ReadFile(d.config.Persist)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading last good objects: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil || s.Version != stateVersion {
		d.log.Error("last good objects are damaged and not used", "file", d.config.Persist, "version", s.Version, "error", err)
		return nil
	}
	for _, c := range s.Created {
		d.created[c.Key] = c.At
	}
	for i := range s.Objects {
		o, err := d.revive(&s.Objects[i])
		if err != nil {
			d.log.Error("a last good object is damaged and not used", "object", s.Objects[i].String(), "error", err)
			continue
		}
		d.good[o.Key] = o
	}
	d.saved = data
	return nil
}

func (d *Dir) revive(s *stored) (*mesh.Object, error) {
	spec, ok := mesh.NewSpec(s.Group, s.Kind)
	if !ok {
		return nil, fmt.Errorf("kind %q is not known", s.Kind)
	}
	if err := protojson.Unmarshal(s.Spec, spec); err != nil {
		return nil, err
	}
	o := &mesh.Object{Meta: mesh.Meta{Key: s.Key, Version: s.Version, Labels: s.Labels, Annotations: s.Annotations, Created: s.Created,
		Position: mesh.Position{File: filepath.Join(d.config.Dir, s.File), Line: s.Line, Column: s.Column}}, Spec: spec}
	if bad := mesh.Refusals(mesh.Revalidate(o, d.config.TrustDomain)); len(bad) > 0 {
		return nil, &bad[0]
	}
	return o, nil
}
