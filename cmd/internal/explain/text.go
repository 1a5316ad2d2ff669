package explain

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// printer writes paragraphs with a label in front.
type printer struct {
	b strings.Builder
	// label is that of the next line.
	label string
}

const labelWidth = 10

func (p *printer) section(label string) { p.label = label }

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(&p.b, "%-*s%s\n", labelWidth, p.label, fmt.Sprintf(format, args...))
	p.label = ""
}

// WriteText writes an answer for a person; its last line is the decision.
func (a *Answer) WriteText(w io.Writer) error {
	p := &printer{}
	q := &a.Question
	method, path := q.Method, q.Path
	if method == "" {
		method = "GET"
	}
	if path == "" {
		path = "/"
	}
	fmt.Fprintf(&p.b, "%s %s from %s to %s\n\n", Printable(method), Printable(path), Printable(q.From), Printable(q.To))
	if a.Route != nil {
		a.Route.print(p)
	}
	if a.Server != nil {
		a.Server.print(p)
	}
	p.section("Note")
	for _, n := range a.Notes {
		p.line("%s", Printable(n))
	}
	verdict := a.verdict()
	if !a.Reached() {
		verdict = "NOT REACHED; if it were: " + verdict
	}
	fmt.Fprintf(&p.b, "\n%s\n", verdict)
	_, err := io.WriteString(w, p.b.String())
	return err
}

// verdict is the last line.
func (a *Answer) verdict() string {
	switch a.Decision {
	case Unknown:
		return "UNKNOWN: the server could not be asked"
	case Allow:
		if a.By == nil {
			return "ALLOWED by default: nothing denies it, and no ALLOW policy selects " + a.Question.To
		}
		return "ALLOWED by " + a.By.words()
	}
	s := "DENIED"
	switch {
	case a.Reason == reasonNoRule && a.By != nil && a.By.Name == "none":
		s += " because no rule of the ALLOW policies matches"
	case a.By != nil:
		s += " by " + a.By.words()
	default:
		s += ": " + a.Reason
	}
	if a.Status > 0 {
		return s + " (" + strconv.Itoa(a.Status) + " " + Printable(a.Detail) + ")"
	}
	if a.Detail != "" {
		s += " (" + Printable(a.Detail) + ")"
	}
	return s
}

// words is KIND NAMESPACE/NAME rule N.
func (r Ref) words() string {
	s := r.Kind + " "
	if r.Namespace != "" {
		s += r.Namespace + "/"
	}
	s += r.Name
	if r.Rule >= 0 {
		s += " rule " + strconv.Itoa(r.Rule)
	}
	return s
}

func (r *RouteAnswer) print(p *printer) {
	p.section("Route")
	host := ""
	if r.Host != "" {
		host = ", host " + Printable(r.Host)
	}
	p.line("%s, %s%s: %s", r.Workload, strings.TrimSpace("listener "+r.Listener), host, r.Outcome)
	if r.Route != "" {
		p.line("route %s, path %s", Printable(r.Route), Printable(r.Match))
	}
	if r.Location != "" || r.Outcome == outcomeDirect {
		p.line("answers %d %s", r.Status, Printable(r.Location))
	}
	for _, d := range r.Destinations {
		mark := ""
		if d.Reaches {
			mark = "  <- this one"
		}
		p.line("%s weight %d%s", d.Cluster, d.Weight, mark)
		for _, e := range d.Endpoints {
			how := "plaintext"
			if e.MTLS {
				how = "mTLS, expecting " + strings.Join(e.Expect, " or ")
			}
			p.line("  %s %s %s", e.Address, e.Workload, how)
		}
	}
	if f := r.Forwarded; f != nil {
		p.line("forwarded as %s %s, host %s", f.Method, Printable(f.Path), Printable(f.Host))
	}
	for i := range r.Limits {
		p.line("limit %s", r.Limits[i].text())
	}
	for _, n := range r.Notes {
		p.line("note: %s", Printable(n))
	}
}

func (s *ServerAnswer) print(p *printer) {
	p.section("Server")
	p.line("%s:%d %s, mTLS %s, %s", s.Workload, s.Port, s.Protocol, s.Mode, s.SPIFFEID)
	p.section("Caller")
	who, from := s.Caller.SPIFFEID, ""
	if who == "" {
		who = "nobody (plaintext)"
	}
	if s.Caller.Address != "" {
		from = " at " + s.Caller.Address
	}
	p.line("%s%s", who, from)
	if s.Path != "" {
		p.section("Path")
		p.line("%s", Printable(s.Path))
		if s.Decoded != "" {
			p.line("decoded %s", Printable(s.Decoded))
		}
	}
	s.Token.print(p)
	p.section("Asked")
	for _, h := range s.Handovers {
		p.line("%s", h.text())
	}
	p.section("Policies")
	if len(s.Policies) == 0 && s.Path != "" {
		p.line("none selects this workload")
	}
	for i := range s.Policies {
		s.Policies[i].print(p)
	}
	p.section("Dry run")
	for _, d := range s.DryRun {
		p.line("%s would %s", d.By.words(), d.Decision)
	}
	p.section("Limits")
	for i := range s.Limits {
		p.line("%s", s.Limits[i].text())
	}
	if s.Audit != nil {
		p.section("Audit")
		p.line("marked by %s", s.Audit.words())
	}
	p.section("Note")
	for _, n := range s.Notes {
		p.line("%s", Printable(n))
	}
	p.label = ""
}

func (t *TokenAnswer) print(p *printer) {
	if t == nil {
		return
	}
	p.section("Token")
	if t.Refused != "" {
		p.line("refused: %s", Printable(t.Refused))
		return
	}
	p.line("%s, audiences %s", Printable(t.Principal), Printable(strings.Join(t.Audiences, ", ")))
	names := make([]string, 0, len(t.Claims))
	for n := range t.Claims {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		p.line("  %s: %s", Printable(n), Printable(fmt.Sprint(t.Claims[n])))
	}
}

func (h *Handover) text() string {
	s := h.Provider.words()
	switch {
	case !h.Asked:
		s += " is not asked from here, and counts as if it allowed"
	case h.Allowed:
		s += " allows"
	default:
		s += " denies"
	}
	for _, more := range []string{h.Rule, h.Error} {
		if more != "" {
			s += ": " + Printable(more)
		}
	}
	if h.DryRun {
		s += " (dry run)"
	}
	if h.Policy != nil {
		s += ", handed over by " + h.Policy.words()
	}
	return s
}

func (a *PolicyAnswer) print(p *printer) {
	s := fmt.Sprintf("%-6s %s/%s", a.Action, a.Namespace, a.Name)
	if a.DryRun {
		s += " (dry run)"
	}
	switch {
	case a.Matched:
		s += fmt.Sprintf(": matches, rule %d", a.Rule)
	case len(a.Rules) == 0:
		s += ": no match, it has no rules"
	default:
		s += ": no match"
	}
	p.line("%s", s)
	if a.Quarantined != "" {
		p.line("  stands for a refused policy: %s", Printable(a.Quarantined))
	}
	if a.Matched {
		return
	}
	for _, r := range a.Rules {
		p.line("  %s", r.text())
	}
}

// shownValues is how many values of a long list are shown.
const shownValues = 8

func (r *RuleAnswer) text() string {
	if r.Matched {
		return fmt.Sprintf("rule %d matches", r.Rule)
	}
	saw := strconv.Quote(r.Saw)
	if r.Absent {
		saw = "nothing"
	}
	want := make([]string, 0, shownValues)
	for _, v := range r.Want[:min(len(r.Want), shownValues)] {
		want = append(want, Printable(v))
	}
	if more := len(r.Want) - len(want); more > 0 {
		want = append(want, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("rule %d: %s wants %s; saw %s", r.Rule, r.Field, strings.Join(want, ", "), saw)
}

func (l *LimitAnswer) text() string {
	kind := "local"
	if l.Global {
		kind = "global"
	}
	s := fmt.Sprintf("%s: %d per %s", l.By.words(), l.Requests, l.Per)
	if l.Burst > 0 {
		s += fmt.Sprintf(", burst %d", l.Burst)
	}
	s += ", " + kind
	switch {
	case !l.Matched:
		return s + fmt.Sprintf(": no match, %s saw %q", l.Field, l.Saw)
	case l.Key != "":
		s += ": counts by " + Printable(l.Key)
	default:
		s += ": counts all together"
	}
	if l.Known {
		s += fmt.Sprintf(", %d left", l.Remaining)
	}
	return s
}

// Printable shows text that somebody else wrote: what could steer a terminal is escaped.
func Printable(s string) string {
	if !slices.ContainsFunc([]rune(s), func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// Count writes a number with the noun that it takes.
func Count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}
