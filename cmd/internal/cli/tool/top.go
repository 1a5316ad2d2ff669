package tool

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

const topHelp = `List the last denials that the running sidecars remember, by caller, target and the rule that denied: the
most frequent first, of equals the latest. On a terminal the table is drawn anew every second; elsewhere
a line is printed for each denial that is new or happened again, whatever --limit says. Ctrl-C ends it.

A sidecar that starts later is found by the next start. In a cluster all pods with a sidecar are asked,
or those of --namespace; at most --pods of them.

` + remoteHelp + `

Exit codes: 0 it was asked to end, 1 no sidecar can be asked, 2 a mistake in flags.`

// topEvery is how often the sidecars are asked.
const topEvery = time.Second

// maxTopPods bounds --pods: each is a connection to the API server that stays.
const maxTopPods = 1000

func newTop() *cobra.Command {
	var w where
	var once bool
	var output string
	var limit, pods int
	c := &cobra.Command{
		Use:   "top",
		Short: "List the last denials, live",
		Long:  topHelp,
		Example: `  signet top
  signet top --once -o json
  signet top --namespace shop`,
		Args: cli.Args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			if limit < 1 {
				return cli.Mistake(fmt.Errorf("--limit %d: want at least 1", limit))
			}
			if pods < 1 || pods > maxTopPods {
				return cli.Mistake(fmt.Errorf("--pods %d: want between 1 and %d", pods, maxTopPods))
			}
			live, err := w.denials(c, pods)
			if err != nil {
				return err
			}
			defer live.Close()
			t := &top{live: live, out: c.OutOrStdout(), json: output == "json", limit: limit, screen: terminal(c.OutOrStdout())}
			return t.run(c.Context(), once)
		},
	}
	f := c.Flags()
	f.BoolVar(&once, "once", false, "print once and end")
	f.IntVarP(&limit, "limit", "n", 40, "how many to show in a table or an array")
	f.StringVarP(&output, "output", "o", "table", "what to print: table or json (an array a second, each on a line)")
	f.IntVar(&pods, "pods", 100, "how many pods of a cluster to ask")
	w.sidecars(c)
	w.remote.add(c, "", "namespace of a cluster whose pods are asked (default all)")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// denials finds the sidecars to ask.
func (w *where) denials(c *cobra.Command, pods int) (*explain.Live, error) {
	k, err := w.cluster(c)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return w.connect(c)
	}
	some, all, err := k.sidecars(c.Context(), pods)
	switch {
	case err != nil:
		return nil, err
	case all == 0:
		err := fmt.Errorf("finding sidecars: no running pod of cluster %s has one", k.name)
		if p, found := k.control(c.Context()); found == nil && !p.runs() { // without it no pod gets one
			err = fmt.Errorf("%w\n%w", err, k.away(c.Context(), p))
		}
		return nil, err
	case all > len(some):
		fmt.Fprintf(c.ErrOrStderr(), "asking %d of %d pods: --pods or --namespace says which\n", len(some), all)
	}
	return k.connect(c.Context(), some)
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// top shows denials again and again.
type top struct {
	live         *explain.Live
	out          io.Writer
	json, screen bool
	limit        int
	// seen are the counts that were printed, where there is no screen.
	seen map[string]uint64
}

func (t *top) run(ctx context.Context, once bool) error {
	t.seen = map[string]uint64{}
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for {
		all, away := t.live.Denials(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := t.show(all, away, once); err != nil || once {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (t *top) show(all []explain.Denial, away int, once bool) error {
	var b strings.Builder
	first := all[:min(len(all), t.limit)]
	switch {
	case t.json:
		if first == nil {
			first = []explain.Denial{}
		}
		return writeLine(t.out, first)
	case once:
		table(&b, first, away)
	case t.screen:
		b.WriteString("\x1b[H\x1b[2J")
		fmt.Fprintf(&b, "Denials, %s (Ctrl-C ends)\n\n", time.Now().Format(time.TimeOnly))
		table(&b, first, away)
	default:
		t.lines(&b, all)
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

func table(b *strings.Builder, all []explain.Denial, away int) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COUNT\tLAST\tFROM\tTO\tBY\tREQUEST\tSTATUS")
	for _, d := range all {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%d\n", d.Count, d.Last.Local().Format(time.TimeOnly), explain.Printable(d.From), explain.Printable(d.To),
			explain.Printable(d.By), explain.Printable(strings.TrimSpace(d.Method+" "+d.Path)), d.Status)
	}
	_ = w.Flush() // to a strings.Builder
	if len(all) == 0 {
		b.WriteString("nothing was denied\n")
	}
	if away > 0 {
		fmt.Fprintf(b, "%d sidecars don't answer\n", away)
	}
}

// lines prints what happened since the last look.
func (t *top) lines(b *strings.Builder, all []explain.Denial) {
	for _, d := range all {
		key := d.From + "\x00" + d.To + "\x00" + d.By
		if t.seen[key] == d.Count {
			continue
		}
		t.seen[key] = d.Count
		fmt.Fprintf(b, "%s %d x %s -> %s %s denied by %s (%d)\n", d.Last.UTC().Format(time.RFC3339), d.Count, explain.Printable(d.From), explain.Printable(d.To),
			explain.Printable(strings.TrimSpace(d.Method+" "+d.Path)), explain.Printable(d.By), d.Status)
	}
}
