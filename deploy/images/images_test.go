package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestImages builds both images twice, the second time into a registry, and looks at what is in them.
func TestImages(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	hub := strings.TrimPrefix(server.URL, "http://") + "/team/signet"
	first := order{root: "../..", hub: hub, tag: "1.2.3", out: t.TempDir(), arches: []string{"amd64"}}
	if err := build(t.Context(), &first); err != nil {
		t.Fatal(err)
	}
	second := first
	second.out, second.push = t.TempDir(), true
	if err := build(t.Context(), &second); err != nil {
		t.Fatal(err)
	}
	same(t, first.out, second.out)
	for _, c := range contents() {
		t.Run(c.name, func(t *testing.T) {
			ref := mustTag(t, hub+"/"+c.name+":1.2.3")
			image, err := tarball.ImageFromPath(filepath.Join(first.out, c.name+".tar"), &ref)
			if err != nil {
				t.Fatal(err)
			}
			inspect(t, image, &c)
			pulled, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
			if err != nil {
				t.Fatal(err)
			}
			inspect(t, pulled, &c)
		})
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(first.out, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := index.IndexManifest(); err != nil || len(m.Manifests) != 2 {
		t.Errorf("the OCI layout holds %v (%v), want two images", m, err)
	}
}

// TestBadNames: what is no name of an image is refused before anything is compiled.
func TestBadNames(t *testing.T) {
	for _, o := range []order{{hub: "Registry.Local/UPPER", tag: "1"}, {hub: "registry.local/signet", tag: "a b"}, {hub: "registry.local/signet", tag: ""}} {
		o.root, o.out, o.arches = "/nowhere", t.TempDir(), []string{"amd64"}
		if err := build(t.Context(), &o); err == nil || !strings.Contains(err.Error(), "-hub and -tag") {
			t.Errorf("hub %q, tag %q: %v, want a refusal that names the flags", o.hub, o.tag, err)
		}
	}
}

func mustTag(t *testing.T, s string) name.Tag {
	t.Helper()
	ref, err := name.NewTag(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// inspect wants one static program, owned by root, old as time, that an unprivileged user runs.
func inspect(t *testing.T, image v1.Image, c *content) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config; got.User != c.user || len(got.Entrypoint) != 1 || got.Entrypoint[0] != "/"+c.binary || len(got.Cmd) != 0 {
		t.Errorf("user %q, entrypoint %q, cmd %q; want %s, /%s and nothing", got.User, got.Entrypoint, got.Cmd, c.user, c.binary)
	}
	if config.Created.Unix() != 0 || config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("created %s for %s/%s, want the epoch and linux/amd64", config.Created, config.OS, config.Architecture)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"etc/": 0o755, "etc/passwd": 0o644, "etc/group": 0o644, "etc/ssl/": 0o755, "etc/ssl/certs/": 0o755,
		"etc/ssl/certs/ca-certificates.crt": 0o644, c.binary: 0o755}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for files := tar.NewReader(r); ; {
			h, err := files.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			mode, ok := want[h.Name]
			if !ok || mode != h.Mode || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
				t.Errorf("%s: mode %o of %d:%d at %s; want it root's, at the epoch, one of %v", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime, want)
			}
			delete(want, h.Name)
			if h.Name == c.binary {
				static(t, files)
			}
		}
		r.Close()
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// static wants an ELF program without an interpreter, and without a path of the machine that built it.
func static(t *testing.T, r io.Reader) {
	t.Helper()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary wants a dynamic linker")
		}
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(body, []byte(here+"/cmd")) {
		t.Errorf("the binary names %s", here)
	}
}

// same wants the same files with the same bytes in both folders.
func same(t *testing.T, a, b string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(a, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		rel, err := filepath.Rel(a, p)
		if err != nil {
			return err
		}
		one, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		other, err := os.ReadFile(filepath.Join(b, rel))
		if err != nil {
			return err
		}
		if !bytes.Equal(one, other) {
			t.Errorf("%s differs between two builds", rel)
		}
		return nil
	})
	if err != nil || seen < 4 {
		t.Errorf("compared %d files: %v", seen, err)
	}
}
