package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
)

// Limits on a bundle.
const (
	// MaxCompressed is the most bytes of a bundle as it is served, MaxContent of all its files together. A sidecar holds data
	// in memory as a tree, which takes a multiple of that.
	MaxCompressed = 16 << 20
	MaxContent    = 64 << 20
	// MaxFiles is the most files and directories in it.
	MaxFiles = 10_000
)

// Read reads a bundle, a gzipped tarball, and verifies it by key: nil accepts an unsigned one only. The paths of its modules
// and data are inside the roots of its manifest. Delta bundles and ones compiled to WebAssembly are refused.
func Read(raw []byte, etag string, key *opabundle.VerificationConfig) (*opabundle.Bundle, error) {
	if err := measure(raw); err != nil {
		return nil, err
	}
	loader := opabundle.NewTarballLoaderWithBaseURL(bytes.NewReader(raw), "").WithSizeLimitBytes(MaxContent)
	b, err := opabundle.NewCustomReader(loader).
		WithSizeLimitBytes(MaxContent).
		WithBundleVerificationConfig(key).
		WithBundleEtag(etag).
		WithLazyLoadingMode(false).
		Read()
	switch {
	case err != nil:
		return nil, err
	case b.Type() != opabundle.SnapshotBundleType:
		return nil, errors.New("it is a delta bundle; only snapshots are taken")
	case len(b.WasmModules) > 0:
		return nil, fmt.Errorf("%q is WebAssembly; only Rego is evaluated", b.WasmModules[0].Path)
	}
	return &b, nil
}

// measure holds an archive against the limits before anything keeps its content, and reads it to its checksum.
func measure(raw []byte) error {
	if len(raw) > MaxCompressed {
		return fmt.Errorf("more than %d bytes", MaxCompressed)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("unzipping: %w", err)
	}
	// Headers and padding count too: what is bounded is work as well as memory.
	limited := &io.LimitedReader{R: unzipped, N: MaxContent + 1}
	content := int64(0)
	archive := tar.NewReader(limited)
	for files := 0; ; files++ {
		_, err := archive.Next()
		if err == io.EOF {
			break
		}
		if files >= MaxFiles {
			return fmt.Errorf("more than %d files", MaxFiles)
		}
		if err == nil {
			var n int64
			n, err = io.Copy(io.Discard, io.LimitReader(archive, MaxContent+1-content)) // of a sparse file there is more than was read
			content += n
		}
		if limited.N == 0 || content > MaxContent {
			return fmt.Errorf("more than %d bytes of content", MaxContent)
		}
		if err != nil {
			return fmt.Errorf("reading archive: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return fmt.Errorf("unzipping: %w", err)
	}
	if limited.N == 0 {
		return fmt.Errorf("more than %d bytes of content", MaxContent)
	}
	return nil
}
