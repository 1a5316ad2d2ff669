package tool

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

const simulateHelp = `Judge recorded traffic by the policies of NEWDIR, and say what changes: the requests that they would newly
deny or newly allow, by caller, server, method, path and rule, the most frequent first.

The log is an access log in JSON: ours, or Istio's default fields; gzip is read as it is, and - is standard
input. Lines of the server's side count; what is no JSON, or can't be judged, is counted and reported.
The server is named by the line (ours), by --to, or by its address among the WorkloadEntries; the caller
by source_principal (ours), or by its address. What policies said before is what --old DIR says, or
without it what was recorded.

A log knows neither tokens nor most header fields. A request whose outcome depends on them is reported as
not judged; so is one that is newly handed to an external authorizer or a RegoPolicy. Rate limits are not
replayed.

Exit codes: 0 whatever changes, unless --fail-on-denied: then 3 if anything is newly denied. 2 a mistake in
flags, files or objects.`

// trafficFlags are those of the commands that read recorded traffic.
type trafficFlags struct {
	dir, trustDomain, to string
	logs                 []string
}

func (t *trafficFlags) add(c *cobra.Command, dir string) {
	f := c.Flags()
	f.StringVarP(&t.dir, "file", "f", "", dir+" (required)")
	f.StringArrayVar(&t.logs, "log", nil, "access log in JSON, - for standard input; may be repeated (required)")
	f.StringVar(&t.to, "to", "", "NAMESPACE/WORKLOAD that recorded the lines that name no workload")
	addTrustDomain(c, &t.trustDomain)
	_ = c.MarkFlagDirname("file")
}

func (t *trafficFlags) read(c *cobra.Command) (*explain.Traffic, error) {
	if t.dir == "" || len(t.logs) == 0 {
		return nil, cli.Mistake(fmt.Errorf("-f and --log must be given\nSee '%s --help'", c.CommandPath()))
	}
	m, err := loadDir(t.dir, t.trustDomain)
	if err != nil {
		return nil, err
	}
	traffic, err := explain.ReadTraffic(m, t.to, t.logs, c.InOrStdin())
	if err != nil {
		return nil, cli.Mistake(err)
	}
	return traffic, nil
}

func newSimulate() *cobra.Command {
	var t trafficFlags
	var old, output string
	var failOnDenied bool
	c := &cobra.Command{
		Use:   "simulate -f NEWDIR --log ACCESS_LOG",
		Short: "Say what other policies would change for recorded traffic",
		Long:  simulateHelp,
		Example: `  signet simulate -f mesh-new --log access.log
  signet simulate -f mesh-new --old mesh --log - --fail-on-denied -o json < access.log`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			var before *explain.Mesh
			if old != "" {
				var err error
				if before, err = loadDir(old, t.trustDomain); err != nil {
					return err
				}
			}
			traffic, err := t.read(c)
			if err != nil {
				return err
			}
			report, err := explain.Simulate(c.Context(), traffic, before)
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = report.WriteText(c.OutOrStdout())
			}
			if err == nil && failOnDenied && len(report.NewlyDenied) > 0 {
				return cli.Exit(exitDenied)
			}
			return err
		},
	}
	t.add(c, "directory of objects with the new policies")
	f := c.Flags()
	f.StringVar(&old, "old", "", "directory of objects with the old policies (default: what was recorded)")
	f.BoolVar(&failOnDenied, "fail-on-denied", false, "end with 3 if anything is newly denied")
	f.StringVarP(&output, "output", "o", "text", "what to print: text or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.MarkFlagDirname("old")
	return c
}

const suggestHelp = `Write the AuthorizationPolicies that recorded traffic needs, and no more: for each server that recorded
requests which were allowed, one ALLOW policy by principals, ports, methods and paths. Many values in one
position of a path become {*}. The output is YAML that 'signet validate' takes; 'signet simulate' with it
in DIR denies nothing newly that is not named as left out.

DIR says who is where; its own policies stay what they are. The log is read as 'signet simulate' reads it.

What is left out is said on standard error and in comments: requests that were denied, callers without an
identity, and what could not be read. Servers for which nothing was recorded get no policy.

Exit codes: 0 policies were written, 2 a mistake in flags, files or objects.`

func newSuggest() *cobra.Command {
	var t trafficFlags
	var o explain.SuggestOptions
	c := &cobra.Command{
		Use:   "suggest -f DIR --log ACCESS_LOG",
		Short: "Write the least policies that recorded traffic needs",
		Long:  suggestHelp,
		Example: `  signet suggest -f mesh --log access.log > mesh/recorded.yaml
  signet simulate -f mesh --log access.log`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Values < 1 {
				return cli.Mistake(fmt.Errorf("--values %d: want at least 1", o.Values))
			}
			traffic, err := t.read(c)
			if err != nil {
				return err
			}
			s, err := explain.Suggest(c.Context(), traffic, o)
			if err != nil {
				return cli.Mistake(err)
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s for %s\n", explain.Count(uint64(s.Policies), "policy", "policies"),
				explain.Count(traffic.Requests, "recorded request", "recorded requests"))
			for _, u := range s.LeftOut {
				fmt.Fprintf(c.ErrOrStderr(), "left out, %s: %s %s\n", explain.Count(u.Lines, "line", "lines"), explain.Printable(u.Reason), explain.Printable(u.Example))
			}
			for _, name := range slices.Sorted(slices.Values(s.Silent)) {
				fmt.Fprintf(c.ErrOrStderr(), "nothing was recorded for %s: no policy is written for it\n", name)
			}
			_, err = c.OutOrStdout().Write(s.YAML)
			return err
		},
	}
	t.add(c, "directory of objects that says who is where")
	c.Flags().IntVar(&o.Values, "values", 10, "how many values one position of a path may have before it becomes {*}")
	return c
}
