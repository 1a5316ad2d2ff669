package tool

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

const validateHelp = `Judge Istio's objects as the mesh would. What is refused is printed as FILE:LINE:COLUMN: KIND
NAMESPACE/NAME: FIELD: reason, and the exit code is 2. Warnings are printed and do not fail, save that
when a whole directory is given references to things that do not exist are errors too.

With --from-cluster the objects are those of a cluster, in which nothing of Signet need be installed: all of
Istio's and Signet's kinds, judged with the Services and pods that they refer to, in all namespaces (-A, the
default) or in --namespace. Kinds of Istio and of Gateway API that Signet does not read are named as warnings, and so is
what the injection would drop of pods that are meant for a mesh; what it would refuse is an error. It needs the
verb list on those kinds, on services, pods and namespaces, and get on the ConfigMap istio of --root-namespace.
Where only --namespace may be listed, that is judged by itself, and references are warnings.

Exit codes: 0 nothing is refused, 2 something is, or a mistake in flags or files, 1 the cluster can't be asked.`

// validation are validate's flags.
type validation struct {
	trustDomain, clusterDomain, root string
	settings                         cli.Control
	cluster, all                     bool
	remote                           remote
}

func newValidate() *cobra.Command {
	var v validation
	c := &cobra.Command{
		Use:   "validate FILE|DIR... | --from-cluster",
		Short: "Judge objects without running them",
		Long:  validateHelp,
		Example: `  signet validate deploy/demo
  signet validate policy.yaml routes.yaml
  signet validate --from-cluster -n shop`,
		Args: cli.Args(v.args),
		RunE: func(c *cobra.Command, a []string) error {
			control, err := v.settings.Settings()
			if err != nil {
				return err
			}
			if v.cluster {
				return v.fromCluster(c, control)
			}
			return v.paths(c, a, control)
		},
	}
	v.settings.Add(c.Flags())
	f := c.Flags()
	f.StringVar(&v.trustDomain, "trust-domain", "cluster.local", "trust domain the objects are judged for")
	f.BoolVar(&v.cluster, "from-cluster", false, "judge the objects of a cluster instead of files")
	f.BoolVarP(&v.all, "all-namespaces", "A", false, "with --from-cluster: all namespaces, which is the default")
	f.StringVar(&v.clusterDomain, "cluster-domain", mesh.DefaultClusterDomain, "with --from-cluster: what the names of Services end in")
	f.StringVar(&v.root, "root-namespace", mesh.DefaultRootNamespace, "with --from-cluster: namespace of mesh-wide objects")
	v.remote.add(c, "n", "with --from-cluster: the namespace whose objects are judged")
	_ = f.MarkHidden("system-namespace") // nothing of Signet is asked
	return c
}

func (v *validation) args(c *cobra.Command, a []string) error {
	if v.cluster {
		if err := cobra.NoArgs(c, a); err != nil {
			return fmt.Errorf("--from-cluster takes no files: %w", err)
		}
		if v.all && v.remote.namespace != "" {
			return fmt.Errorf("--all-namespaces and --namespace exclude each other")
		}
		return nil
	}
	for _, name := range []string{"kubeconfig", "context", "namespace", "all-namespaces", "cluster-domain", "root-namespace"} {
		if c.Flags().Changed(name) {
			return fmt.Errorf("--%s needs --from-cluster", name)
		}
	}
	return cobra.MinimumNArgs(1)(c, a)
}

// paths judges files and directories.
func (v *validation) paths(c *cobra.Command, a []string, control *policy.ControlSettings) error {
	problems, objects, whole, err := judgePaths(a, v.trustDomain, control)
	if err != nil {
		return cli.Mistake(err)
	}
	failed := 0
	for i := range problems {
		p := &problems[i]
		severity := "warning"
		if p.Severity == mesh.Refused || (whole && p.Dangling) {
			severity = "error"
			failed++
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", p.Error(), severity)
	}
	if failed > 0 {
		return cli.Mistake(fmt.Errorf("%d of %d objects' findings are errors", failed, max(objects, failed)))
	}
	fmt.Fprintf(c.OutOrStdout(), "%d objects are good\n", objects)
	return nil
}

// fromCluster judges what is in a cluster.
func (v *validation) fromCluster(c *cobra.Command, control *policy.ControlSettings) error {
	if err := checkTrustDomain(v.trustDomain); err != nil {
		return err
	}
	k, err := v.remote.open(c.Context())
	if err != nil {
		return err
	}
	s := &survey{k: k, trustDomain: v.trustDomain, clusterDomain: v.clusterDomain, root: v.root, control: control, namespace: v.remote.namespace}
	if err := s.run(c.Context()); err != nil {
		return fmt.Errorf("judging %s: %w", s.describe(), err)
	}
	return s.write(c.OutOrStdout(), c.ErrOrStderr())
}

// judgePaths reads files and directories. whole says that a directory was among them: references can be judged then.
func judgePaths(paths []string, trustDomain string, control *policy.ControlSettings) (problems []mesh.Problem, objects int, whole bool, err error) {
	var files []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, 0, false, err
		}
		if !st.IsDir() {
			files = append(files, p)
			continue
		}
		whole = true
		found, err := yamlFiles(p)
		if err != nil {
			return nil, 0, false, err
		}
		files = append(files, found...)
	}
	var all []*mesh.Object
	now := time.Now()
	for _, f := range files {
		data, err := explain.ReadFile(f, mesh.MaxFileBytes)
		if err != nil {
			return nil, 0, false, err
		}
		o, p := mesh.Parse(f, data, mesh.ParseOptions{TrustDomain: trustDomain, Now: now, Judge: compile.Judge(trustDomain, control)})
		all, problems = append(all, o...), append(problems, p...)
	}
	_, p := mesh.Build(all, mesh.BuildOptions{TrustDomain: trustDomain, Check: compile.NewCheck(), Control: control})
	return append(problems, p...), len(all), whole, nil
}

func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		ext := strings.ToLower(filepath.Ext(e.Name()))
		return e.IsDir() || ext != ".yaml" && ext != ".yml" && ext != ".json"
	})
	var out []string
	for _, e := range entries {
		out = append(out, filepath.Join(dir, e.Name()))
	}
	return out, nil
}
