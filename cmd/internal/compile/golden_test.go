package compile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy/route"
)

// TestGoldens compiles the directories in testdata: NAMESPACE.WORKLOAD.golden is what that workload runs. They are written
// anew when the environment variable UPDATE_GOLDEN is set.
func TestGoldens(t *testing.T) {
	goldens, err := filepath.Glob("testdata/*/*.golden")
	if err != nil || len(goldens) < 6 {
		t.Fatalf("found %d goldens: %v", len(goldens), err)
	}
	for _, golden := range goldens {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(golden, "testdata/"), ".golden"), func(t *testing.T) {
			ns, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(golden), ".golden"), ".")
			v, ok := snapshot(t, filepath.Dir(golden)).View(ns, name)
			if !ok {
				t.Fatalf("no workload %s/%s", ns, name)
			}
			got := dump(compiled(t, v))
			// What travels over the wire must come to the same.
			again, problems := mesh.NewView(v.Objects, v.TrustDomain, ns+"/"+name, nil)
			if again == nil {
				t.Fatal(problems)
			}
			if wire := dump(compiled(t, again)); wire != got {
				t.Errorf("from the objects of the view:\n%s\nwant\n%s", wire, got)
			}
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func snapshot(t testing.TB, dir string) *mesh.Snapshot {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var objects []*mesh.Object
	report := func(ps []mesh.Problem) {
		for _, p := range ps {
			if p.Severity == mesh.Refused {
				t.Fatalf("%s: %s: %s", p.Position.File, p.Field, p.Message)
			}
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		os, ps := mesh.Parse(f, data, mesh.ParseOptions{TrustDomain: "cluster.local", Now: time.Unix(1, 0)})
		report(ps)
		objects = append(objects, os...)
	}
	s, ps := mesh.Build(objects, mesh.BuildOptions{TrustDomain: "cluster.local"})
	report(ps)
	return s
}

// dump writes down what a workload runs.
func dump(w *Workload) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "workload %s allowAny=%v\n", w.Self.ID, w.AllowAny)
	for _, in := range w.Inbound {
		fmt.Fprintf(&b, "inbound %s http=%v %s cluster=%s service=%q\n", in.Bind, in.HTTP, in.Mode, in.Cluster, in.Service.Service)
	}
	for _, o := range w.Outbound {
		fmt.Fprintf(&b, "outbound %s %s\n", o.Bind, o.Kind)
		dumpWeighted(&b, "  to", o.Destinations)
		for _, h := range o.Table.Hosts() {
			fmt.Fprintf(&b, "  host %s:%d http=%v service=%s\n", h.Host, h.Port, h.HTTP, h.Service.Service)
			dumpWeighted(&b, "    tunnel", h.Tunnel)
			for _, r := range h.Routes {
				dumpRoute(&b, r)
			}
		}
	}
	for _, c := range w.Clusters {
		fmt.Fprintf(&b, "cluster %s %s %s alpn=%q sni=%q local=%s service=%s\n", c.Name, c.Policy, c.ConnectTimeout, c.ALPN, c.SNI, c.Local, c.Destination.Service)
		for _, t := range c.Targets {
			fmt.Fprintf(&b, "  target %s weight=%d mtls=%v expect=[%s]", t.Address, t.Weight, t.MTLS, expects(t))
			if t.Party != nil {
				fmt.Fprintf(&b, " workload=%s/%s", t.Party.Namespace, t.Party.Workload)
			}
			b.WriteByte('\n')
		}
	}
	for _, s := range w.Warnings {
		fmt.Fprintf(&b, "warning %s\n", s)
	}
	return b.String()
}

func dumpWeighted(b *bytes.Buffer, indent string, ds []route.Weighted) {
	for _, d := range ds {
		fmt.Fprintf(b, "%s %s weight=%d\n", indent, d.Cluster, d.Weight)
	}
}

func dumpRoute(b *bytes.Buffer, r *route.Route) {
	fmt.Fprintf(b, "    route %q", r.Name)
	c := r.Condition
	for _, n := range append([]route.Named{{Name: "uri", Text: c.URI}, {Name: "scheme", Text: c.Scheme}, {Name: "method", Text: c.Method},
		{Name: "authority", Text: c.Authority}}, c.Headers...) {
		if !n.Text.IsZero() {
			fmt.Fprintf(b, " %s %s", n.Name, n.Text)
		}
	}
	for _, n := range c.QueryParams {
		fmt.Fprintf(b, " ?%s %s", n.Name, n.Text)
	}
	fmt.Fprintf(b, " timeout=%s attempts=%d explicit=%v", r.Timeout, r.Retry.Attempts, r.Retry.Explicit)
	switch r.Action {
	case route.Redirect:
		fmt.Fprintf(b, " redirect=%+v", *r.Redirect)
	case route.Direct:
		fmt.Fprintf(b, " direct=%d %q", r.Direct.Status, r.Direct.Body)
	}
	b.WriteByte('\n')
	dumpWeighted(b, "      to", r.Destinations)
}
