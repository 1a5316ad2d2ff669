package caclient

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/signet-mesh/signet/certs"
)

// maxTokenBytes bounds a token's file: service-account tokens have one to two kilobytes, identity/jwt reads 16 KiB.
const maxTokenBytes = 16 << 10

// StaticToken is a source of one token.
func StaticToken(token string) TokenSource {
	return func() (string, error) { return token, nil }
}

// FileToken reads the token from a file whenever it is needed, so that an operator, or the kubelet, can put a new one in
// its place. Space around it is cut off; more than 16 KiB is an error.
func FileToken(path string) TokenSource {
	return func() (string, error) {
		b, err := readFile(path, maxTokenBytes)
		return strings.TrimSpace(string(b)), err
	}
}

// FileRoots reads roots in PEM from a file whenever they are needed.
func FileRoots(path string) func() ([]*x509.Certificate, error) {
	return func() ([]*x509.Certificate, error) {
		b, err := readFile(path, certs.MaxPEM)
		if err != nil {
			return nil, err
		}
		roots, err := certs.ParseChainPEM(b)
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", path, err)
		}
		return roots, nil
	}
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %q: %w", path, err)
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("reading %q: more than %d bytes", path, limit)
	}
	return b, nil
}
