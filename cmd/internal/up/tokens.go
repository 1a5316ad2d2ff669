package up

import (
	"context"
	"path/filepath"
	"time"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
)

// A sidecar's token is good for tokenTTL and replaced well before, so that one whose certificate ran out while the control
// plane was away can always begin again.
const (
	tokenTTL     = time.Hour
	tokenRefresh = 20 * time.Minute
)

const tokenFile = "token"

// mint puts a new join token where the sidecar looks for one, and returns its directory.
func (u *up) mint(namespace, name string) (dir string, err error) {
	token, err := attest.MintToken(u.cfg.State, namespace, name, tokenTTL)
	if err != nil {
		return "", err
	}
	if dir, err = u.run.of(namespace, name); err != nil {
		return "", err
	}
	return dir, ca.WriteDurable(filepath.Join(dir, tokenFile), []byte(token+"\n"))
}

func (u *up) refreshTokens(ctx context.Context) error {
	tick := time.NewTicker(tokenRefresh)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, w := range u.started() {
			if _, err := u.mint(w.Namespace, w.Name); err != nil {
				u.cfg.Log.Error("join token not refreshed", "workload", w.Namespace+"."+w.Name, "error", err)
			}
		}
	}
}
