package up

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/node"
)

// progress is how often those who wait are told what for.
const progress = 5 * time.Second

// Ready is the object that `-o json` prints on one line.
type Ready struct {
	Ready       bool          `json:"ready"`
	TrustDomain string        `json:"trustDomain"`
	Control     Control       `json:"control"`
	Workloads   []node.Status `json:"workloads"`
}

// Control says where the control plane's services are.
type Control struct {
	CA  string `json:"ca"`
	ADS string `json:"ads"`
}

// announce waits until every sidecar holds a certificate and its configuration, and prints the table or the object, once.
func (u *up) announce(ctx context.Context) error {
	tick := time.NewTicker(progress)
	defer tick.Stop()
	for {
		missing, changed := u.waiting()
		if len(missing) == 0 {
			break
		}
		select {
		case <-changed:
		case <-tick.C:
			slices.Sort(missing)
			u.cfg.Log.Info("waiting for sidecars", "missing", strings.Join(missing, " "))
		case <-ctx.Done():
			return nil
		}
	}
	addr := u.control.Addr().String()
	out := Ready{Ready: true, TrustDomain: u.cfg.TrustDomain, Control: Control{addr, addr}, Workloads: u.statuses()}
	if u.cfg.JSON {
		return json.NewEncoder(u.cfg.Stdout).Encode(out)
	}
	if err := u.table(out); err != nil {
		return err
	}
	if try, err := os.ReadFile(filepath.Join(u.cfg.Dir, "TRY")); err == nil {
		fmt.Fprintf(u.cfg.Stderr, "\n%s\n", try)
	}
	fmt.Fprintln(u.cfg.Stderr, "The mesh is up. Ctrl-C ends all of it.")
	return nil
}

func (u *up) statuses() []node.Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]node.Status, 0, len(u.sidecars))
	for _, sc := range u.sidecars {
		if sc.status == nil {
			continue
		}
		s := *sc.status
		if s.Inbound == nil {
			s.Inbound = []string{}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b node.Status) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func (u *up) table(r Ready) error {
	w := tabwriter.NewWriter(u.cfg.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WORKLOAD\tSPIFFE ID\tINBOUND\tOUTBOUND PROXY\tCERTIFICATE EXPIRES")
	for _, s := range r.Workloads {
		in := strings.Join(s.Inbound, ",")
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\n", s.Namespace, s.Name, s.SPIFFEID, cmp.Or(in, "-"), cmp.Or(s.Outbound, "-"),
			s.NotAfter.Local().Format(time.DateTime))
	}
	return w.Flush()
}
