package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/cmd/internal/supervise"
	"github.com/signet-mesh/signet/cmd/internal/up"
	"github.com/signet-mesh/signet/identity"
)

// Signet is the person's tool.
func Signet() *cobra.Command {
	root := &cobra.Command{
		Use:   "signet",
		Short: "Mutual TLS, identities and access policies for the programs of this machine or mesh",
		Long: `signet runs and inspects a service mesh's security plane: a CA that gives every workload a SPIFFE
identity, sidecars that enforce mutual TLS with it, and Istio's routing and authorization objects
applied on that same path.

Start with:   signet up deploy/demo

Exit codes: 0 success, 1 a failure while running, 2 a mistake in flags, files or objects.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	control := Signetd()
	control.Use, control.Hidden = up.RoleControl+" DIR", true
	sidecar := Proxy()
	sidecar.Use, sidecar.Hidden = up.RoleSidecar, true
	root.AddCommand(newUp(), newValidate(), newCA(), newVersion(), control, sidecar, newProgram())
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
	c := &cobra.Command{
		Use:   "up DIR",
		Short: "Run a whole mesh on this machine",
		Long:  upHelp,
		Example: `  signet up deploy/demo
  signet up --trust-domain shop.example --control-address 127.0.0.1:0 -o json ./mesh`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: directories,
		RunE: func(c *cobra.Command, a []string) error {
			var err error
			cfg.Dir, cfg.Stdout, cfg.Stderr, cfg.Log = a[0], c.OutOrStdout(), os.Stderr, newLog("signet-system.up")
			switch output {
			case "", "table":
			case "json":
				cfg.JSON = true
			default:
				return mistake{fmt.Errorf("--output %q: want table or json\nSee 'signet up --help'", output)}
			}
			if cfg.State, err = stateDir(cfg.State, cfg.TrustDomain); err != nil {
				return err
			}
			if cfg.Executable, err = os.Executable(); err != nil {
				return fmt.Errorf("finding this executable: %w", err)
			}
			if st, err := os.Stat(cfg.Dir); err != nil {
				return mistake{err}
			} else if !st.IsDir() {
				return mistake{fmt.Errorf("%s is not a directory", cfg.Dir)}
			}
			if err := checkTTL(cfg.TTL); err != nil {
				return err
			}
			if err := checkAddress("--control-address", cfg.ControlAddress); err != nil {
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
	f.StringVar(&cfg.ControlAddress, "control-address", "127.0.0.1:15012", "address of CA and ADS; port 0 takes a free one")
	f.StringVarP(&output, "output", "o", "table", "what to print when ready: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// directories completes one argument with the names of directories.
func directories(_ *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(a) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// checkTTL refuses lifetimes that the CA would refuse or that rotation can't keep up with.
func checkTTL(d time.Duration) error {
	const least, most = 5 * time.Second, 90 * 24 * time.Hour
	if d != 0 && (d < least || d > most) {
		return mistake{fmt.Errorf("--workload-cert-ttl %s: want between %s and %s", d, least, most)}
	}
	return nil
}

// checkAddress refuses what can't be listened on whatever the machine.
func checkAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return mistake{fmt.Errorf("%s %q: want ADDRESS:PORT", flag, address)}
	}
	return nil
}

// stateDir is the absolute path of the state directory, which the trust domain names where none is given.
func stateDir(given, trustDomain string) (string, error) {
	if _, err := identity.ControlPlane(trustDomain); err != nil {
		return "", mistake{fmt.Errorf("--trust-domain %q: want a SPIFFE trust domain such as cluster.local: %w", trustDomain, err)}
	}
	if strings.Trim(trustDomain, ".") == "" && given == "" {
		return "", mistake{fmt.Errorf("--trust-domain %q can't name a directory: give --state", trustDomain)}
	}
	if given != "" {
		return filepath.Abs(given)
	}
	home, err := stateHome()
	if err != nil {
		return "", mistake{err}
	}
	return filepath.Join(home, trustDomain), nil
}

func newProgram() *cobra.Command {
	return &cobra.Command{
		Use: up.RoleProgram + " COMMAND", Hidden: true, Args: args(cobra.ExactArgs(1)),
		Short:   "Run a shell command and end what it leaves running",
		Long:    "Run a shell command until it ends or SIGTERM comes, and end everything that it started and left running. The exit code\nis the command's, 128 and the signal's number where one ended it.",
		Example: "  signet role-program 'exec sleep 1'",
		RunE: func(c *cobra.Command, a []string) error {
			code, err := supervise.RunProgram(c.Context(), a[0])
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return exit{code}
		},
	}
}

func newCA() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "Work with the CA of this machine", Args: args(cobra.NoArgs),
		Long: `Work with the CA that 'signet up' or 'signetd' keeps on this machine, in its state directory. The
control plane may be running.`,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(newToken())
	return c
}

func newToken() *cobra.Command {
	var state, trustDomain string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "token NAMESPACE/WORKLOAD",
		Short: "Mint a join token for one workload",
		Long: `Mint a join token with which the sidecar of one WorkloadEntry gets its first certificate:

    signet ca token shop/cart > cart.token          on the CA's host
    signet-proxy --control HOST:15012 --token cart.token    on the workload's

The token carries the hash of the CA's root, so that the sidecar knows whom to trust. It is good for the
first key that presents it, until it expires. Keep it secret: whoever presents it first is the workload.
The control plane may be running; it need not be restarted.`,
		Example: `  signet ca token --ttl 10m --state /var/lib/signet shop/cart`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			namespace, workload, ok := strings.Cut(a[0], "/")
			if !ok || namespace == "" || workload == "" {
				return mistake{fmt.Errorf("%q: want NAMESPACE/WORKLOAD", a[0])}
			}
			dir, err := stateDir(state, trustDomain)
			if err != nil {
				return err
			}
			token, err := attest.MintToken(dir, namespace, workload, ttl)
			if err != nil {
				return mistake{err}
			}
			fmt.Fprintln(c.OutOrStdout(), token)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&state, "state", "", "state directory of the CA (default $XDG_STATE_HOME/signet/TRUST-DOMAIN)")
	f.StringVar(&trustDomain, "trust-domain", "cluster.local", "trust domain, which names the default state directory")
	f.DurationVar(&ttl, "ttl", attest.DefaultTokenTTL, "how long the token may be redeemed")
	return c
}
