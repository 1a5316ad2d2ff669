package control

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/cluster"
	"github.com/signet-mesh/signet/kube"
)

// kubeFlags are those of 'signetd kube' that are not of cluster.Config.
type kubeFlags struct {
	kubeconfig, control, metrics, webhooks string
	settings                               cli.Control
}

// kubeCommand is 'signetd kube'.
func kubeCommand() *cobra.Command {
	var cfg cluster.Config
	var flags kubeFlags
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
			cfg.Log = cli.NewLog("signet-system.signetd")
			if err := flags.complete(&cfg); err != nil {
				return err
			}
			p, err := cluster.New(cfg)
			if err != nil {
				return err
			}
			return p.Run(c.Context())
		},
	}
	flags.add(c, &cfg)
	return c
}

func (k *kubeFlags) add(c *cobra.Command, cfg *cluster.Config) {
	f := c.Flags()
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "file that says how the API server is reached (default: as a pod of the cluster)")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "trust domain of all SPIFFE IDs")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", "cluster.local", "what the names of Services end in")
	f.StringVar(&cfg.RootNamespace, "root-namespace", "", "namespace of mesh-wide objects and of the ConfigMap istio (default: the control plane's)")
	f.StringVar(&cfg.Revision, "revision", kube.DefaultRevision, "value of istio.io/rev that chooses this control plane")
	f.BoolVar(&cfg.Alone, "alone", false, "no Istio lives in this cluster: namespaces and pods that name no revision are this one's")
	f.BoolVar(&cfg.TakeOver, "take-over", false, "take namespaces and pods that name no revision though an Istio is there")
	f.BoolVar(&cfg.TokenReview, "token-review", false, "let the API server judge each new token (default: verify with its public keys)")
	f.DurationVar(&cfg.TTL, "workload-cert-ttl", 0, "lifetime of certificates for which none is asked (default 24h)")
	f.DurationVar(&cfg.MaxTTL, "max-workload-cert-ttl", 0, "longest lifetime that may be asked for (default 2160h)")
	f.StringVar(&k.control, "control-address", ":15012", "address of CA and ADS")
	f.StringVar(&k.metrics, "metrics-address", ":15014", "address of /metrics, /healthz/ready and /status")
	f.StringVar(&k.webhooks, "webhook-address", ":15017", "address of the webhooks")
	k.settings.Add(f)
}

// complete reads the environment and opens what is served.
func (k *kubeFlags) complete(cfg *cluster.Config) error {
	cfg.Instance, cfg.Namespace = os.Getenv("POD_NAME"), cmp.Or(os.Getenv("POD_NAMESPACE"), kube.SystemNamespace)
	if cfg.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("naming this replica: POD_NAME is not set: %w", err)
		}
		cfg.Instance = strings.ToLower(host)
	}
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(cfg.Revision) {
		return cli.Mistake(fmt.Errorf("--revision %q: want lower-case letters, digits and inner hyphens", cfg.Revision))
	}
	if err := cli.CheckTTL(cfg.TTL); err != nil {
		return err
	}
	if err := cli.CheckMaxTTL(cfg.MaxTTL, cfg.TTL); err != nil {
		return err
	}
	var err error
	if cfg.Control, err = k.settings.Settings(); err != nil {
		return err
	}
	if cfg.API, err = apiServer(k.kubeconfig); err != nil {
		return err
	}
	for _, l := range []struct {
		flag, address string
		into          *net.Listener
	}{{"--control-address", k.control, &cfg.Listener}, {"--metrics-address", k.metrics, &cfg.Metrics}, {"--webhook-address", k.webhooks, &cfg.Webhooks}} {
		if *l.into, err = net.Listen("tcp", l.address); err != nil {
			return fmt.Errorf("opening %s %s: %w", l.flag, l.address, err)
		}
	}
	return nil
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
