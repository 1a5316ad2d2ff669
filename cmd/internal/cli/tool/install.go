package tool

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/install"
	"github.com/signet-mesh/signet/kube"
)

const installHelp = `Print the objects that install Signet in a Kubernetes cluster, for kubectl apply -f -: the namespace, the
CustomResourceDefinitions, the control plane and its webhooks. They are those of the Helm chart, which is
built in. What was decided is told on standard error; nothing is changed in the cluster.

The cluster of the kubeconfig is looked at first (with --offline it is not, and nobody is assumed there):

  No Istio lives there    the labels that name no revision are taken (istio-injection=enabled on a namespace,
                          sidecar.istio.io/inject="true" on a pod), beside istio.io/rev=REVISION, and the
                          trust bundle is published as ConfigMap istio-ca-root-cert as well.
  An Istio lives there    only istio.io/rev=REVISION is taken, until --take-over is given.
  Another revision of     the same: it keeps the labels, and both have one CA. With --take-over the new one
  Signet lives there      takes them as well; uninstall the old one then.
  This revision is there  what it has it keeps, what --take-over took too, unless values say takeOver=false.

CustomResourceDefinitions that are there and are not Signet's are left alone, and so is a namespace that is
there.

Values come from the profile, then from --values in their order, then from --set, then from the flags that
name one. They are those of the chart's values.yaml, and an unknown one is a mistake, as is one that the
API server or the control plane would refuse.

Applied again, nothing is written. kubectl still calls the PodDisruptionBudget configured, whose selector
it never compares.

Exit codes: 0 the objects are printed, 1 the cluster could not be looked at, 2 a mistake in flags or values.`

func newInstall() *cobra.Command {
	var o install.Options
	var r remote
	var offline bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Print what installs Signet in a Kubernetes cluster",
		Long:  installHelp,
		Example: `  signet install | kubectl apply -f -
  signet install --profile demo --set trustDomain=shop.example | kubectl apply -f -
  signet install --revision canary --tag 0.6.0 | kubectl apply -f -
  signet install --offline --values production.yaml > signet.yaml`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			values, err := o.Values()
			if err != nil {
				return cli.Mistake(err)
			}
			var found *install.Survey
			if !offline {
				k, err := r.open(c.Context())
				if err == nil {
					found, err = install.Look(c.Context(), k.cfg, o.Namespace, install.Revision(values))
				}
				if err != nil {
					return fmt.Errorf("%w\n--offline prints the objects without a look, for a cluster where no Istio lives", err)
				}
				if err := found.Decide(values); err != nil {
					return cli.Mistake(err)
				}
			}
			made, err := install.Render(values, o.Namespace, found.Version())
			if err != nil {
				return cli.Mistake(err)
			}
			var kept []string
			if found != nil {
				kept = made.Without(found)
			}
			made.Tell(c.ErrOrStderr(), &o, found, kept)
			return made.Print(c.OutOrStdout())
		},
	}
	s := c.Flags()
	s.StringVar(&o.Profile, "profile", "default", "profile: "+strings.Join(install.Profiles(), ", "))
	s.StringArrayVarP(&o.Files, "values", "f", nil, "file of values in YAML, - for standard input; may be given again")
	s.StringArrayVar(&o.Set, "set", nil, "value as KEY=VALUE, Helm's form; may be given again")
	s.StringVar(&o.Revision, "revision", "", "revision, what istio.io/rev names (default "+kube.DefaultRevision+")")
	s.BoolVar(&o.TakeOver, "take-over", false, "take the labels that name no revision from the Istio, or the other revision, that lives there")
	s.StringVar(&o.Hub, "hub", "", "registry and path of the images (default the chart's)")
	s.StringVar(&o.Tag, "tag", "", "tag of the images (default the chart's version)")
	s.BoolVar(&offline, "offline", false, "look at no cluster")
	addCluster(c, &r, &o.Namespace)
	_ = c.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(install.Profiles(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// addCluster adds the flags that lead to a cluster and to the control plane's namespace in it.
func addCluster(c *cobra.Command, r *remote, namespace *string) {
	f := c.Flags()
	f.StringVar(&r.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&r.context, "context", "", "context of the kubeconfig (default its current one)")
	f.StringVarP(namespace, "namespace", "n", kube.SystemNamespace, "namespace of the control plane")
	_ = c.MarkFlagFilename("kubeconfig")
	_ = c.RegisterFlagCompletionFunc("context", r.completeContexts)
}
