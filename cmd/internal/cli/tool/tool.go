// Package tool is the person's command: signet.
package tool

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cli/control"
	"github.com/signet-mesh/signet/cmd/internal/cli/sidecar"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
	"github.com/signet-mesh/signet/cmd/internal/up"
)

// Command is signet.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "signet",
		Short: "Mutual TLS, identities and access policies for the programs of this machine or mesh",
		Long: `signet runs and inspects a service mesh's security plane: a CA that gives every workload a SPIFFE
identity, sidecars that enforce mutual TLS with it, and Istio's routing and authorization objects
applied on that same path.

Start with:   signet up deploy/demo

Exit codes: 0 success, 1 a failure while running, 2 a mistake in flags, files or objects, and 3 where a
command says so (why: the request is denied or does not get there; status: something is to be mended).`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	plane := control.Command()
	plane.Use, plane.Hidden = up.RoleControl+" DIR", true
	proxy := sidecar.Command()
	proxy.Use, proxy.Hidden = up.RoleSidecar, true
	root.AddCommand(newUp(), newStatus(), newValidate(), newWhy(), newTest(), newSimulate(), newSuggest(), newTop(), newCA(), newInject(), newInstall(), newUninstall(), cli.NewVersion(), plane, proxy, newProgram())
	return root
}

const upHelp = `Run the mesh that DIR describes: a control plane (CA and configuration discovery), one sidecar process
for each WorkloadEntry with a service account, and the programs of DIR/Procfile.

DIR holds Istio's objects in *.yaml (WorkloadEntry, ServiceEntry, Sidecar, VirtualService,
DestinationRule, AuthorizationPolicy, PeerAuthentication, MeshConfig in the ConfigMap istio). They are
watched: a change takes effect within a second. A file that is broken or refused is reported with its
line and field, and what ran goes on running; at the start nothing is started then, and the exit code
is 2.

DIR/Procfile has a line "name: command" for each program, which /bin/sh runs in DIR; empty lines and
those that begin with # don't count. One that is named NAMESPACE.WORKLOAD starts when that workload's
sidecar is ready, with its http_proxy and no_proxy=127.0.0.1, and no other proxy variable. Programs
stay in the foreground: one that ends is reported with its exit code and last lines, what it left
running is ended, and it starts again after 200 ms to 10 s. The Procfile is followed like the objects:
entries that are new, gone or changed start, end or restart their program, and no other.

When every sidecar has its certificate and its configuration, a table (or with -o json one object on
one line) is printed to standard output, and never anything else. Logs and access logs go to standard
error. A workload whose address this machine does not have is reported and not waited for.

The CA's keys are kept in --state, mode 0600; the next start with the same directory has the same root.
One process at a time can hold it, and it serves one trust domain. The port of --control-address is the
one that sidecars elsewhere join at.

Ctrl-C (or SIGTERM) ends all of it within ten seconds; a second Ctrl-C at once. Nothing is left behind
either way, nor after a kill -9.

Exit codes: 0 it was asked to end, 1 a failure (a port or the state directory is taken), 2 a mistake in
flags, files or objects; nothing was started then.`

func newUp() *cobra.Command {
	var cfg up.Config
	var output string
	var settings cli.Control
	c := &cobra.Command{
		Use:   "up DIR",
		Short: "Run a whole mesh on this machine",
		Long:  upHelp,
		Example: `  signet up deploy/demo
  signet up --trust-domain shop.example --control-address 127.0.0.1:0 -o json ./mesh`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: cli.Directories,
		RunE: func(c *cobra.Command, a []string) error {
			var err error
			cfg.Dir, cfg.Stdout, cfg.Stderr, cfg.Log = a[0], c.OutOrStdout(), os.Stderr, cli.NewLog("signet-system.up")
			switch output {
			case "", "table":
			case "json":
				cfg.JSON = true
			default:
				return cli.Mistake(fmt.Errorf("--output %q: want table or json\nSee 'signet up --help'", output))
			}
			if cfg.Control, err = settings.Settings(); err != nil {
				return err
			}
			cfg.ControlArgs = settings.Args()
			if cfg.State, err = cli.StateDir(cfg.State, cfg.TrustDomain); err != nil {
				return err
			}
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("finding this executable: %w", err)
			}
			if st, err := os.Stat(cfg.Dir); err != nil {
				return cli.Mistake(err)
			} else if !st.IsDir() {
				return cli.Mistake(fmt.Errorf("%s is not a directory", cfg.Dir))
			}
			if err := cli.CheckTTL(cfg.TTL); err != nil {
				return err
			}
			if err := cli.CheckMaxTTL(cfg.MaxTTL, cfg.TTL); err != nil {
				return err
			}
			if err := cli.CheckAddress("--control-address", cfg.ControlAddress); err != nil {
				return err
			}
			if err := supervise.EndWithParent(); err != nil {
				return err
			}
			return up.Run(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of all SPIFFE IDs")
	f.StringVar(&cfg.State, "state", "", "directory that keeps the CA (default $XDG_STATE_HOME/signet/TRUST-DOMAIN)")
	f.DurationVar(&cfg.TTL, "workload-cert-ttl", 0, "lifetime of workload certificates (default 24h, at most 2160h)")
	f.DurationVar(&cfg.MaxTTL, "max-workload-cert-ttl", 0, "longest lifetime that the CA gives (default 2160h)")
	f.StringVar(&cfg.ControlAddress, "control-address", "127.0.0.1:15012", "address of CA and ADS; port 0 takes a free one")
	settings.Add(f)
	f.StringVarP(&output, "output", "o", "table", "what to print when ready: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newProgram() *cobra.Command {
	return &cobra.Command{
		Use: up.RoleProgram + " COMMAND", Hidden: true, Args: cli.Args(cobra.ExactArgs(1)),
		Short:   "Run a shell command and end what it leaves running",
		Long:    "Run a shell command until it ends or SIGTERM comes, and end everything that it started and left running. The exit code\nis the command's, 128 and the signal's number where one ended it.",
		Example: "  signet role-program 'exec sleep 1'",
		RunE: func(c *cobra.Command, a []string) error {
			code, err := supervise.RunProgram(c.Context(), a[0])
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return cli.Exit(code)
		},
	}
}
