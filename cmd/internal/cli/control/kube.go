package control

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cluster"
	"github.com/signet-mesh/signet/kube"
)

// kubeCommand is 'signetd kube'.
func kubeCommand() *cobra.Command {
	var flags cli.Kube
	c := &cobra.Command{
		Use:   "kube",
		Short: "Run the control plane of a Kubernetes cluster",
		Long: `Run the control plane of a Kubernetes cluster: the CA, configuration discovery (ADS) and the webhooks,
fed by the API server. Any number of replicas serve at once; one of them leads.

POD_NAME and POD_NAMESPACE say which replica this is and where it lives.

Exit codes: 0 it was asked to end, 1 a failure, 2 a mistake in flags.`,
		Example: `  signetd kube --revision signet --alone
  POD_NAME=me POD_NAMESPACE=signet-system signetd kube --kubeconfig ~/.kube/config`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := configure(&flags)
			if err != nil {
				return err
			}
			p, err := cluster.New(cfg)
			if err != nil {
				return err
			}
			return p.Run(c.Context())
		},
	}
	flags.Add(c.Flags())
	return c
}

// configure judges the flags, reads the environment and opens what is served.
func configure(k *cli.Kube) (cluster.Config, error) {
	cfg := cluster.Config{Instance: os.Getenv("POD_NAME"), Namespace: cmp.Or(os.Getenv("POD_NAMESPACE"), kube.SystemNamespace),
		RootNamespace: k.RootNamespace, TrustDomain: k.TrustDomain, ClusterDomain: k.ClusterDomain, Revision: k.Revision,
		Alone: k.Alone, TakeOver: k.TakeOver, TokenReview: k.TokenReview, TTL: k.TTL, MaxTTL: k.MaxTTL, Log: cli.NewLog("signet-system.signetd")}
	if cfg.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return cfg, fmt.Errorf("naming this replica: POD_NAME is not set: %w", err)
		}
		cfg.Instance = strings.ToLower(host)
	}
	err := k.Validate()
	if err != nil {
		return cfg, err
	}
	if cfg.Control, err = k.Control.Settings(); err != nil {
		return cfg, err
	}
	if cfg.API, err = apiServer(k.Kubeconfig); err != nil {
		return cfg, err
	}
	for _, l := range []struct {
		flag, address string
		into          *net.Listener
	}{{"--control-address", k.ControlAddress, &cfg.Listener}, {"--metrics-address", k.MetricsAddress, &cfg.Metrics}, {"--webhook-address", k.WebhooksAddress, &cfg.Webhooks}} {
		if *l.into, err = net.Listen("tcp", l.address); err != nil {
			return cfg, fmt.Errorf("opening %s %s: %w", l.flag, l.address, err)
		}
	}
	return cfg, nil
}

func apiServer(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, cli.Mistake(errors.New("this is no pod of a cluster: give --kubeconfig, or a directory instead of 'kube'"))
		}
		return cfg, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, cli.Mistake(fmt.Errorf("reading --kubeconfig %s: %w", kubeconfig, err))
	}
	return cfg, nil
}
