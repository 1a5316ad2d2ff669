package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
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
	for _, c := range []*cobra.Command{Signet(), Signetd(), Proxy()} {
		visit(c)
		if !strings.Contains(c.Long, "Exit codes:") {
			t.Errorf("%s says nothing of its exit codes", c.Name())
		}
	}
}

func TestStateDir(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, tc := range []struct{ xdg, given, td, want string }{
		{"", "", "cluster.local", "/home/me/.local/state/signet/cluster.local"},
		{"/xdg", "", "shop.example", "/xdg/signet/shop.example"},
		{"relative", "", "shop.example", "/home/me/.local/state/signet/shop.example"},
		{"/xdg", "/own", "shop.example", "/own"},
		{"/xdg", "/own", "..", "/own"}, // a name by the letter of SPIFFE
		{"/xdg", "", "..", ""},
		{"/xdg", "", "../x", ""},
		{"/xdg", "/own", "a/b", ""},
		{"/xdg", "/own", "Upper", ""},
		{"/xdg", "/own", "", ""},
	} {
		t.Setenv("XDG_STATE_HOME", tc.xdg)
		got, err := stateDir(tc.given, tc.td)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%+v: got %q, %v", tc, got, err)
		}
	}
	if got, err := stateDir("own", "x"); err != nil || !filepath.IsAbs(got) {
		t.Errorf("a relative path stays one: %q, %v", got, err)
	}
}

func TestCheckAddress(t *testing.T) {
	for _, good := range []string{"127.0.0.1:0", "0.0.0.0:15012", "[::1]:1", ":0", "localhost:15012", "a.example:1"} {
		if err := checkAddress("--a", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "::1:1"} {
		if err := checkAddress("--a", bad); err == nil || !strings.Contains(err.Error(), "want ADDRESS:PORT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckTTL(t *testing.T) {
	for d, ok := range map[time.Duration]bool{0: true, 5 * time.Second: true, 24 * time.Hour: true, 90 * 24 * time.Hour: true,
		-time.Hour: false, time.Nanosecond: false, 4 * time.Second: false, 90*24*time.Hour + 1: false} {
		if err := checkTTL(d); (err == nil) != ok {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{"__complete up -o ": "json", "__complete up ": ":16\n", "completion bash": "__start_signet"} {
		c := Signet()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&bytes.Buffer{})
		c.SetArgs(strings.Split(args, " "))
		if err := c.Execute(); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, lacks %q:\n%.300s", args, err, want, out.String())
		}
	}
}
