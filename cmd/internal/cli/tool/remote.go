package tool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/portforward"
)

// The ports that are asked in a cluster.
const (
	adminPort   = 15000 // of a pod's sidecar, on its loopback
	controlPort = 15014 // of the control plane
)

const (
	// askPod bounds one exchange with a pod, the forwarding included.
	askPod = 10 * time.Second
	// probeWait is how long a local socket may take to accept.
	probeWait = 200 * time.Millisecond
)

// remote says which cluster to ask.
type remote struct {
	kubeconfig, context, namespace, system string
}

// remoteHelp is the part of a command's help that says whom it asks.
const remoteHelp = `Whom it asks: the sidecars of this machine where --state, --trust-domain or --admin say so or a mesh runs
here, else the cluster of --kubeconfig, --context, $KUBECONFIG or ~/.kube/config, as kubectl finds it. In a
cluster it reaches pods by the API server's port-forward, with your own rights: get and list of pods, and
create (and get) of pods/portforward in their namespaces.`

// add adds the flags that lead to a cluster. short is the shorthand of --namespace, "" for none.
func (r *remote) add(c *cobra.Command, short, namespaceHelp string) {
	f := c.Flags()
	f.StringVar(&r.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster to ask (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&r.context, "context", "", "context of the kubeconfig (default its current one)")
	f.StringVarP(&r.namespace, "namespace", short, "", namespaceHelp)
	f.StringVar(&r.system, "system-namespace", kube.SystemNamespace, "namespace of the control plane")
	_ = c.MarkFlagFilename("kubeconfig")
	_ = c.RegisterFlagCompletionFunc("context", r.completeContexts)
	_ = c.RegisterFlagCompletionFunc("namespace", r.completeNamespaces)
	_ = c.RegisterFlagCompletionFunc("system-namespace", r.completeNamespaces)
}

// cluster is one that can be asked.
type cluster struct {
	name   string // context, for people
	cfg    *rest.Config
	client kubernetes.Interface
	dialer *portforward.Dialer
	remote *remote
}

func (r *remote) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = r.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: r.context})
}

// found reports whether there is a kubeconfig with a context, or this process runs in a pod.
func (r *remote) found() bool {
	raw, err := r.loader().RawConfig()
	if err == nil && raw.CurrentContext != "" {
		return true
	}
	_, err = rest.InClusterConfig()
	return err == nil
}

func (r *remote) open() (*cluster, error) {
	loader := r.loader()
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, cli.Mistake(fmt.Errorf("reading kubeconfig: %w", err))
	}
	cfg.UserAgent = "signet/" + cli.Version()
	cfg.QPS, cfg.Burst = 50, 100
	out := &cluster{name: cfg.Host, cfg: cfg, remote: r}
	if raw, err := loader.RawConfig(); err == nil {
		out.name = firstOf(r.context, firstOf(raw.CurrentContext, cfg.Host))
	}
	if out.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("building Kubernetes client: %w", err)
	}
	out.dialer, err = portforward.New(cfg)
	return out, err
}

// target is the way to one port of a pod.
func (k *cluster) target(namespace, pod string, port int) *explain.Target {
	return &explain.Target{Name: "pod " + namespace + "/" + pod, Client: &http.Client{Timeout: askPod, Transport: k.dialer.Transport(namespace, pod, port)}}
}

// cluster is the one that is meant, nil if it is this machine.
func (w *where) cluster(c *cobra.Command) (*cluster, error) {
	var local, far string
	for _, name := range []string{"state", "admin", "trust-domain", "file"} {
		if f := c.Flags().Lookup(name); f != nil && f.Changed {
			local = name
		}
	}
	for _, name := range []string{"kubeconfig", "context", "namespace", "system-namespace"} {
		if c.Flags().Changed(name) {
			far = name
		}
	}
	switch {
	case local != "" && far != "":
		return nil, cli.Mistake(fmt.Errorf("--%s is of this machine and --%s of a cluster: give one of them\nSee '%s --help'", local, far, c.CommandPath()))
	case far != "":
		return w.remote.open()
	case local != "" || w.running(c.Context()) || !w.remote.found():
		return nil, nil
	}
	return w.remote.open()
}

// running reports whether a sidecar or a control plane of this machine takes connections.
func (w *where) running(ctx context.Context) bool {
	state, err := cli.StateDir(w.state, w.trustDomain)
	if err != nil {
		return false
	}
	dirs, err := w.runDirs()
	if err != nil {
		return false
	}
	d := net.Dialer{Timeout: probeWait}
	for _, socket := range append(explain.Sockets(dirs...), filepath.Join(state, plane.ControlSocket)) {
		if c, err := d.DialContext(ctx, "unix", socket); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

func (r *remote) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	raw, err := r.loader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for name := range raw.Contexts {
		out = append(out, name)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeWait bounds what completion asks of a cluster.
const completeWait = 2 * time.Second

func (r *remote) completeNamespaces(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	out, err := r.namespaces(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// noCluster is what there is to say where neither a mesh runs here nor a kubeconfig leads to a cluster.
func noCluster(err error) error {
	if os.Getenv("KUBECONFIG") != "" {
		return err
	}
	return errors.Join(err, errors.New("there is no kubeconfig either: give --kubeconfig FILE to ask a cluster"))
}
