package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/caclient"
	"github.com/signet-mesh/signet/cmd/internal/node"
	"github.com/signet-mesh/signet/cmd/internal/plane"
)

// Signetd is the control plane.
func Signetd() *cobra.Command {
	var cfg plane.Config
	var address, metrics string
	var listenFD, readyFD int
	c := &cobra.Command{
		Use:   "signetd DIR",
		Short: "Run the control plane: the CA and configuration discovery (ADS)",
		Long: `Run the control plane of the mesh that DIR describes (Istio's objects in *.yaml, watched). The CA and
ADS are served over TLS on one port; sidecars join with a token from 'signet ca token'.

An object that is refused does not stop the control plane: the last good version of a security object
goes on, one without is quarantined (it denies what it selects), and the log names file, line and field.

Exit codes: 0 it was asked to end, 1 a failure, 2 a mistake in flags.`,
		ValidArgsFunction: directories,
		Example:           `  signetd --state /var/lib/signet --control-address 0.0.0.0:15012 /etc/signet`,
		Args:              args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			cfg.Dir, cfg.Log = a[0], newLog("signet-system.signetd")
			var err error
			if cfg.State, err = stateDir(cfg.State, cfg.TrustDomain); err != nil {
				return err
			}
			if err := checkTTL(cfg.TTL); err != nil {
				return err
			}
			if cfg.Listener, err = openListener(address, listenFD); err != nil {
				return err
			}
			if metrics != "" {
				if cfg.Metrics, err = net.Listen("tcp", metrics); err != nil {
					return fmt.Errorf("opening metrics address %s: %w", metrics, err)
				}
			}
			cfg.OnReady = func() {
				cfg.Log.Info("control plane serves", "address", cfg.Listener.Addr().String(), "trust_domain", cfg.TrustDomain)
			}
			if readyFD > 0 {
				enc := json.NewEncoder(os.NewFile(uintptr(readyFD), "ready"))
				cfg.OnWorkloads = func(w []plane.Workload) { _ = enc.Encode(w) }
			}
			collectLess()
			return plane.New(cfg).Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of all SPIFFE IDs")
	f.StringVar(&cfg.State, "state", "", "directory that keeps the CA (default $XDG_STATE_HOME/signet/TRUST-DOMAIN)")
	f.DurationVar(&cfg.TTL, "workload-cert-ttl", 0, "lifetime of certificates for which none is asked (default 24h)")
	f.StringVar(&address, "control-address", "127.0.0.1:15012", "address of CA and ADS; port 0 takes a free one")
	f.StringVar(&metrics, "metrics-address", "", "address of /metrics, for example 127.0.0.1:15014 (default: not served)")
	f.IntVar(&listenFD, "listen-fd", 0, "inherited listening socket")
	f.IntVar(&readyFD, "ready-fd", 0, "inherited pipe that takes a line of JSON whenever the workloads change")
	_ = f.MarkHidden("listen-fd")
	_ = f.MarkHidden("ready-fd")
	return c
}

// collectLess lets the heap grow to five times what lives before it is collected, where GOGC does not say otherwise. An
// issuance leaves some 40 KiB of garbage and the control plane keeps a few MiB alive: at Go's default the collector takes a
// tenth of the CPU of a busy CA.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

func openListener(address string, fd int) (net.Listener, error) {
	if fd > 0 {
		file := os.NewFile(uintptr(fd), "control")
		defer file.Close()
		return net.FileListener(file)
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("opening control address %s: %w", address, err)
	}
	return ln, nil
}

// Proxy is the sidecar.
func Proxy() *cobra.Command {
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
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Control == "" || tokenPath == "" {
				return mistake{errors.New("--control and --token must be given\nSee 'signet-proxy --help'")}
			}
			cfg.Token = caclient.FileToken(tokenPath)
			text, err := cfg.Token()
			if err != nil {
				return mistake{fmt.Errorf("reading --token: %w", err)}
			}
			token, err := attest.ParseToken(text)
			if err != nil {
				return mistake{fmt.Errorf("reading --token %s: %w", tokenPath, err)}
			}
			name := token.Namespace + "." + token.Workload
			if err := proxyDirs(c, &cfg, name); err != nil {
				return err
			}
			if err := checkTTL(cfg.TTL); err != nil {
				return err
			}
			cfg.Log, cfg.AccessLog, cfg.Version = newLog(name), os.Stderr, Version()
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
	f.DurationVar(&cfg.TTL, "workload-cert-ttl", 0, "lifetime to ask for (default: the CA's)")
	f.IntVar(&readyFD, "ready-fd", 0, "inherited pipe that takes a line of JSON when ready")
	_ = f.MarkHidden("ready-fd")
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
	home, err := stateHome()
	if err != nil && (cfg.RunDir == "" || !c.Flags().Changed("state")) {
		return mistake{err}
	}
	if !c.Flags().Changed("state") {
		cfg.StateDir = filepath.Join(home, "sidecars", name)
	}
	if cfg.RunDir == "" {
		if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
			cfg.RunDir = filepath.Join(run, "signet", name)
		} else {
			cfg.RunDir = filepath.Join(home, "sidecars", name)
		}
	}
	if n := len(filepath.Join(cfg.RunDir, node.AdminSocket)); n > maxSocketPath {
		return mistake{fmt.Errorf("--run-dir %q: the paths of its sockets would have %d bytes, the limit is %d: give a shorter one", cfg.RunDir, n, maxSocketPath)}
	}
	return nil
}
