package explain

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/cmd/internal/compile"
	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/limit"
)

// ServerAnswer is how the server's sidecar judges a request.
type ServerAnswer struct {
	Workload string `json:"workload"` // NAMESPACE/NAME
	SPIFFEID string `json:"spiffeID"`
	// Mistake is why the question has no answer here; what follows is empty then.
	Mistake  string `json:"mistake,omitempty"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"` // HTTP or TCP
	Mode     string `json:"mode"`     // STRICT, PERMISSIVE or DISABLE
	Service  string `json:"service,omitempty"`
	Caller   Caller `json:"caller"`

	Decision string `json:"decision"`
	By       *Ref   `json:"by"`
	Reason   string `json:"reason"`
	Status   int    `json:"status,omitempty"`
	Detail   string `json:"detail,omitempty"`

	// Path and Decoded are the two readings of the path: what is routed, logged and forwarded, and what a program may make
	// of it. Decoded is "" where it is no other.
	Path      string          `json:"path,omitempty"`
	Decoded   string          `json:"decodedPath,omitempty"`
	Token     *TokenAnswer    `json:"token,omitempty"`
	Handovers []Handover      `json:"handovers,omitempty"`
	Policies  []PolicyAnswer  `json:"policies"`
	DryRun    []DryRunOutcome `json:"dryRun,omitempty"`
	Limits    []LimitAnswer   `json:"limits,omitempty"`
	Audit     *Ref            `json:"audit,omitempty"`
	Notes     []string        `json:"notes,omitempty"`
}

// Caller is who calls, as the server sees it.
type Caller struct {
	// SPIFFEID is "" for a caller that proves nothing.
	SPIFFEID string `json:"spiffeID,omitempty"`
	Address  string `json:"address,omitempty"`
}

// The reasons of a decision that are not authz's.
const (
	reasonAllowRule    = "allow-rule"        // an ALLOW rule matched
	reasonNoAllow      = "no-allow-policy"   // nothing denied, and there is no ALLOW policy
	reasonDenyRule     = "deny-rule"         // a DENY rule matched
	reasonNoRule       = "no-allow-rule"     // there are ALLOW policies, and no rule of theirs matched
	reasonPlaintext    = "plaintext-refused" // under STRICT
	reasonTrustDomain  = "trust-domain"      // the certificate is of another trust domain
	reasonBadPath      = "bad-path"
	reasonToken        = "token-refused"
	reasonAuthority    = "authority-denied"
	reasonUnanswerable = "bad-request"
	reasonLimit        = "rate-limited"
)

// Server judges a question at its server.
func (a *At) Server(ctx context.Context, q *Question) ServerAnswer {
	w := a.Workload
	out := ServerAnswer{Workload: nameOf(w), SPIFFEID: w.Self.ID.String(), Decision: Deny, Policies: []PolicyAnswer{}}
	if err := a.server(ctx, q, &out); err != nil {
		out.Mistake = err.Error()
	}
	return out
}

func (a *At) server(ctx context.Context, q *Question, out *ServerAnswer) error {
	_, number, err := splitTo(q.To)
	if err != nil {
		return err
	}
	port, err := inboundPort(a.Workload, number)
	if err != nil {
		return err
	}
	out.Port, out.Mode, out.Protocol = port.Bind.Port(), port.Mode.String(), "TCP"
	if port.HTTP {
		out.Protocol = "HTTP"
	}
	if port.Service != nil {
		out.Service = port.Service.Service
	}
	c, err := a.connection(q, port)
	if err != nil {
		return err
	}
	if c.SourceIP.IsValid() {
		out.Caller.Address = c.SourceIP.String()
	}
	out.Caller.SPIFFEID = c.Peer.ID.String()
	if a.refused(q, c, port, out) {
		return nil
	}
	if port.HTTP {
		return a.request(ctx, q, c, port.Limits, out)
	}
	out.note("port %d is carried as TCP: method, path and headers are not seen", out.Port)
	a.tcp(ctx, c, out)
	return nil
}

// inboundPort is the port asked about, or the only HTTP one.
func inboundPort(w *compile.Workload, number uint16) (*compile.Inbound, error) {
	var found *compile.Inbound
	var all []string
	http := 0
	for i := range w.Inbound {
		p := &w.Inbound[i]
		protocol := "TCP"
		if p.HTTP {
			protocol = "HTTP"
		}
		all = append(all, fmt.Sprintf("%d (%s)", p.Bind.Port(), protocol))
		if number == p.Bind.Port() {
			return p, nil
		}
		if number == 0 && p.HTTP {
			found, http = p, http+1
		}
	}
	has := "it accepts on " + strings.Join(all, ", ")
	if len(all) == 0 {
		has = "no Sidecar gives it an ingress listener"
	}
	switch {
	case number != 0:
		return nil, fmt.Errorf("%s has no port %d: %s", nameOf(w), number, has)
	case http == 0:
		return nil, fmt.Errorf("%s has no HTTP port: %s", nameOf(w), has)
	case http > 1:
		return nil, fmt.Errorf("%s has several HTTP ports, name one: %s", nameOf(w), has)
	}
	return found, nil
}

// connection is what the server knows of the caller once a connection is made.
func (a *At) connection(q *Question, port *compile.Inbound) (*authz.Connection, error) {
	from, err := parseFrom(q.From)
	if err != nil {
		return nil, err
	}
	ip, err := parseAddr(q.SourceIP)
	if err != nil {
		return nil, err
	}
	c := &authz.Connection{SourceIP: ip, DestinationIP: a.Workload.Self.Address, DestinationPort: port.Bind.Port(), SNI: q.SNI}
	if from.workload != "" {
		p := a.Workload.Parties.Workload(from.workload)
		if p == nil {
			return nil, fmt.Errorf("caller %q: there is no such WorkloadEntry", from.workload)
		}
		if p.Principal != "" {
			if from.id, err = identity.Parse(p.Principal); err != nil {
				return nil, err
			}
		}
	}
	if !q.Plain {
		c.Peer.ID = from.id
	}
	if !c.Peer.Proven() {
		c.SNI = ""
	}
	return c, nil
}

// refused judges the connection as the handshake does, before there is a request.
func (a *At) refused(q *Question, c *authz.Connection, port *compile.Inbound, out *ServerAnswer) bool {
	own := a.Workload.Self.ID.TrustDomain()
	switch {
	case port.Mode == compile.Disable:
		if c.Peer.Proven() {
			out.note("the port is in mode DISABLE: it takes plaintext, and the caller proves nothing")
		}
		c.Peer, c.SNI, out.Caller.SPIFFEID = identity.Peer{}, "", ""
		return false
	case port.Mode == compile.Strict && !c.Peer.Proven():
		out.Reason, out.Detail = reasonPlaintext, "plaintext_under_strict"
		if out.By = refOf(port.StrictBy); out.By == nil {
			out.By = &Ref{Kind: "PeerAuthentication", Name: "none", Rule: -1}
		}
		if q.Plain {
			out.note("the caller's sidecar dials this endpoint without mutual TLS")
		}
		out.note("the connection is closed without an answer: the port takes mutual TLS only")
		return true
	case c.Peer.Proven() && c.Peer.ID.TrustDomain() != own:
		out.Reason, out.Detail = reasonTrustDomain, "unknown_trust_domain"
		out.By = &Ref{Kind: "TrustDomain", Name: own, Rule: -1}
		out.note("the handshake fails: a certificate of trust domain %q is not verified by the bundle of %q", c.Peer.ID.TrustDomain(), own)
		return true
	}
	return false
}

func (a *At) request(ctx context.Context, q *Question, c *authz.Connection, limits *limit.Set, out *ServerAnswer) error {
	host := q.Host
	if host == "" {
		host = out.Service
	}
	if host == "" {
		host = a.Workload.Self.Address.String() + ":" + strconv.Itoa(int(out.Port))
	}
	h, err := q.head(host)
	if err != nil {
		return err
	}
	h.Del("x-forwarded-client-cert") // as the corridor does
	k := judge.Case{Connection: c, Head: h, Request: &authz.Request{}, Scratch: &judge.Scratch{}, Body: body(q.Body)}
	t := a.Judge.Explain(ctx, &k, limits, a.Ask)
	if t.Token == nil {
		t.Token = a.claimed
	}
	a.describe(&t, out)
	if t.TokenError != nil && a.remoteKeys {
		out.note("keys of a jwksUri are not fetched for files: a token signed by one of them is refused here")
	}
	if !c.SourceIP.IsValid() && asksAddress(t.Policies) {
		out.note("the caller's address is not known: what asks for one did not match")
	}
	return nil
}

// asksAddress reports whether a rule failed over the caller's address.
func asksAddress(ps []authz.PolicyTrace) bool {
	return slices.ContainsFunc(ps, func(p authz.PolicyTrace) bool {
		return slices.ContainsFunc(p.Rules, func(r authz.RuleTrace) bool {
			return strings.Contains(strings.ToLower(r.Field), "ipblocks")
		})
	})
}

// describe turns the judge's trace into the answer.
func (a *At) describe(t *judge.Trace, out *ServerAnswer) {
	out.Path = strings.Clone(t.Path)
	if t.Decoded != t.Path {
		out.Decoded = strings.Clone(t.Decoded)
	}
	out.Token = tokenAnswer(t)
	for i := range t.Handovers {
		out.Handovers = append(out.Handovers, handoverAnswer(&t.Handovers[i]))
	}
	for i := range t.Policies {
		out.Policies = append(out.Policies, policyAnswer(&t.Policies[i]))
	}
	out.DryRun, out.Limits, out.Audit = dryRunAnswers(t.DryRun), limitAnswers(t.Limits, a.Live), refOf(t.Audit)
	out.Status, out.Detail, out.By = t.Status, t.Detail, refOf(t.By)
	switch {
	case t.Allowed && t.Failure == nil:
		out.Decision, out.By, out.Reason = Allow, refOf(t.Allowing), reasonNoAllow
		if t.Allowing != nil {
			out.Reason = reasonAllowRule
		}
	case t.Failure == nil:
		out.Reason = reasonNoRule
	default:
		out.Reason = reasonOf(t.Failure, t.By)
	}
	if l := refusing(t.Limits); out.Decision == Allow && l != nil {
		answer := proxy.RateLimited.Answer()
		out.Decision, out.By, out.Reason = Deny, refOf(l), reasonLimit
		out.Status, out.Detail = answer.Status, answer.Detail
	}
}

// refusing is the limit that is used up, where that is known: of a sidecar that runs, and where nothing is ever allowed.
func refusing(ts []limit.Trace) *authz.RuleRef {
	for i := range ts {
		if t := &ts[i]; t.Known && t.Matched && !t.Shadow && !t.Grant.Allowed && t.Rule != nil {
			return t.Rule.Ref
		}
	}
	return nil
}

func reasonOf(f *proxy.Failure, by *authz.RuleRef) string {
	switch f.Code {
	case proxy.BadPath:
		return reasonBadPath
	case proxy.TokenInvalid:
		return reasonToken
	case proxy.AuthorityDenied, proxy.AuthorityFailed:
		return reasonAuthority
	case proxy.Denied:
		if by != nil && by.Rule >= 0 {
			return reasonDenyRule
		}
		return reasonNoRule
	}
	return reasonUnanswerable
}

// tcp judges a connection whose protocol is not read.
func (a *At) tcp(ctx context.Context, c *authz.Connection, out *ServerAnswer) {
	v, f := a.Judge.AuthorizeTCP(ctx, c, &judge.Scratch{})
	out.By, out.Audit, out.DryRun = refOf(v.By), refOf(v.Audit), dryRunAnswers(v.Shadows)
	if e := a.Judge.Program.Engine(); e != nil {
		for _, p := range e.Explain(c, nil) {
			out.Policies = append(out.Policies, policyAnswer(&p))
		}
	}
	if f != nil {
		out.Detail, out.Reason = f.Detail, reasonOf(f, v.By)
		return
	}
	out.Decision, out.By, out.Reason = Allow, refOf(v.Allowing), reasonNoAllow
	if v.Allowing != nil {
		out.Reason = reasonAllowRule
	}
}

func (s *ServerAnswer) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// Judge is Server for whoever has the parts alone.
func Judge(ctx context.Context, w *compile.Workload, j judge.Judge, q *Question) ServerAnswer {
	return (&At{Workload: w, Judge: j}).Server(ctx, q)
}
