package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// content is one image.
type content struct {
	name   string // of the image
	binary string // in cmd, and in the image's root
	user   string // UID:GID it runs as
	title  string
}

func contents() []content {
	return []content{
		{"signetd", "signetd", "65532:65532", "Signet's control plane"},
		{"proxy", "signet-proxy", "1337:1337", "Signet's sidecar, and the init container that captures a pod's traffic"},
	}
}

// passwd and group name the users, for programs that ask who they are.
const (
	passwd = "root:x:0:0:root:/:/nothing\nproxy:x:1337:1337:proxy:/:/nothing\nnonroot:x:65532:65532:nonroot:/:/nothing\n"
	group  = "root:x:0:\nproxy:x:1337:\nnonroot:x:65532:\n"
)

// image is the binary with users and root certificates, and nothing else.
func (c *content) image(ctx context.Context, o *order, arch string) (v1.Image, error) {
	binary, err := compile(ctx, o.root, c.binary, arch)
	if err != nil {
		return nil, err
	}
	roots, err := certificates()
	if err != nil {
		return nil, err
	}
	base, err := layer([]file{{"etc/passwd", 0o644, []byte(passwd)}, {"etc/group", 0o644, []byte(group)}, {"etc/ssl/certs/ca-certificates.crt", 0o644, roots}})
	if err != nil {
		return nil, err
	}
	program, err := layer([]file{{c.binary, 0o755, binary}})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), base, program)
	if err != nil {
		return nil, err
	}
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User: c.user, Entrypoint: []string{"/" + c.binary}, WorkingDir: "/", Env: []string{"PATH=/"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    c.title,
			"org.opencontainers.image.version":  o.tag,
			"org.opencontainers.image.source":   "https://github.com/signet-mesh/signet",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// compile builds a static binary that depends on the sources and the compiler alone.
func compile(ctx context.Context, root, command, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "signet-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, command)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "./cmd/"+command)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w: %s", command, err, bytes.TrimSpace(said))
	}
	return os.ReadFile(out)
}

// certificates are Mozilla's roots out of the pinned module x509roots, for HTTPS servers outside of the mesh.
func certificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil { // a PEM file cannot say them
			continue
		}
		if _, err := x509.ParseCertificate(root.Certificate); err != nil {
			return nil, fmt.Errorf("reading root certificates: %w", err)
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// file is one in a layer.
type file struct {
	path string
	mode int64
	body []byte
}

// layer packs files, their folders before them, all root's and as old as time.
func layer(files []file) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var made []string
	for _, f := range files {
		parts := strings.Split(f.path, "/")
		for i := 1; i < len(parts); i++ {
			dir := strings.Join(parts[:i], "/") + "/"
			if slices.Contains(made, dir) {
				continue
			}
			made = append(made, dir)
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
				return nil, err
			}
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.body)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	packed := out.Bytes()
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil },
		tarball.WithMediaType(types.OCILayer))
}
