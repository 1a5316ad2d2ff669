package cli

import (
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/pflag"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/kube"
)

// Kube are the flags of 'signetd kube'. 'signet install' reads with them the command line that it writes, so that what the
// control plane would refuse is refused before it is applied.
type Kube struct {
	Kubeconfig                                      string
	TrustDomain, ClusterDomain                      string
	RootNamespace, Revision                         string
	Alone, TakeOver, TokenReview                    bool
	TTL, MaxTTL                                     time.Duration
	ControlAddress, MetricsAddress, WebhooksAddress string
	Control                                         Control
}

// Add adds the flags.
func (k *Kube) Add(f *pflag.FlagSet) {
	f.StringVar(&k.Kubeconfig, "kubeconfig", "", "file that says how the API server is reached (default: as a pod of the cluster)")
	f.StringVar(&k.TrustDomain, "trust-domain", "cluster.local", "trust domain of all SPIFFE IDs")
	f.StringVar(&k.ClusterDomain, "cluster-domain", "cluster.local", "what the names of Services end in")
	f.StringVar(&k.RootNamespace, "root-namespace", "", "namespace of mesh-wide objects and of the ConfigMap istio (default: the control plane's)")
	f.StringVar(&k.Revision, "revision", kube.DefaultRevision, "value of istio.io/rev that chooses this control plane")
	f.BoolVar(&k.Alone, "alone", false, "no Istio lives in this cluster: namespaces and pods that name no revision are this one's")
	f.BoolVar(&k.TakeOver, "take-over", false, "take namespaces and pods that name no revision though an Istio is there")
	f.BoolVar(&k.TokenReview, "token-review", false, "let the API server judge each new token as well (default: its public keys and the pod alone)")
	f.DurationVar(&k.TTL, "workload-cert-ttl", 0, "lifetime of certificates for which none is asked (default 24h)")
	f.DurationVar(&k.MaxTTL, "max-workload-cert-ttl", 0, "longest lifetime that may be asked for (default 2160h)")
	f.StringVar(&k.ControlAddress, "control-address", ":15012", "address of CA and ADS")
	f.StringVar(&k.MetricsAddress, "metrics-address", ":15014", "address of /metrics, /healthz/ready and /status")
	f.StringVar(&k.WebhooksAddress, "webhook-address", ":15017", "address of the webhooks")
	k.Control.Add(f)
}

// Validate judges the flags by themselves: no file is read and nothing is asked. Errors are mistakes of the caller.
func (k *Kube) Validate() error {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(k.Revision) {
		return Mistake(fmt.Errorf("--revision %q: want lower-case letters, digits and inner hyphens", k.Revision))
	}
	if _, err := identity.ControlPlane(k.TrustDomain); err != nil {
		return Mistake(fmt.Errorf("--trust-domain %q: want a SPIFFE trust domain such as cluster.local: %w", k.TrustDomain, err))
	}
	if err := CheckTTL(k.TTL); err != nil {
		return err
	}
	if err := CheckMaxTTL(k.MaxTTL, k.TTL); err != nil {
		return err
	}
	for _, a := range [][2]string{{"--control-address", k.ControlAddress}, {"--metrics-address", k.MetricsAddress}, {"--webhook-address", k.WebhooksAddress}} {
		if err := CheckAddress(a[0], a[1]); err != nil {
			return err
		}
	}
	return k.Control.Validate()
}
