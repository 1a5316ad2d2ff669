// Manifests makes the generated files under deploy: the CustomResourceDefinitions of the chart (Istio's out of the pinned module
// istio.io/api, ours by controller-gen) and the kustomize base, which is the chart rendered. 'make manifests' runs it; a test
// compares what it would make with what is there.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", "..", "the folder deploy, or another one to write to")
	base := flag.Bool("base", true, "make the kustomize base as well, by the command signet of this tree")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := definitions(ctx, filepath.Join(*out, "charts/signet/crds"))
	if err == nil && *base {
		err = kustomize(ctx, filepath.Join(*out, "kustomize/base"))
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

// definitions writes one file for each CustomResourceDefinition and removes files that nothing makes any more.
func definitions(ctx context.Context, dir string) error {
	files, err := istio(ctx)
	if err != nil {
		return err
	}
	own, err := ours(ctx)
	if err != nil {
		return err
	}
	for name, body := range own {
		files[name] = body
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if files[filepath.Base(f)] == nil {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return write(dir, files)
}

func write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kustomize renders the chart's default profile as 'signet install' does, its CustomResourceDefinitions apart.
func kustomize(ctx context.Context, dir string) error {
	all, err := run(ctx, "../..", "go", "run", "./cmd/signet", "install", "--offline")
	if err != nil {
		return err
	}
	var crds, rest [][]byte
	for _, doc := range bytes.Split(all, []byte("\n---\n")) {
		if bytes.Contains(doc, []byte("\nkind: CustomResourceDefinition\n")) {
			crds = append(crds, doc)
		} else {
			rest = append(rest, doc)
		}
	}
	const made = "# Made by 'make manifests' from the chart; change deploy/charts/signet instead.\n"
	return write(dir, map[string][]byte{
		"crds.yaml":          together(made, crds),
		"signet.yaml":        together(made, rest),
		"kustomization.yaml": []byte(made + "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [crds.yaml, signet.yaml]\n"),
	})
}

func together(head string, docs [][]byte) []byte {
	out := []byte(head)
	for _, d := range docs {
		out = append(out, "---\n"...)
		out = append(out, bytes.TrimPrefix(bytes.TrimSpace(d), []byte("---\n"))...)
		out = append(out, '\n')
	}
	return out
}

// run is what a program writes to standard output.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("running %s %s: %w", name, strings.Join(args, " "), err)
	}
	return out, nil
}
