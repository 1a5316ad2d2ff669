// Package sidecar is the sidecar's command: signet-proxy, and that role of signet.
package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/node"
)

// Command is signet-proxy.
func Command() *cobra.Command {
	var cfg node.Config
	var tokenPath string
	var readyFD int
	c := &cobra.Command{
		Use:   "signet-proxy",
		Short: "Run the sidecar of one workload",
		Long: `Run the sidecar of the workload that a join token was minted for: it gets its certificate from the
control plane and renews it, serves it to local processes over SDS, and enforces mutual TLS, routes and
policies in front of the workload's program.

Key and certificate are kept in --state, so that a restart needs no new token; --state= keeps them in
memory only. Without the control plane it serves on with what it has, until its certificate ends.

Exit codes: 0 it was asked to end, 1 a failure, 2 a mistake in flags or in the token.`,
		Example: `  signet-proxy --control 10.0.0.1:15012 --token /etc/signet/cart.token`,
		Args:    cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Control == "" || tokenPath == "" {
				return cli.Mistake(errors.New("--control and --token must be given\nSee 'signet-proxy --help'"))
			}
			cfg.Token = caclient.FileToken(tokenPath)
			text, err := cfg.Token()
			if err != nil {
				return cli.Mistake(fmt.Errorf("reading --token: %w", err))
			}
			token, err := attest.ParseToken(text)
			if err != nil {
				return cli.Mistake(fmt.Errorf("reading --token %s: %w", tokenPath, err))
			}
			name := token.Namespace + "." + token.Workload
			if err := proxyDirs(c, &cfg, name); err != nil {
				return err
			}
			if err := cli.CheckTTL(cfg.TTL); err != nil {
				return err
			}
			cfg.Log, cfg.AccessLog, cfg.Version = cli.NewLog(name), os.Stderr, cli.Version()
			if readyFD > 0 {
				enc := json.NewEncoder(os.NewFile(uintptr(readyFD), "ready"))
				cfg.OnReady = func(s node.Status) { _ = enc.Encode(s) }
			} else {
				cfg.OnReady = func(s node.Status) {
					cfg.Log.Info("sidecar is ready", "spiffe_id", s.SPIFFEID, "inbound", s.Inbound, "outbound", s.Outbound,
						"sds", s.SDS, "not_after", s.NotAfter.Format(time.RFC3339))
				}
			}
			n, err := node.New(cfg)
			if err != nil {
				return err
			}
			if readyFD > 0 { // whoever started it may be gone
				defer removeRunDir(cfg.RunDir)
			}
			return n.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Control, "control", "", "host:port of the control plane (required)")
	f.StringVar(&tokenPath, "token", "", "file with the join token, from 'signet ca token' (required)")
	f.StringVar(&cfg.StateDir, "state", "", "directory that keeps key and certificate (default $XDG_STATE_HOME/signet/sidecars/NAMESPACE.WORKLOAD)")
	f.StringVar(&cfg.RunDir, "run-dir", "", "directory of the SDS and admin sockets (default $XDG_RUNTIME_DIR/signet/NAMESPACE.WORKLOAD, else the state directory)")
	f.StringVar(&cfg.CacheDir, "cache", "", "directory that keeps the last good policy bundles and key sets (default: cache in --state)")
	f.DurationVar(&cfg.TTL, "workload-cert-ttl", 0, "lifetime to ask for (default: the CA's)")
	f.IntVar(&readyFD, "ready-fd", 0, "inherited pipe that takes a line of JSON when ready")
	_ = f.MarkHidden("ready-fd")
	c.AddCommand(podCommand(), captureCommand(), waitCommand())
	return c
}

// removeRunDir leaves nothing behind: the directory, and the one above it if this was the last.
func removeRunDir(dir string) {
	_ = os.RemoveAll(dir)
	_ = os.Remove(filepath.Dir(dir))
}

// maxSocketPath is how many bytes the path of a Unix socket may have (sun_path of sockaddr_un less its final NUL).
const maxSocketPath = 107

// proxyDirs fills in the default directories. --state= given empty means memory only.
func proxyDirs(c *cobra.Command, cfg *node.Config, name string) error {
	home, err := cli.StateHome()
	if err != nil && (cfg.RunDir == "" || !c.Flags().Changed("state")) {
		return cli.Mistake(err)
	}
	if !c.Flags().Changed("state") {
		cfg.StateDir = filepath.Join(home, "sidecars", name)
	}
	if cfg.CacheDir == "" && cfg.StateDir != "" {
		cfg.CacheDir = filepath.Join(cfg.StateDir, "cache")
	}
	if cfg.RunDir == "" {
		if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
			cfg.RunDir = filepath.Join(run, "signet", name)
		} else {
			cfg.RunDir = filepath.Join(home, "sidecars", name)
		}
	}
	if n := len(filepath.Join(cfg.RunDir, node.AdminSocket)); n > maxSocketPath {
		return cli.Mistake(fmt.Errorf("--run-dir %q: the paths of its sockets would have %d bytes, the limit is %d: give a shorter one", cfg.RunDir, n, maxSocketPath))
	}
	return nil
}
