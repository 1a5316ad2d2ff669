package explain

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh"
)

// Report is what other policies change for recorded traffic.
type Report struct {
	// Lines are all of the log, Requests those that were judged.
	Lines    uint64 `json:"lines"`
	Requests uint64 `json:"requests"`
	// Allowed and Denied are the requests for which nothing changes.
	Allowed uint64 `json:"stillAllowed"`
	Denied  uint64 `json:"stillDenied"`
	// NewlyDenied and NewlyAllowed are grouped, the most frequent first.
	NewlyDenied  []Change `json:"newlyDenied"`
	NewlyAllowed []Change `json:"newlyAllowed"`
	// Unjudged are lines and requests that could not be judged.
	Unjudged []Unjudged `json:"unjudged"`
	Notes    []string   `json:"notes,omitempty"`
}

// Change is requests that one rule treats otherwise than before.
type Change struct {
	From   string `json:"from"` // SPIFFE ID or plaintext
	To     string `json:"to"`   // NAMESPACE/NAME:PORT
	Method string `json:"method"`
	// Path is a template: what looks like a value is {*}.
	Path string `json:"path"`
	// By is the rule that denies now, or that allows now ("" for none needed); Before is the one that denied before.
	By       string `json:"by"`
	Before   string `json:"before,omitempty"`
	Requests uint64 `json:"requests"`
	// Example is one of the paths.
	Example string `json:"example"`
}

// Simulate judges recorded traffic by new policies and compares that with old ones, or where old is nil with what was
// recorded.
func Simulate(ctx context.Context, t *Traffic, old *Mesh) (*Report, error) {
	s := &simulation{t: t, report: &Report{Lines: t.Lines, Requests: t.Requests}, unjudged: reasons{},
		denied: map[Change]*Change{}, allowed: map[Change]*Change{}, handed: map[string]uint64{},
		now: map[string]*replayer{}, before: map[string]*replayer{}, same: map[string]bool{}}
	for shape, n := range t.counts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.one(ctx, &shape, n, old); err != nil {
			return nil, err
		}
	}
	r := s.report
	r.NewlyDenied, r.NewlyAllowed = sorted(s.denied), sorted(s.allowed)
	for reason, u := range t.passed {
		s.unjudged[reason] = u
	}
	r.Unjudged = s.unjudged.list()
	for name, n := range s.handed {
		r.Notes = append(r.Notes, fmt.Sprintf("%s handed to %s, whose answer is not replayed: it counts as if it allowed", Count(n, "request is", "requests are"), name))
	}
	slices.Sort(r.Notes)
	return r, nil
}

// simulation is the state of one Simulate.
type simulation struct {
	t               *Traffic
	report          *Report
	unjudged        reasons
	denied, allowed map[Change]*Change
	handed          map[string]uint64
	now, before     map[string]*replayer // by workload
	same            map[string]bool      // workloads of which nothing that judges has changed
}

// unchanged reports whether the policies of a workload are what they were: then what was recorded stands, also where a log
// does not say enough to judge it again.
func (s *simulation) unchanged(name string, old *Mesh) bool {
	same, known := s.same[name]
	if !known {
		a, errA := s.t.mesh.view(name)
		b, errB := old.view(name)
		same = errA == nil && errB == nil && a.TrustDomain == b.TrustDomain && a.Mesh.Normalization == b.Mesh.Normalization &&
			slices.EqualFunc(a.Authorization, b.Authorization, equal) && slices.EqualFunc(a.PeerAuthentication, b.PeerAuthentication, equal) &&
			slices.EqualFunc(a.Rego, b.Rego, equal)
		s.same[name] = same
	}
	return same
}

func equal[T proto.Message](a, b *mesh.Typed[T]) bool {
	return a.Key == b.Key && maps.Equal(a.Annotations, b.Annotations) && proto.Equal(a.Spec, b.Spec)
}

func (s *simulation) one(ctx context.Context, x *shape, n uint64, old *Mesh) error {
	now, handed, err := replay(ctx, s.now, s.t.mesh, x)
	if err != nil {
		return err
	}
	if x.tokenRefused() {
		if now.decision == Deny { // whatever becomes of its token
			s.report.Denied += n
		} else {
			s.pass(n, x, "its token was refused, and the log does not record the token")
		}
		return nil
	}
	was, wasHanded := x.recorded, ""
	if old != nil && now.decision == Unknown && s.unchanged(x.to, old) {
		now = was
	} else if old != nil {
		if was, wasHanded, err = replay(ctx, s.before, old, x); err != nil {
			return err
		}
	}
	if now.decision == Allow && handed != wasHanded {
		if old == nil && was.decision == Allow { // the authority's answer is what was recorded
			s.handed[handed] += n
		} else if handed != "" {
			now = outcome{decision: Unknown, why: "it is handed to " + handed + ", whose answer is not replayed"}
		}
	} else if handed != "" {
		s.handed[handed] += n
	}
	switch {
	case now.decision == Unknown:
		s.pass(n, x, now.why)
	case was.decision == Unknown:
		s.pass(n, x, "by the old policies: "+was.why)
	case was.decision == now.decision && now.decision == Allow:
		s.report.Allowed += n
	case was.decision == now.decision:
		s.report.Denied += n
	case now.decision == Deny:
		count(s.denied, x, n, now.by, "")
	default:
		count(s.allowed, x, n, now.by, was.by)
	}
	return nil
}

func (s *simulation) pass(n uint64, x *shape, why string) {
	s.unjudged.add(n, strings.TrimSpace(fmt.Sprintf("%s %s from %s to %s", x.method, x.path, x.who(), x.whom())), "%s", why)
	s.report.Requests -= n
}

// replay judges a shape by the policies of a mesh; one without its server can't.
func replay(ctx context.Context, rs map[string]*replayer, m *Mesh, x *shape) (outcome, string, error) {
	r := rs[x.to]
	if r == nil {
		if _, err := m.view(x.to); err != nil {
			return outcome{decision: Unknown, why: err.Error()}, "", nil
		}
		var err error
		if r, err = newReplayer(m, x.to); err != nil {
			return outcome{}, "", err
		}
		rs[x.to] = r
	}
	o, handed := r.judge(ctx, x)
	return o, handed, nil
}

// tokenRefused reports whether no policy denied the request, but RequestAuthentication.
func (x *shape) tokenRefused() bool {
	return x.recorded.decision == Deny && (x.recorded.by == mesh.KindRequestAuthentication || strings.HasPrefix(x.recorded.by, mesh.KindRequestAuthentication+"/"))
}

func (x *shape) who() string { return cmp.Or(x.from, Plaintext) }

func (x *shape) whom() string { return fmt.Sprintf("%s:%d", x.to, x.port) }

func count(into map[Change]*Change, x *shape, n uint64, by, before string) {
	method := x.method
	if x.tcp {
		method = "TCP"
	}
	key := Change{From: x.who(), To: x.whom(), Method: method, Path: guessTemplate(x.path), By: by, Before: before}
	c := into[key]
	if c == nil {
		fresh := key
		c = &fresh
		c.Example = x.path
		into[key] = c
	}
	c.Requests += n
	c.Example = min(c.Example, x.path) // one and the same in every run
}

func sorted(from map[Change]*Change) []Change {
	out := make([]Change, 0, len(from))
	for _, c := range from {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.From, b.From), strings.Compare(a.To, b.To),
			strings.Compare(a.Method, b.Method), strings.Compare(a.Path, b.Path), strings.Compare(a.By, b.By), strings.Compare(a.Before, b.Before))
	})
	return out
}

// WriteText writes the report for a person.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s judged: %d still allowed, %d still denied, %d newly denied, %d newly allowed\n",
		Count(r.Lines, "line", "lines"), Count(r.Requests, "request", "requests"), r.Allowed, r.Denied, total(r.NewlyDenied), total(r.NewlyAllowed))
	changes(&b, "\nNewly denied\n", r.NewlyDenied, false)
	changes(&b, "\nNewly allowed\n", r.NewlyAllowed, true)
	if len(r.Unjudged) > 0 {
		b.WriteString("\nNot judged\n")
		for _, u := range r.Unjudged {
			fmt.Fprintf(&b, "  %s\n", u.text())
		}
	}
	for i, n := range r.Notes {
		if i == 0 {
			b.WriteString("\nNote\n")
		}
		fmt.Fprintf(&b, "  %s\n", Printable(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Total is how many requests changes are of.
func total(cs []Change) (n uint64) {
	for i := range cs {
		n += cs[i].Requests
	}
	return n
}

func changes(b *strings.Builder, title string, cs []Change, before bool) {
	if len(cs) == 0 {
		return
	}
	b.WriteString(title)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	last := "BY"
	if before {
		last = "BY\tDENIED BEFORE BY"
	}
	fmt.Fprintf(w, "  REQUESTS\tFROM\tTO\tREQUEST\t%s\n", last)
	for _, c := range cs {
		by := Printable(cmp.Or(c.By, "no policy"))
		if before {
			by += "\t" + Printable(c.Before)
		}
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\n", c.Requests, Printable(c.From), c.To, Printable(strings.TrimSpace(c.Method+" "+c.Path)), by)
	}
	_ = w.Flush() // to a strings.Builder
}
