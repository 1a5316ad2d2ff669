package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/inject"
)

const injectHelp = `Give the pods of a file their sidecars, as the webhook does: the same code makes both, and after the API
server has filled in its defaults the pods are the same. Print the result, to be piped into kubectl apply or
kubectl delete.

Read are Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, PodTemplate, Job,
CronJob, and Lists of them, in YAML of any number of documents or JSON. Every other object comes out byte for
byte as it went in, and so does a pod that has a sidecar or whose label sidecar.istio.io/inject is "false". A
pod that can't have one (hostNetwork, Windows, a container that runs as user 1337, a system namespace) comes
out as it went in as well, and standard error says why. Comments and order are kept, save in JSON and in
documents with YAML aliases.

The settings are those of the control plane in the kubeconfig's cluster, those of --config (the ConfigMap
signet's key injection) or, with --offline or where there is no kubeconfig, those compiled in; flags change
single ones.

Exit codes: 0 it was printed, 1 the cluster could not be asked, 2 a mistake in flags, files or objects;
nothing was printed then.`

// injection is the flags of `signet inject`.
type injection struct {
	files, set []string
	config     string
	offline    bool
	remote     remote
}

// settingFlags are flags that change one setting each.
func settingFlags() map[string]string {
	return map[string]string{"revision": "revision", "hub": "hub", "tag": "tag", "image": "image", "trust-domain": "trustDomain",
		"cluster-domain": "clusterDomain", "control-address": "controlAddress", "native": "native"}
}

func newInject() *cobra.Command {
	var i injection
	c := &cobra.Command{
		Use: "inject -f FILE", Short: "Give the pods of a file their sidecars", Long: injectHelp,
		Example: `  signet inject -f deployment.yaml | kubectl apply -f -
  kubectl get deployment web -o yaml | signet inject -f - | kubectl apply -f -
  signet inject --offline --set resources.requests.cpu=50m -f all.yaml | kubectl delete -f -`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return i.run(c) },
	}
	f := c.Flags()
	f.StringArrayVarP(&i.files, "filename", "f", nil, "file to read, - for standard input; may be given several times")
	f.StringVar(&i.config, "config", "", "file with injection settings (YAML)")
	f.BoolVar(&i.offline, "offline", false, "take the settings compiled in; ask no cluster")
	f.StringArrayVar(&i.set, "set", nil, "change one setting: KEY=VALUE, such as dns=true or resources.limits.memory=1Gi")
	f.String("revision", "", "revision of the control plane (default signet)")
	f.String("hub", "", "registry and folder of the images (default "+inject.DefaultHub+")")
	f.String("tag", "", "tag of the images (default "+inject.DefaultTag+")")
	f.String("image", "", "the sidecar's image as a whole, instead of hub and tag")
	f.String("trust-domain", "", "trust domain of the mesh (default cluster.local)")
	f.String("cluster-domain", "", "DNS domain of the cluster (default cluster.local)")
	f.String("control-address", "", "host:port of the control plane (default signetd.signet-system.svc:15012)")
	f.Bool("native", true, "native sidecars, which Kubernetes has since 1.29")
	i.remote.add(c, "", "")
	_ = f.MarkHidden("namespace") // the remote's flag; objects say their own
	_ = c.MarkFlagFilename("filename", "yaml", "yml", "json")
	_ = c.MarkFlagFilename("config", "yaml", "yml")
	return c
}

func (i *injection) run(c *cobra.Command) error {
	if len(i.files) == 0 {
		return cli.Mistake(errors.New("want -f FILE\nSee 'signet inject --help'"))
	}
	cfg, err := i.settings(c)
	if err != nil {
		return err
	}
	var out []byte
	for _, name := range i.files {
		text, err := readInput(c, name)
		if err != nil {
			return cli.Mistake(err)
		}
		injected, notes, err := cfg.Text(text)
		if err != nil {
			return cli.Mistake(fmt.Errorf("%s: %w", name, err))
		}
		for _, n := range notes {
			fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", name, n)
		}
		if len(out) > 0 {
			out = append(out, "\n---\n"[min(1, len(out)-len(strings.TrimRight(string(out), "\n"))):]...)
		}
		out = append(out, injected...)
	}
	_, err = c.OutOrStdout().Write(out)
	return err
}

func readInput(c *cobra.Command, name string) ([]byte, error) {
	if name != "-" {
		return explain.ReadFile(name, inject.MaxTextBytes)
	}
	text, err := io.ReadAll(io.LimitReader(c.InOrStdin(), inject.MaxTextBytes+1))
	if err == nil && len(text) > inject.MaxTextBytes {
		err = fmt.Errorf("standard input has more than %d bytes", inject.MaxTextBytes)
	}
	return text, err
}

// settings are those of a file or a cluster with single ones changed.
func (i *injection) settings(c *cobra.Command) (*inject.Config, error) {
	var text []byte
	var hookKey string
	var err error
	native := true
	switch {
	case i.config != "":
		if text, err = explain.ReadFile(i.config, inject.MaxConfigBytes); err != nil {
			return nil, cli.Mistake(err)
		}
	case !i.offline && (i.remote.kubeconfig != "" || i.remote.context != "" || i.remote.found()):
		if text, hookKey, native, err = i.ask(c); err != nil {
			return nil, err
		}
	}
	if _, err := inject.ParseConfig(text); err != nil {
		return nil, cli.Mistake(err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, cli.Mistake(err)
	}
	if _, given := values["hookKey"]; !given && hookKey != "" {
		values["hookKey"] = hookKey
	}
	set := i.set
	for flag, key := range settingFlags() {
		if f := c.Flags().Lookup(flag); f.Changed {
			set = append(set, key+"="+quoted(f.Value.Type(), f.Value.String()))
		}
	}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, cli.Mistake(fmt.Errorf("--set %q: want KEY=VALUE", s))
		}
		var v any
		if err := yaml.Unmarshal([]byte(value), &v); err != nil {
			return nil, cli.Mistake(fmt.Errorf("--set %q: %w", s, err))
		}
		if err := put(values, strings.Split(key, "."), v); err != nil {
			return nil, cli.Mistake(fmt.Errorf("--set %q: %w", s, err))
		}
	}
	if text, err = yaml.Marshal(values); err != nil {
		return nil, err
	}
	cfg, err := inject.ParseConfig(text)
	if err != nil {
		return nil, cli.Mistake(err)
	}
	return cfg.WithNative(native), nil
}

// quoted keeps a flag's text a text: a tag 1.0 is no number.
func quoted(kind, value string) string {
	if kind == "bool" {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}

// put sets a value below a mapping; a mapping on the way is copied.
func put(values map[string]any, path []string, v any) error {
	if len(path) == 1 {
		values[path[0]] = v
		return nil
	}
	below, isMap := values[path[0]].(map[string]any)
	if !isMap && values[path[0]] != nil {
		return fmt.Errorf("%q holds no other settings", path[0])
	}
	copied := map[string]any{}
	maps.Copy(copied, below)
	values[path[0]] = copied
	return put(copied, path[1:], v)
}

// ask reads the settings of a cluster's control plane, and whether its API server has native sidecars. hookKey is for the words of
// hooks' paths: random, the same every time, and known to those who may read the settings alone.
func (i *injection) ask(c *cobra.Command) (text []byte, hookKey string, native bool, err error) {
	k, err := i.remote.open(c.Context())
	if err != nil {
		return nil, "", false, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
	defer cancel()
	name := inject.ConfigMapName
	if r := c.Flags().Lookup("revision").Value.String(); r != "" && r != kube.DefaultRevision {
		name += "-" + r
	}
	m, err := k.client.CoreV1().ConfigMaps(i.remote.system).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, "", false, cli.Mistake(fmt.Errorf("reading the settings of %s: there is no ConfigMap %s/%s: is Signet installed there? (--offline takes the settings compiled in)", k.name, i.remote.system, name))
	}
	if err != nil {
		return nil, "", false, fmt.Errorf("reading the settings of %s (--offline takes those compiled in): %w", k.name, err)
	}
	v, err := k.client.Discovery().ServerVersion()
	if err != nil {
		return nil, "", false, fmt.Errorf("reading the version of %s: %w", k.name, err)
	}
	parsed, err := version.ParseGeneric(v.GitVersion)
	if err != nil {
		return nil, "", false, fmt.Errorf("reading the version of %s: %w", k.name, err)
	}
	return []byte(m.Data[inject.ConfigKey]), string(m.UID), inject.HasNative(parsed), nil
}
