package caclient

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/signet-mesh/signet/ca/attest"
)

// StaticToken is a source of one token.
func StaticToken(token string) TokenSource {
	return func() (string, error) { return token, nil }
}

// FileToken reads the token from a file whenever it is needed, so that an operator can put a new one in its place. Space
// around it is cut off; more than attest.MaxTokenBytes is an error.
func FileToken(path string) TokenSource {
	return func() (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, attest.MaxTokenBytes+64))
		if err != nil {
			return "", fmt.Errorf("reading %q: %w", path, err)
		}
		return strings.TrimSpace(string(b)), nil
	}
}
