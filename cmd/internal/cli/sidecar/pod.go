package sidecar

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/node"
	"github.com/signet-mesh/signet/proxy/dns"
)

// Where an injected pod has what the sidecar needs; the names of package kube, which would bring Kubernetes' words along.
const (
	podToken  = "/var/run/secrets/tokens/signet-token"
	podRoots  = "/var/run/secrets/signet/root-cert.pem"
	podRun    = "/var/run/signet"
	podResolv = "/etc/resolv.conf"
)

// defaultGrace is Kubernetes' terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// afterGrace is how long a sidecar may still need behind the pod's grace period; kubelet kills it sooner.
const afterGrace = 10 * time.Second

// podCommand is the sidecar of a pod. It is told everything by its environment, as the webhook writes it.
func podCommand() *cobra.Command {
	tokenPath, rootsPath, runDir := podToken, podRoots, podRun
	c := &cobra.Command{
		Use:     "pod",
		Example: `  args: [pod]    # of the container istio-proxy, as injection writes it`,
		Short:   "Run the sidecar of a pod of Kubernetes",
		Long: `Run the sidecar of the pod that it is a container of. It proves itself to the control plane with the pod's
service-account token, and is told what it is by its environment, as injection writes it: POD_NAME, POD_NAMESPACE,
SERVICE_ACCOUNT, INSTANCE_IPS, SIGNET_CONTROL, TRUST_DOMAIN, CLUSTER_DOMAIN, PROXY_CONFIG, SIGNET_PROBERS,
SIGNET_PROMETHEUS, SIGNET_DNS, SIGNET_NATIVE, SIGNET_LOG_LEVEL, SIGNET_GRACE_SECONDS.

Traffic that 'signet-proxy capture' leads here is taken at 15001 and 15006. 15021 says whether the sidecar is ready,
15020 has metrics and rewritten probes, 127.0.0.1:15000 is the person's: status, denials, why, certs, pprof.

Exit codes: 0 it was asked to end, 1 a failure, 2 a mistake in the environment.`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, concurrency, err := podConfig(os.Getenv)
			if err != nil {
				return cli.Mistake(err)
			}
			cfg.RunDir, cfg.StateDir = runDir, filepath.Join(runDir, "state")
			cfg.CacheDir = filepath.Join(runDir, "cache")
			cfg.Pod.TokenPath, cfg.Pod.RootsPath = tokenPath, rootsPath
			if cfg.Pod.DNS {
				if cfg.Pod.Resolvers, err = dns.Resolvers(podResolv); err != nil {
					return err
				}
			}
			if concurrency > 0 {
				runtime.GOMAXPROCS(concurrency)
			}
			limitMemory("/sys/fs/cgroup")
			var ready sync.Once // certificates and configurations that follow say so themselves
			cfg.OnReady = func(s node.Status) {
				ready.Do(func() {
					cfg.Log.Info("sidecar is ready", "spiffe_id", s.SPIFFEID, "not_after", s.NotAfter.Format(time.RFC3339))
				})
			}
			n, err := node.New(*cfg)
			if err != nil {
				return err
			}
			cli.EndWithin(c.Context(), cfg.Pod.Grace+afterGrace)
			return n.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&tokenPath, "token", tokenPath, "file with the service-account token")
	f.StringVar(&rootsPath, "roots", rootsPath, "PEM file with the roots that the control plane is verified against")
	f.StringVar(&runDir, "run-dir", runDir, "directory that outlives the container, not the pod: key, certificate, last good configuration, SDS socket")
	return c
}

// podConfig reads the environment. It returns GOMAXPROCS as well, 0 for the default.
func podConfig(env func(string) string) (*node.Config, int, error) {
	pod := &node.Pod{Grace: defaultGrace}
	cfg := &node.Config{Pod: pod, Version: cli.Version(), AccessLog: os.Stderr}
	pod.ClusterDomain, pod.ServiceAccount = env("CLUSTER_DOMAIN"), env("SERVICE_ACCOUNT")
	for _, v := range []struct {
		name string
		into *string
	}{{"POD_NAME", &pod.Name}, {"POD_NAMESPACE", &pod.Namespace}, {"SIGNET_CONTROL", &cfg.Control}, {"TRUST_DOMAIN", &pod.TrustDomain}} {
		if *v.into = env(v.name); *v.into == "" {
			return nil, 0, fmt.Errorf("reading %s: it is not set; run this as the sidecar of an injected pod", v.name)
		}
	}
	if pod.ServiceAccount == "" {
		pod.ServiceAccount = "default"
	}
	proxy, err := parseProxyConfig(env("PROXY_CONFIG"))
	if err != nil {
		return nil, 0, fmt.Errorf("reading PROXY_CONFIG: %w", err)
	}
	pod.Drain, pod.Full, pod.TrustedProxies = proxy.drain, proxy.full, proxy.trustedProxies
	if pod.Addresses, err = parseAddresses(env("INSTANCE_IPS")); err != nil {
		return nil, 0, fmt.Errorf("reading INSTANCE_IPS: %w", err)
	}
	for name, into := range map[string]*bool{"SIGNET_DNS": &pod.DNS, "SIGNET_NATIVE": &pod.Native} {
		if text := env(name); text != "" {
			if *into, err = strconv.ParseBool(text); err != nil {
				return nil, 0, fmt.Errorf("reading %s %q: want true or false", name, text)
			}
		}
	}
	if env("SIGNET_DNS") == "" && proxy.dns != nil {
		pod.DNS = *proxy.dns
	}
	if pod.Probes, err = parseProbes(env("SIGNET_PROBERS")); err != nil {
		return nil, 0, fmt.Errorf("reading SIGNET_PROBERS: %w", err)
	}
	if pod.Application, err = parseExporter(env("SIGNET_PROMETHEUS")); err != nil {
		return nil, 0, fmt.Errorf("reading SIGNET_PROMETHEUS: %w", err)
	}
	if text := env("SIGNET_GRACE_SECONDS"); text != "" {
		s, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, 0, fmt.Errorf("reading SIGNET_GRACE_SECONDS %q: want a number of seconds", text)
		}
		pod.Grace = time.Duration(s) * time.Second
	}
	level, err := parseLevel(env("SIGNET_LOG_LEVEL"))
	if err != nil {
		return nil, 0, fmt.Errorf("reading SIGNET_LOG_LEVEL: %w", err)
	}
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("workload", pod.Namespace+"."+pod.Name)
	return cfg, proxy.concurrency, nil
}

// parseAddresses reads status.podIPs as the downward API writes them: a comma list.
func parseAddresses(text string) ([]netip.Addr, error) {
	var out []netip.Addr
	for w := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(w))
		if err != nil {
			return nil, fmt.Errorf("%q: want the pod's addresses, separated by commas", text)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}
