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

func newValidate() *cobra.Command {
	var trustDomain string
	var settings cli.Control
	c := &cobra.Command{
		Use:   "validate FILE|DIR...",
		Short: "Judge objects without running them",
		Long: `Judge Istio's objects as the mesh would. What is refused is printed as FILE:LINE:COLUMN: KIND
NAMESPACE/NAME: FIELD: reason, and the exit code is 2. Warnings are printed and do not fail, save that
when a whole directory is given references to things that do not exist are errors too.`,
		Example: `  signet validate deploy/demo
  signet validate policy.yaml routes.yaml`,
		Args: cli.Args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			control, err := settings.Settings()
			if err != nil {
				return err
			}
			problems, objects, whole, err := judgePaths(a, trustDomain, control)
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
		},
	}
	settings.Add(c.Flags())
	c.Flags().StringVar(&trustDomain, "trust-domain", "cluster.local", "trust domain the objects are judged for")
	return c
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
