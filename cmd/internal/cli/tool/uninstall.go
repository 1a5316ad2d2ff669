package tool

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/install"
	"github.com/signet-mesh/signet/kube"
)

const uninstallHelp = `Take Signet out of a Kubernetes cluster: the control plane and its webhooks, the trust bundle in every
namespace and what the control plane kept for itself. What was there before stays as it was, and so does what
an Istio beside it owns.

Without --purge the CustomResourceDefinitions that Signet installed stay, with the objects of their kinds, and
the CA in the Secret signet-ca with its namespace: an installation later goes on with them. With --purge they
are deleted, and the identities of all workloads end with the CA. The namespace is kept where it holds anything
that is not Signet's, such as a CA in the Secret cacerts; otherwise it is waited for until it is gone.

Pods that still have a sidecar go on until their certificates expire and then reach nobody. As long as there
are any it refuses; take the labels from their namespaces, restart them, and try again, or give --force.

What is to be deleted is listed and asked for on a terminal; elsewhere --yes is needed. --dry-run only lists.`

func newUninstall() *cobra.Command {
	var r remote
	var namespace, revision string
	var purge, yes, force, dry bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Signet out of a Kubernetes cluster",
		Long:  uninstallHelp,
		Example: `  signet uninstall
  signet uninstall --revision canary --yes
  signet uninstall --purge --dry-run`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := r.open(c.Context())
			if err != nil {
				return err
			}
			plan, err := install.PlanRemoval(c.Context(), k.cfg, namespace, revision, purge)
			if err != nil {
				return err
			}
			if plan.Empty() {
				fmt.Fprintf(c.ErrOrStderr(), "nothing of Signet's revision %q is in this cluster\n", revision)
				return nil
			}
			plan.Tell(c.ErrOrStderr())
			users := plan.InUse()
			if users != "" {
				fmt.Fprintf(c.ErrOrStderr(), "Pods that still have a sidecar, by namespace: %s\n", users)
			}
			switch {
			case dry:
				return nil
			case users != "" && !force:
				return cli.Mistake(fmt.Errorf("pods still have a sidecar and need the control plane; take the label from their namespaces and restart them, or give --force"))
			case !yes:
				if err := confirm(c.InOrStdin(), c.ErrOrStderr()); err != nil {
					return cli.Mistake(err)
				}
			}
			return plan.Run(c.Context(), c.OutOrStdout())
		},
	}
	s := c.Flags()
	s.StringVar(&revision, "revision", kube.DefaultRevision, "revision to take out")
	s.BoolVar(&purge, "purge", false, "delete the CA, the namespace, Signet's CustomResourceDefinitions and all objects of their kinds too")
	s.BoolVarP(&yes, "yes", "y", false, "do not ask")
	s.BoolVar(&force, "force", false, "even while pods still have a sidecar")
	s.BoolVar(&dry, "dry-run", false, "only list")
	addCluster(c, &r, &namespace)
	return c
}

// confirm asks on a terminal.
func confirm(in io.Reader, out io.Writer) error {
	f, ok := in.(*os.File)
	if ok {
		st, err := f.Stat()
		ok = err == nil && st.Mode()&os.ModeCharDevice != 0
	}
	if !ok {
		return fmt.Errorf("standard input is no terminal to ask on; give --yes")
	}
	fmt.Fprint(out, "Delete these? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && answer == "" {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return fmt.Errorf("not confirmed; nothing was deleted")
	}
	return nil
}
