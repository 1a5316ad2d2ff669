package explain

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
)

// shape is one sort of request as it was recorded: what policies may look at and the log knows.
type shape struct {
	to        string // NAMESPACE/NAME
	port      uint16
	tcp       bool
	from      string // SPIFFE ID, "" for nobody
	address   netip.Addr
	method    string
	authority string
	path      string // without its query
	forwarded string // x-forwarded-for
	agent     string
	sni       string
	recorded  outcome
}

// outcome is what policies said of a shape.
type outcome struct {
	decision string
	by       string // KIND/NAMESPACE/NAME[RULE]
	why      string // of Unknown
}

// Traffic is what was recorded: how often each shape of request came.
type Traffic struct {
	mesh   *Mesh
	server string // for lines that don't name their workload
	byAddr map[netip.Addr][]*mesh.Workload
	counts map[shape]uint64

	// Lines are all that are not empty, Requests those that are judged.
	Lines, Requests uint64
	passed          reasons
}

// reasons counts lines that are not judged, with one for an example.
type reasons map[string]*Unjudged

// Unjudged is why lines could not be judged.
type Unjudged struct {
	Reason string `json:"reason"`
	Lines  uint64 `json:"lines"`
	// Example is one of them, in short.
	Example string `json:"example,omitempty"`
}

func (r reasons) add(n uint64, example, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	u := r[reason]
	if u == nil {
		u = &Unjudged{Reason: reason, Example: example}
		r[reason] = u
	}
	u.Lines += n
	if example != "" && (u.Example == "" || example < u.Example) {
		u.Example = example // one and the same in every run
	}
}

// text is the count with its reason.
func (u *Unjudged) text() string {
	s := Count(u.Lines, "line", "lines") + ": " + Printable(u.Reason)
	if u.Example != "" {
		s += " (such as " + Printable(u.Example) + ")"
	}
	return s
}

// list is sorted by lines, most first.
func (r reasons) list() []Unjudged {
	out := []Unjudged{}
	for _, u := range r {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b Unjudged) int {
		if a.Lines != b.Lines {
			return int(min(max(int64(b.Lines)-int64(a.Lines), -1), 1))
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return out
}

// ReadTraffic reads access logs, "-" for in. m says who is where; server is the workload of lines that name none ("" finds
// it by address).
func ReadTraffic(m *Mesh, server string, paths []string, in io.Reader) (*Traffic, error) {
	t := &Traffic{mesh: m, server: server, byAddr: map[netip.Addr][]*mesh.Workload{}, counts: map[shape]uint64{}, passed: reasons{}}
	if server != "" {
		if _, err := m.view(server); err != nil {
			return nil, err
		}
	}
	for _, w := range m.snapshot.Workloads() {
		for _, a := range w.Addresses() {
			t.byAddr[a.Unmap()] = append(t.byAddr[a.Unmap()], w)
		}
	}
	for _, p := range paths {
		err := readLog(p, in, func(l *logLine) error { t.add(l); return nil })
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Traffic) add(l *logLine) {
	t.Lines++
	switch {
	case l == nil:
		t.passed.add(1, "", "not a line of JSON (MeshConfig.accessLogEncoding: JSON makes sidecars write it)")
		return
	case !l.isExchange():
		t.passed.add(1, "", "not a line of an access log")
		return
	case !t.isInbound(l):
		t.passed.add(1, "", "of the caller's side: the server's line counts")
		return
	}
	s, reason := t.shape(l)
	if reason != "" {
		t.passed.add(1, exampleOf(l), "%s", reason)
		return
	}
	if _, known := t.counts[s]; !known && len(t.counts) >= MaxShapes {
		t.passed.add(1, exampleOf(l), "more than %d different requests", MaxShapes)
		return
	}
	t.counts[s]++
	t.Requests++
}

func exampleOf(l *logLine) string {
	path, _, _ := strings.Cut(string(l.Path), "?")
	return strings.TrimSpace(fmt.Sprintf("%s %s %s from %s to %s", l.Start, l.Method, path, l.DownstreamRemote, l.DownstreamLocal))
}

// isInbound is the line's own word, else whether the address that was called is the server's.
func (t *Traffic) isInbound(l *logLine) bool {
	if l.UpstreamCluster != "" || l.inbound() {
		return l.inbound()
	}
	host, port := splitAddress(l.DownstreamLocal)
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	for _, w := range t.byAddr[a.Unmap()] {
		at, err := t.mesh.At(w.Namespace + "/" + w.Name)
		if err != nil {
			continue
		}
		if _, err := inboundPort(at.Workload, port); err == nil && port != 0 {
			return true
		}
	}
	return false
}

// shape reads a line; reason is why it can't be judged, "" if it can.
func (t *Traffic) shape(l *logLine) (s shape, reason string) {
	if s.to, reason = t.serverOf(l); reason != "" {
		return s, reason
	}
	s.port, s.tcp, s.recorded, s.sni = l.port(), l.Protocol == "", l.recorded(), string(l.SNI)
	if s.port == 0 {
		return s, "the port that was called is not recorded"
	}
	if s.recorded.decision == Unknown {
		return s, s.recorded.why
	}
	if reason = t.callerOf(l, &s); reason != "" || s.tcp {
		return s, reason
	}
	if l.Path.cut(loggedPath) || l.Authority.cut(loggedValue) {
		return s, "the path or host was too long for the log, which cut it"
	}
	s.method, s.authority, s.agent = string(l.Method), string(l.Authority), string(l.UserAgent)
	s.forwarded = string(l.ForwardedFor)
	if l.ForwardedFor.cut(loggedValue) {
		return s, "x-forwarded-for was too long for the log, which cut it"
	}
	s.path, _, _ = strings.Cut(string(l.Path), "?")
	if s.method == "" || s.path == "" {
		return s, "method or path is not recorded"
	}
	return s, ""
}

func (t *Traffic) serverOf(l *logLine) (name, reason string) {
	if l.Workload != "" {
		namespace, workload, ok := strings.Cut(string(l.Workload), ".")
		if _, err := t.mesh.view(namespace + "/" + workload); !ok || err != nil {
			return "", fmt.Sprintf("there is no workload %s/%s in the directory", namespace, workload)
		}
		return namespace + "/" + workload, ""
	}
	if t.server != "" {
		return t.server, ""
	}
	host, _ := splitAddress(l.DownstreamLocal)
	a, err := netip.ParseAddr(host)
	if err != nil {
		return "", "the address that was called is not recorded"
	}
	switch ws := t.byAddr[a.Unmap()]; len(ws) {
	case 0:
		return "", "no WorkloadEntry has the address " + host + ": name the server by --to"
	case 1:
		return ws[0].Namespace + "/" + ws[0].Name, ""
	}
	return "", "several WorkloadEntries have the address " + host + ": name the server by --to"
}

// callerOf is the identity that the line names, or that its address means; nobody where no TLS was spoken.
func (t *Traffic) callerOf(l *logLine, s *shape) (reason string) {
	host, _ := splitAddress(l.DownstreamRemote)
	if a, err := netip.ParseAddr(host); err == nil {
		s.address = a.Unmap()
	}
	switch {
	case l.SourcePrincipal != "":
		id, err := identity.Parse(string(l.SourcePrincipal))
		if err != nil {
			return "the caller's identity is no SPIFFE ID"
		}
		s.from = id.String()
		return ""
	case l.Workload != "" || l.SNI == "": // ours says who proved what; Istio's callers name a server with TLS
		return ""
	}
	ids := map[string]bool{}
	for _, w := range t.byAddr[s.address] {
		ids[w.ID.String()] = true
	}
	switch len(ids) {
	case 0:
		return "the caller's address is no workload's"
	case 1:
		for id := range ids {
			s.from = id
		}
		return ""
	}
	return "the caller's address is that of several identities"
}
