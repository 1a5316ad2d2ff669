// Package cluster_test runs Signet in a real single-node, dual-stack Kubernetes: etcd, kube-apiserver, controller manager, scheduler,
// kubelet, containerd, kube-proxy and CoreDNS, in namespaces of their own on this machine (folder node). Nothing is left
// behind.
//
// The test program starts the cluster, runs itself again inside the cluster's namespaces, and takes it down. With
// SIGNET_CLUSTER=DIR of a cluster that is up already (node/up.sh), it uses that one and leaves it.
package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inside says, in the environment, that this process is in the cluster's namespaces.
const inside = "SIGNET_CLUSTER_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

// outside brings a cluster up, runs the tests in it and takes it down.
func outside() (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	home := os.Getenv("SIGNET_CLUSTER")
	own := home == ""
	if own {
		if home, err = os.MkdirTemp("", "signet-cluster-"); err != nil {
			return 1, err
		}
		os.Setenv("SIGNET_CLUSTER", home)
		defer func() {
			if code == 0 && err == nil {
				os.Unsetenv("KEEP")
			}
			err = errors.Join(err, script(context.WithoutCancel(ctx), "down.sh"))
		}()
	}
	if err := images(ctx, filepath.Join(home, "images")); err != nil {
		return 1, err
	}
	if own {
		if err := script(ctx, "build.sh"); err != nil {
			return 1, fmt.Errorf("building the cluster: %w", err)
		}
		if err := script(ctx, "up.sh"); err != nil {
			return 1, fmt.Errorf("starting the cluster: %w", err)
		}
	} else if err := script(ctx, "import.sh"); err != nil {
		return 1, fmt.Errorf("importing images: %w", err)
	}
	if _, err := helmPath(ctx); err != nil { // inside there is no network
		return 1, err
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	c := exec.CommandContext(ctx, "node/in.sh", append([]string{self}, os.Args[1:]...)...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), inside+"=1"), os.Stdout, os.Stderr
	err = c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func script(ctx context.Context, name string) error {
	c := exec.CommandContext(ctx, filepath.Join("node", name))
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	return c.Run()
}

// helmPath builds Helm, unless it is built, and says where it is.
func helmPath(ctx context.Context) (string, error) {
	c := exec.CommandContext(ctx, "go", "tool", "-n", "helm")
	c.Dir, c.Stderr = "../helm", os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("building Helm: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// images puts what the pods run into a folder: Signet's images and the tests' application. It leaves bin/signet as well.
func images(ctx context.Context, dir string) error {
	for _, target := range []string{"build", "images"} {
		c := exec.CommandContext(ctx, "make", "-s", "-C", "../..", target)
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("make %s: %w", target, err)
		}
	}
	archives, err := filepath.Glob("../../bin/images/*.tar")
	if err != nil || len(archives) == 0 {
		return fmt.Errorf("make images left no archives in bin/images: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, a := range archives {
		b, err := os.ReadFile(a)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(a)), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	bin := filepath.Join(os.TempDir(), fmt.Sprintf("signet-cluster-app-%d", os.Getpid()))
	defer os.Remove(bin)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./app")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the application: %w", err)
	}
	for _, name := range []string{"app", "pause"} {
		c := exec.CommandContext(ctx, "node/mkimage.sh", "registry.local/"+name+":1", bin, filepath.Join(dir, name+".tar"))
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("making image %s: %w", name, err)
		}
	}
	return nil
}
