// Package explain answers what becomes of a request and why: the route on the client's side, then the server's judgement,
// which is proxy/judge's own. It asks a directory of objects, or running sidecars over their admin sockets; replays recorded
// traffic through other policies, writes the policies that recorded traffic needs, and runs cases written as YAML.
package explain

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/proxy/judge"
)

// Limits on what is asked. A head is bounded as any request's is (proxy/http1).
const (
	// MaxBody is the longest body of a question in bytes.
	MaxBody = 1 << 20
	// MaxQuestion is the longest question in bytes, as JSON.
	MaxQuestion = 2 << 20
	// MaxToken is the longest token file in bytes.
	MaxToken = 64 << 10
)

// Plaintext is the caller that proves nothing.
const Plaintext = "plaintext"

// Question is one request that somebody asks about.
type Question struct {
	// From is NAMESPACE/WORKLOAD, a SPIFFE ID, or Plaintext.
	From string `json:"from"`
	// To is NAMESPACE/WORKLOAD[:PORT].
	To string `json:"to"`
	// ToIP is the address of To, "" where To's name tells the caller's sidecar enough: to metrics, and so to a sidecar, a pod has
	// its Deployment's name.
	ToIP string `json:"toIP,omitempty"`
	// Host is HOST or HOST:PORT; "" is the service that the port of To serves.
	Host   string `json:"host,omitempty"`
	Method string `json:"method,omitempty"`
	// Path begins with '/', with its query.
	Path    string   `json:"path,omitempty"`
	Headers []Header `json:"headers,omitempty"`
	Body    []byte   `json:"body,omitempty"`
	// SourceIP is the caller's address, "" if it is not known.
	SourceIP string `json:"sourceIP,omitempty"`
	// Forwarded says that the request is as the client's sidecar forwards it: with SNI as its server name, and Plain where
	// it dials without TLS.
	Forwarded bool   `json:"forwarded,omitempty"`
	Plain     bool   `json:"plain,omitempty"`
	SNI       string `json:"sni,omitempty"`
}

// Header is one field of a request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Ref names what decided. Rule counts from 0; -1 is the policy as a whole.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Rule      int    `json:"rule"`
}

// String is KIND/NAMESPACE/NAME[RULE], as metrics and the access log name who denied.
func (r Ref) String() string { return authz.NewRef(r.Kind, r.Namespace, r.Name, r.Rule).By }

func refOf(r *authz.RuleRef) *Ref {
	if r == nil {
		return nil
	}
	out := &Ref{r.Kind, r.Namespace, r.Policy, r.Rule}
	if out.Name == "" {
		out.Name = "none"
	}
	return out
}

// At is one workload with what judges there.
type At struct {
	Workload *compile.Workload
	Judge    judge.Judge
	// Ask says which authorities may be asked; nil for all.
	Ask func(*authz.Custom) bool
	// Demand asks for a host that the sidecar does not hold because its program never called it, and returns the workload as it
	// runs then. nil: it holds all that it may see.
	Demand func(ctx context.Context, host string) *At
	// Live says that it runs, so that limits have a state and remote key sets their keys.
	Live bool
	// remoteKeys says that a RequestAuthentication names keys that are not fetched for files.
	remoteKeys bool
	// claimed is a token that counts as verified, nil for none.
	claimed *jwt.Token
}

// Reply is what one workload knows of a question: the route if it is the caller's, the judgement if it is the server's. Both
// are nil for a workload that is neither.
type Reply struct {
	Route  *RouteAnswer  `json:"route,omitempty"`
	Server *ServerAnswer `json:"server,omitempty"`
}

// Reply answers for one workload.
func (a *At) Reply(ctx context.Context, q *Question) Reply {
	var out Reply
	name := nameOf(a.Workload)
	if q.From == name && !q.Forwarded {
		r := Route(a.Workload, q)
		out.Route = &r
	}
	if to, _, err := splitTo(q.To); err == nil && to == name {
		s := a.Server(ctx, q)
		out.Server = &s
	}
	return out
}

// Answer is all that is known of a question.
type Answer struct {
	Decision string `json:"decision"` // allow or deny
	// By is the rule that decided; nil where no ALLOW policy applies, and for a request that can't be read.
	By *Ref `json:"by"`
	// Reason is a word for why, Status and Detail what a denied caller and the access log see.
	Reason string `json:"reason"`
	Status int    `json:"status,omitempty"`
	Detail string `json:"detail,omitempty"`

	Question Question      `json:"question"`
	Route    *RouteAnswer  `json:"route,omitempty"`
	Server   *ServerAnswer `json:"server,omitempty"`
	Notes    []string      `json:"notes,omitempty"`
}

// The decisions.
const (
	Allow = "allow"
	Deny  = "deny"
)

// Allowed reports whether the decision is Allow.
func (a *Answer) Allowed() bool { return a.Decision == Allow }

// Reached reports whether the request gets to the server at all, as far as the caller's sidecar is known.
func (a *Answer) Reached() bool { return a.Route == nil || a.Route.Reaches }

func conclude(q *Question, r *RouteAnswer, s *ServerAnswer, notes []string) *Answer {
	a := &Answer{Decision: Deny, Question: shown(*q), Route: r, Server: s, Notes: notes}
	if s != nil {
		a.Decision, a.By, a.Reason, a.Status, a.Detail = s.Decision, s.By, s.Reason, s.Status, s.Detail
	}
	return a
}

// shown is a question without what nobody else should read.
func shown(q Question) Question {
	q.Headers = redact(q.Headers)
	q.Body = nil
	return q
}

// redact hides the values of fields that carry credentials.
func redact(fields []Header) []Header {
	out := make([]Header, len(fields))
	for i, f := range fields {
		if secret(f.Name) {
			f.Value = "(hidden)"
		}
		out[i] = f
	}
	return out
}

func secret(field string) bool {
	switch strings.ToLower(field) {
	case "authorization", "proxy-authorization", "cookie", "x-api-key":
		return true
	}
	return false
}

// caller is a From, read: a workload, an identity or nobody.
type caller struct {
	workload string // NAMESPACE/NAME
	id       identity.ID
}

func parseFrom(from string) (caller, error) {
	switch {
	case from == "":
		return caller{}, fmt.Errorf("who calls is not given: want NAMESPACE/WORKLOAD, spiffe://... or %s", Plaintext)
	case from == Plaintext:
		return caller{}, nil
	case strings.Contains(from, "://"):
		id, err := identity.Parse(from)
		return caller{id: id}, err
	}
	if err := checkWorkload(from); err != nil {
		return caller{}, fmt.Errorf("caller %w, spiffe://... or %s", err, Plaintext)
	}
	return caller{workload: from}, nil
}

// splitTo reads NAMESPACE/WORKLOAD[:PORT]; the port is 0 where there is none.
func splitTo(to string) (workload string, port uint16, err error) {
	workload, number, given := strings.Cut(to, ":")
	if err := checkWorkload(workload); err != nil {
		return "", 0, fmt.Errorf("server %w, with :PORT or without", err)
	}
	if given {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("server %q: %q is not a port", to, number)
		}
		port = uint16(n)
	}
	return workload, port, nil
}

func checkWorkload(s string) error {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/ ") {
		return fmt.Errorf("%q: want NAMESPACE/WORKLOAD", s)
	}
	return nil
}

func nameOf(w *compile.Workload) string { return w.Self.Namespace + "/" + w.Self.Name }

func parseAddr(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("source address %q is not an IP address", s)
	}
	return a.Unmap(), nil
}
