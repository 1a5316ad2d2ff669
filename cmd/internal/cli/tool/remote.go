package tool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	// reachWait bounds the first exchange with an API server, callWait each other one.
	reachWait = 5 * time.Second
	callWait  = 30 * time.Second
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

// open reads the kubeconfig, a mistake of the caller where that can't be done, and reaches for the cluster.
func (r *remote) open(ctx context.Context) (*cluster, error) {
	loader := r.loader()
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, cli.Mistake(fmt.Errorf("reading kubeconfig: %w", err))
	}
	cfg.UserAgent = "signet/" + cli.Version()
	cfg.QPS, cfg.Burst = 50, 100
	cfg.Timeout = callWait
	cfg.WarningHandler = rest.NoWarnings{} // of kinds that are deprecated, where all are listed
	out := &cluster{name: cfg.Host, cfg: cfg, remote: r}
	if raw, err := loader.RawConfig(); err == nil {
		out.name = firstOf(r.context, firstOf(raw.CurrentContext, cfg.Host))
	}
	if out.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("building Kubernetes client: %w", err)
	}
	if out.dialer, err = portforward.New(cfg); err != nil {
		return nil, err
	}
	return out, out.reach(ctx)
}

// reach asks for the API server's version, which nearly everybody may: that it can't be reached, or does not know who asks, is
// said once and soon, whatever is asked of it then.
func (k *cluster) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	err := k.client.Discovery().RESTClient().Get().AbsPath("/version").MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil, apierrors.IsForbidden(err):
		return nil
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("asking cluster %s at %s: it does not take the credentials of this context: renew them, or give another --context", k.name, k.cfg.Host)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %s", reachWait)
	}
	var request *url.Error
	if errors.As(err, &request) { // whose URL is nobody's
		err = request.Err
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("asking cluster %s at %s: %s\nIs it up, and is this its kubeconfig?", k.name, k.cfg.Host, first)
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
		return w.remote.open(c.Context())
	case local != "" || w.running(c.Context()) || !w.remote.found():
		return nil, nil
	}
	return w.remote.open(c.Context())
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
	if files := os.Getenv("KUBECONFIG"); files != "" {
		return errors.Join(err, fmt.Errorf("$KUBECONFIG, %s, leads to no cluster either", files))
	}
	return errors.Join(err, errors.New("there is no kubeconfig either: give --kubeconfig FILE to ask a cluster"))
}
