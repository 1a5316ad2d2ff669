// Package control is the control plane's command: signetd, and that role of signet.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/plane"
)

// Command is signetd.
func Command() *cobra.Command {
	var cfg plane.Config
	var address, metrics, ratelimit string
	var settings cli.Control
	var listenFD, readyFD int
	c := &cobra.Command{
		Use:   "signetd DIR",
		Short: "Run the control plane: the CA and configuration discovery (ADS)",
		Long: `Run the control plane of the mesh that DIR describes (Istio's objects in *.yaml, watched). The CA and
ADS are served over TLS on one port; sidecars join with a token from 'signet ca token'.

An object that is refused does not stop the control plane: the last good version of a security object
goes on, one without is quarantined (it denies what it selects), and the log names file, line and field.

Exit codes: 0 it was asked to end, 1 a failure, 2 a mistake in flags.`,
		ValidArgsFunction: cli.Directories,
		Example:           `  signetd --state /var/lib/signet --control-address 0.0.0.0:15012 /etc/signet`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			cfg.Dir, cfg.Log = a[0], cli.NewLog("signet-system.signetd")
			var err error
			if cfg.State, err = cli.StateDir(cfg.State, cfg.TrustDomain); err != nil {
				return err
			}
			if err := cli.CheckTTL(cfg.TTL); err != nil {
				return err
			}
			if err := cli.CheckMaxTTL(cfg.MaxTTL, cfg.TTL); err != nil {
				return err
			}
			if cfg.Control, err = settings.Settings(); err != nil {
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
			if ratelimit != "" {
				if cfg.Control.GetRateLimitStore() == nil {
					return cli.Mistake(errors.New("--ratelimit-address needs --redis: limits are shared through it"))
				}
				if cfg.RateLimit, err = net.Listen("tcp", ratelimit); err != nil {
					return fmt.Errorf("opening rate limit address %s: %w", ratelimit, err)
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
	f.DurationVar(&cfg.MaxTTL, "max-workload-cert-ttl", 0, "longest lifetime that may be asked for (default 2160h)")
	f.StringVar(&address, "control-address", "127.0.0.1:15012", "address of CA and ADS; port 0 takes a free one")
	f.StringVar(&metrics, "metrics-address", "", "address of /metrics, for example 127.0.0.1:15014 (default: not served)")
	f.StringVar(&ratelimit, "ratelimit-address", "", "address of Envoy's rate limit service (gRPC in plaintext, for Envoys one trusts), for example 127.0.0.1:18081; needs --redis (default: not served)")
	settings.Add(f)
	f.IntVar(&listenFD, "listen-fd", 0, "inherited listening socket")
	f.IntVar(&readyFD, "ready-fd", 0, "inherited pipe that takes a line of JSON whenever the workloads change")
	_ = f.MarkHidden("listen-fd")
	_ = f.MarkHidden("ready-fd")
	c.AddCommand(kubeCommand())
	return c
}

// collectLess lets the heap grow to five times what lives before it is collected, where GOGC does not say otherwise. An
// issuance leaves some 40 KiB of garbage and the control plane keeps a few MiB alive: at Go's default the collector takes a
// tenth of the CPU of a busy CA. A cluster's control plane (kubeCommand) keeps hundreds of times that: there it would only be memory.
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
