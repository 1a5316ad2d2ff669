package tool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
	"github.com/signet-mesh/signet/cmd/internal/node"
	"github.com/signet-mesh/signet/cmd/internal/plane"
	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

const statusHelp = `Show the control plane and the sidecars of this machine or of a cluster: which sidecars run on the configuration
of now, how their policies do, and every object that is refused, quarantined or unresolved.

  refused      the object is not used; the last good version goes on where there is one
  quarantined  it has no last good version, and what it selects is closed
  unresolved   it refers to something that does not exist
  warning      a part of it is dropped

Of a cluster every replica of the control plane is asked; sidecars themselves only where they are named, as
NAMESPACE/POD or NAMESPACE/DEPLOYMENT (StatefulSet, DaemonSet, Job, CronJob), or by --namespace: all of that
namespace, at most 100. Of this machine all are asked that are found, or those that are named.

` + remoteHelp + `

Exit codes: 0 everything stands, 3 something is refused, quarantined or unresolved, a sidecar does not
answer or is not in sync, or a policy lacks what it judges by (its bundle, an issuer's keys, the store of
limits), 1 nothing could be asked: in a cluster whose control plane has no pod that runs, the message says
what there is of it and what to do, 2 a mistake in flags.`

// exitFindings is what `status` ends with when not all is well.
const exitFindings = 3

// meshStatus is what `status -o json` prints.
type meshStatus struct {
	// Cluster is the context of a cluster that was asked, Replicas the pods of its control plane.
	Cluster  string          `json:"cluster,omitempty"`
	Replicas []replicaStatus `json:"replicas,omitempty"`
	// Control is null if no control plane could be asked.
	Control  *plane.Status   `json:"control"`
	Sidecars []sidecarStatus `json:"sidecars"`
	// Silent are sockets that did not answer, with the reason.
	Silent []string `json:"silent"`
	// mute says that a sidecar is among them.
	mute bool
}

// sidecarStatus is the part of a sidecar's GET /status that is shown.
type sidecarStatus struct {
	Ready     bool        `json:"ready"`
	Workload  node.Status `json:"workload"`
	Discovery struct {
		Connected  bool
		Generation string
		LastError  string
		LastNACK   string
	} `json:"discovery"`
	Policies node.Policies `json:"policies"`
	Warnings []string      `json:"warnings"`
}

func newStatus() *cobra.Command {
	var w where
	var output string
	c := &cobra.Command{
		Use:     "status [NAMESPACE/WORKLOAD...]",
		Short:   "Show sidecars, policies, and every object that is refused, quarantined or unresolved",
		Long:    statusHelp,
		Example: "  signet status\n  signet status --state ./state -o json\n  signet status --context prod shop/cart shop/pay-5f7c9d6b8-x2v4q",
		Args:    cli.Args(cobra.ArbitraryArgs),
		RunE: func(c *cobra.Command, names []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			k, err := w.cluster(c)
			if err != nil {
				return err
			}
			var s *meshStatus
			if k != nil {
				s, err = k.status(c.Context(), names)
			} else {
				s, err = w.status(c.Context(), names)
			}
			if err != nil {
				return err
			}
			if output == "json" {
				err = writeJSON(c.OutOrStdout(), s)
			} else {
				err = s.write(c.OutOrStdout())
			}
			if err == nil && !s.well() {
				return cli.Exit(exitFindings)
			}
			return err
		},
	}
	w.sidecars(c)
	w.remote.add(c, "n", "namespace of a cluster whose sidecars are asked, and of names that have none")
	c.Flags().StringVarP(&output, "output", "o", "table", "what to print: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// status asks every socket that is found; names leave all other sidecars out.
func (w *where) status(ctx context.Context, names []string) (*meshStatus, error) {
	out := &meshStatus{Sidecars: []sidecarStatus{}, Silent: []string{}}
	sockets := w.admin
	state, err := cli.StateDir(w.state, w.trustDomain)
	if err != nil {
		return nil, err
	}
	if len(sockets) == 0 {
		dirs, err := w.runDirs()
		if err != nil {
			return nil, err
		}
		sockets = explain.Sockets(dirs...)
	}
	control := filepath.Join(state, plane.ControlSocket)
	var c plane.Status
	if err := getStatus(ctx, control, &c); err == nil {
		out.Control = &c
	} else {
		out.Silent = append(out.Silent, fmt.Sprintf("control plane at %s: %v", control, err))
	}
	for _, s := range sockets {
		var one sidecarStatus
		if err := getStatus(ctx, s, &one); err != nil {
			out.Silent, out.mute = append(out.Silent, fmt.Sprintf("sidecar at %s: %v", s, err)), true
			continue
		}
		if len(names) == 0 || slices.Contains(names, one.name()) {
			out.Sidecars = append(out.Sidecars, one)
		}
	}
	out.sort()
	if out.Control == nil && len(out.Sidecars) == 0 {
		return nil, noCluster(fmt.Errorf("asking for status: nothing answers\n  %s", strings.Join(out.Silent, "\n  ")))
	}
	for _, n := range names {
		if !slices.ContainsFunc(out.Sidecars, func(x sidecarStatus) bool { return x.name() == n }) {
			return nil, cli.Mistake(fmt.Errorf("no sidecar that answers here is %s's", n))
		}
	}
	return out, nil
}

func (x *sidecarStatus) name() string { return x.Workload.Namespace + "/" + x.Workload.Name }

func (s *meshStatus) sort() {
	slices.SortFunc(s.Sidecars, func(a, b sidecarStatus) int { return strings.Compare(a.name(), b.name()) })
}

// maxStatus is the longest status that is read, in bytes.
const maxStatus = 64 << 20

func getStatus(ctx context.Context, socket string, into any) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/status", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(into)
}

// well reports whether there is nothing to mend.
func (s *meshStatus) well() bool {
	if s.Control != nil {
		for _, p := range s.Control.Problems {
			if p.State != "warning" {
				return false
			}
		}
		for _, p := range s.Control.Proxies {
			if !p.InSync {
				return false
			}
		}
	}
	if slices.ContainsFunc(s.Replicas, func(r replicaStatus) bool { return r.Error != "" }) {
		return false
	}
	return !s.mute && !slices.ContainsFunc(s.Sidecars, func(x sidecarStatus) bool {
		return !x.Ready || x.Discovery.LastNACK != "" || len(x.Warnings) > 0 || !working(&x.Policies)
	})
}

// working reports whether policies have what they judge by: a bundle, keys, a store that answers.
func working(p *node.Policies) bool {
	return !slices.ContainsFunc(p.Rego, func(r node.RegoStatus) bool { return !r.Ready }) &&
		!slices.ContainsFunc(p.Keys, func(k jwks.Status) bool { return len(k.KeyIDs) == 0 }) &&
		(p.Store == nil || p.Store.State != "away")
}

func (s *meshStatus) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if s.Cluster != "" {
		s.writeReplicas(w)
	}
	if s.Cluster == "" || len(s.Sidecars) > 0 {
		fmt.Fprintln(w, "SIDECAR\tREADY\tIN SYNC\tCERTIFICATE ENDS\tNOTE")
	}
	for i := range s.Sidecars {
		x := &s.Sidecars[i]
		name := x.name()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, yesNo(x.Ready), s.inSync(name), x.Workload.NotAfter.Format(time.RFC3339), noteOf(x))
	}
	s.writePolicies(w)
	if s.Control != nil {
		fmt.Fprintf(w, "\nCONTROL PLANE\t%d objects of trust domain %s, %d sidecars known\n", s.Control.Objects, s.Control.TrustDomain, len(s.Control.Proxies))
		if len(s.Control.Problems) > 0 {
			fmt.Fprintln(w, "\nSTATE\tOBJECT\tWHERE\tFIELD\tREASON")
		}
		for _, p := range s.Control.Problems {
			fmt.Fprintf(w, "%s\t%s %s/%s\t%s\t%s\t%s\n", p.State, p.Kind, p.Namespace, p.Name, orDash(p.Where), orDash(p.Field), p.Message)
		}
	}
	for _, x := range s.Silent {
		fmt.Fprintf(w, "\n%s\n", x)
	}
	return w.Flush()
}

func (s *meshStatus) inSync(workload string) string {
	if s.Control == nil {
		return "unknown"
	}
	for _, p := range s.Control.Proxies {
		if p.Workload == workload {
			return yesNo(p.InSync)
		}
	}
	return "no"
}

// noteOf is what a person should know of a sidecar.
func noteOf(x *sidecarStatus) string {
	switch {
	case x.Discovery.LastNACK != "":
		return "keeps its last good configuration: " + oneLine(x.Discovery.LastNACK)
	case !x.Discovery.Connected && x.Discovery.LastError != "":
		return "control plane away: " + oneLine(x.Discovery.LastError)
	case len(x.Warnings) > 0:
		return strings.Join(x.Warnings, "; ")
	}
	return "-"
}

// writePolicies shows what the sidecars say of RegoPolicies, key sets and the store of limits, only where there is
// something to say.
func (s *meshStatus) writePolicies(w io.Writer) {
	head := false
	row := func(workload, what, state, note string) {
		if !head {
			fmt.Fprintln(w, "\nSIDECAR\tPART\tSTATE\tNOTE")
			head = true
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", workload, what, state, orDash(oneLine(note)))
	}
	for i := range s.Sidecars {
		x := &s.Sidecars[i]
		name := x.name()
		for _, r := range x.Policies.Rego {
			state, note := "native code", r.LastError
			switch {
			case !r.Ready:
				state = "denies: no bundle yet"
			case !r.Lowered:
				state, note = "topdown", firstOf(r.LastError, r.NotLowered)
			}
			row(name, "RegoPolicy "+r.Policy, state, note)
		}
		for _, k := range x.Policies.Keys {
			row(name, "keys of "+k.Issuer, fmt.Sprintf("%d keys", len(k.KeyIDs)), k.Error)
		}
		if st := x.Policies.Store; st != nil {
			row(name, "store of limits "+st.Address, st.State, st.Error)
		}
	}
}

func yesNo(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

func orDash(s string) string { return firstOf(s, "-") }

func firstOf(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
