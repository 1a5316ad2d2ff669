package tool

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli/control"
	"github.com/signet-mesh/signet/cmd/internal/cli/sidecar"
)

// TestEveryCommandExplainsItself reads all help texts: a long text that a terminal can show, an example, no hidden flag.
func TestEveryCommandExplainsItself(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" || c.Parent() != nil && c.Parent().Name() == "completion" {
			return
		}
		var out bytes.Buffer
		c.SetOut(&out)
		if err := c.Help(); err != nil {
			t.Error(err)
		}
		if c.Short == "" || len(c.Long) < 2*len(c.Short) {
			t.Errorf("%s: its text is too short: %q", c.CommandPath(), c.Long)
		}
		if c.Runnable() && c.HasLocalFlags() && !c.HasAvailableSubCommands() && !c.Hidden && c.Name() != "version" && c.Example == "" {
			t.Errorf("%s: no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 121 {
				t.Errorf("%s: a line of %d columns: %q", c.CommandPath(), len(line), line)
			}
		}
		if strings.Contains(out.String(), "-fd") {
			t.Errorf("%s shows a flag of its own use:\n%s", c.CommandPath(), out.String())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	for _, c := range []*cobra.Command{Command(), control.Command(), sidecar.Command()} {
		visit(c)
		if !strings.Contains(c.Long, "Exit codes:") {
			t.Errorf("%s says nothing of its exit codes", c.Name())
		}
	}
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{"__complete up -o ": "json", "__complete up ": ":16\n", "completion bash": "__start_signet"} {
		c := Command()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&bytes.Buffer{})
		c.SetArgs(strings.Split(args, " "))
		if err := c.Execute(); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, lacks %q:\n%.300s", args, err, want, out.String())
		}
	}
}
