package tool

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/cmd/internal/cli"
)

func newCA() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "Work with the CA of this machine", Args: cli.Args(cobra.NoArgs),
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

    (umask 077; signet ca token shop/cart > cart.token)     on the CA's host
    signet-proxy --control HOST:15012 --token cart.token    on the workload's

The token carries the hash of the CA's root, so that the sidecar knows whom to trust. It is good for the
first key that presents it, until it expires. Keep it secret: whoever presents it first is the workload.
The control plane may be running; it need not be restarted. Whether there is such a WorkloadEntry is
seen when the token is redeemed.`,
		Example: `  signet ca token --ttl 10m --state /var/lib/signet shop/cart`,
		Args:    cli.Args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			namespace, workload, ok := strings.Cut(a[0], "/")
			if !ok || namespace == "" || workload == "" {
				return cli.Mistake(fmt.Errorf("%q: want NAMESPACE/WORKLOAD", a[0]))
			}
			dir, err := cli.StateDir(state, trustDomain)
			if err != nil {
				return err
			}
			token, err := attest.MintToken(dir, namespace, workload, ttl)
			if err != nil {
				return cli.Mistake(err)
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
