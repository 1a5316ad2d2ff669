// Images builds Signet's container images without a container engine: static binaries on nothing, as docker-archives that
// containerd and Docker import, and as one OCI layout; -push sends them to a registry. The same tree gives the same bytes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// order is what the command line asks for.
type order struct {
	root     string // of the repository
	hub, tag string
	out      string
	arches   []string
	push     bool
}

func main() {
	var o order
	var arches string
	flag.StringVar(&o.root, "root", "../..", "root of the repository")
	flag.StringVar(&o.hub, "hub", "registry.local/signet", "registry and path: images are HUB/NAME:TAG")
	flag.StringVar(&o.tag, "tag", "latest", "tag")
	flag.StringVar(&o.out, "out", "../../bin/images", "folder to write NAME.tar (docker-archive) and oci (OCI layout) to")
	flag.StringVar(&arches, "arch", runtime.GOARCH, "architectures, comma-separated; NAME.tar is of the first, NAME-ARCH.tar of the others")
	flag.BoolVar(&o.push, "push", false, "send the images to the registry, with the credentials of Docker's configuration")
	flag.Parse()
	o.arches = strings.Split(arches, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := build(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// build makes every image for every architecture.
func build(ctx context.Context, o *order) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	oci := filepath.Join(o.out, "oci")
	if err := os.RemoveAll(oci); err != nil {
		return err
	}
	store, err := layout.Write(oci, empty.Index)
	if err != nil {
		return fmt.Errorf("writing %s: %w", oci, err)
	}
	for _, c := range contents() {
		ref, err := name.NewTag(o.hub+"/"+c.name+":"+o.tag, name.StrictValidation)
		if err != nil {
			return fmt.Errorf("reading -hub and -tag: %w", err)
		}
		index := v1.ImageIndex(empty.Index)
		for i, arch := range o.arches {
			image, err := c.image(ctx, o, arch)
			if err != nil {
				return fmt.Errorf("building %s for %s: %w", ref, arch, err)
			}
			file := c.name + ".tar"
			if i > 0 {
				file = c.name + "-" + arch + ".tar"
			}
			if err := tarball.WriteToFile(filepath.Join(o.out, file), ref, image); err != nil {
				return fmt.Errorf("writing %s: %w", file, err)
			}
			platform := &v1.Platform{OS: "linux", Architecture: arch}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
		}
		annotation := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref.String()})
		if err := store.AppendIndex(index, annotation); err != nil {
			return fmt.Errorf("writing %s: %w", oci, err)
		}
		if o.push {
			if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
				return fmt.Errorf("pushing %s: %w", ref, err)
			}
		}
		fmt.Println(ref)
	}
	return nil
}
