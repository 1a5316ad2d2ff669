// Package authz says yes or no. A Program is what policies were compiled to (authz/compile), immutable; Decide judges one
// request or one TCP connection and returns the Permit that the corridor's forward step demands. No I/O, no clock.
package authz

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/jwt"
)

// Connection is what is known of a caller once per connection.
type Connection struct {
	Peer identity.Peer
	// SourceIP is the address of the directly connected peer (Istio's source.ip, ipBlocks).
	SourceIP netip.Addr
	// DestinationIP and DestinationPort are the workload's own address and port (never the defaultEndpoint's).
	DestinationIP   netip.Addr
	DestinationPort uint16
	// SNI is the server name of the TLS handshake, "" without TLS.
	SNI string
}

// Headers gives access to a request's header fields without copying them.
type Headers interface {
	// HeaderValue returns the first value at or after position from of the field of that lower-case name, and the
	// position to go on from. ok is false when there is none.
	HeaderValue(name string, from int) (value string, next int, ok bool)
}

// Request is what is judged of one HTTP request. Strings are borrowed: a Decide keeps none of them.
type Request struct {
	Method string
	// Host is the authority as the request names it (port included where it has one).
	Host string
	// Path is the canonical path, without query: the one routing, logs and the forwarded request use.
	Path string
	// DecodedPath is Path as a program reads it that decodes and cleans it: every escape decoded once, '\' is '/', slashes
	// merged and dot segments resolved; "" if it is no other. DENY and AUDIT match if either reading does, ALLOW only if
	// both do.
	DecodedPath string
	Headers     Headers
	// RemoteIP is the client's address by X-Forwarded-For (Istio's remote.ip); the zero value means Connection.SourceIP.
	RemoteIP netip.Addr
	// ClientIP is the same where proxies are trusted to have written it (numTrustedProxies above 0); the zero value means
	// Connection.SourceIP. It is whom limits count, since any caller can write an X-Forwarded-For.
	ClientIP netip.Addr
	// Query is as it will be forwarded, with its leading '?'; "" without one.
	Query string
	// Minor is the x of HTTP/1.x.
	Minor int
	// Token is the verified token of an end user, nil if there is none (yet).
	Token *jwt.Token
	// Body is what was read of the body for an Authority that Needs it, decoded from its transfer coding; Truncated says
	// that there is more of it.
	Body      []byte
	Truncated bool
	// Received is when the request's first byte arrived.
	Received time.Time
}

// Engine is what a Program runs: the indexed engine in production, the linear one as its oracle in tests. In all of its
// methods request is nil for a TCP connection, and no argument is retained.
type Engine interface {
	// Judge decides by DENY, ALLOW and AUDIT.
	Judge(c *Connection, request *Request) Decision
	// Handovers are the providers of CUSTOM policies, in the order in which they are asked.
	Handovers() []Handover
	// Handover is the CUSTOM rule that hands the request to the i-th of Handovers, nil if none does.
	Handover(i int, c *Connection, request *Request) *RuleRef
	// DryRuns reports whether any policy is judged without effect, DryRun appends what each of them (CUSTOM aside) would
	// have decided.
	DryRuns() bool
	DryRun(dst []Shadow, c *Connection, request *Request) []Shadow
	// Explain says how each policy judges, in the order of judgement. It may be slow.
	Explain(c *Connection, request *Request) []PolicyTrace
}

// Program is a compiled set of policies for one workload. The nil *Program denies everything.
type Program struct{ engine Engine }

// NewProgram wraps an engine. A nil engine denies everything.
func NewProgram(e Engine) *Program { return &Program{engine: e} }

// Decide judges one request, or with a nil request one TCP connection. The Permit is valid only if the decision allows.
func (p *Program) Decide(c *Connection, r *Request) (Permit, Decision) {
	if p == nil || p.engine == nil {
		return Permit{}, Decision{Reason: NoProgram}
	}
	d := p.engine.Judge(c, r)
	return Permit{valid: d.Allowed}, d
}

// Engine is what the program runs, for the steps around Decide; nil if it denies everything.
func (p *Program) Engine() Engine {
	if p == nil {
		return nil
	}
	return p.engine
}

// Permit is the proof that somebody decided; forwarding takes one. The zero value permits nothing.
type Permit struct{ valid bool }

// Valid reports whether the permit was issued by an allowing decision.
func (p Permit) Valid() bool { return p.valid }

// Egress is the permit of the outbound corridor: what leaves a workload is judged by the server's side, and by the
// routing step, which has already said that the destination may be reached.
func Egress() Permit { return Permit{valid: true} }

// Reason says what decided.
type Reason uint8

// The reasons of a decision. The zero value is a denial.
const (
	NoProgram     Reason = iota // nothing was compiled: denied
	DenyMatched                 // a DENY rule matched: denied
	NoAllow                     // there are ALLOW policies and none of their rules matched: denied
	AllowMatched                // an ALLOW rule matched: allowed
	NoAllowPolicy               // no DENY matched and the workload has no ALLOW policy: allowed
)

// Decision is a verdict with the rule that gave it.
type Decision struct {
	Allowed bool
	Reason  Reason
	// Rule is the rule that decided, nil for NoProgram, NoAllow and NoAllowPolicy.
	Rule *RuleRef
	// Audit is the first AUDIT rule that matched, nil if none did.
	Audit *RuleRef
}

// RuleRef names one rule of one policy.
type RuleRef struct {
	// Kind is AuthorizationPolicy, RegoPolicy, RequestAuthentication, RateLimitPolicy, PeerAuthentication or
	// ExtensionProvider (whose name is in Policy, without a namespace).
	Kind              string
	Namespace, Policy string
	// Rule counts from 0; -1 means the policy as a whole.
	Rule int
	// ID is ns[NAMESPACE]-policy[POLICY]-rule[RULE], as Istio logs it.
	ID string
	// By is KIND/NAMESPACE/NAME[RULE] (no [RULE] for -1), as metrics and the access log name who denied.
	By string
	// denial is what Decision.Detail says of a denial by this rule, built once.
	denial string
}

// The access log's words for a denial, as Envoy's RBAC filter writes them.
const (
	denialBefore = "rbac_access_denied_matched_policy["
	denialByNone = denialBefore + "none]"
)

// noAllowRule stands for the denial of a workload with ALLOW policies of which none matched.
var noAllowRule = RuleRef{Kind: "AuthorizationPolicy", Rule: -1, By: "AuthorizationPolicy/none"}

// NewRuleRef builds a reference to a rule of an AuthorizationPolicy.
func NewRuleRef(namespace, policy string, rule int) *RuleRef {
	return NewRef("AuthorizationPolicy", namespace, policy, rule)
}

// NewRef builds a reference to a rule of a policy of any kind; rule -1 means all of it.
func NewRef(kind, namespace, policy string, rule int) *RuleRef {
	id := "ns[" + namespace + "]-policy[" + policy + "]-rule[" + strconv.Itoa(rule) + "]"
	by := kind + "/"
	if namespace != "" {
		by += namespace + "/"
	}
	by += policy
	if rule >= 0 {
		by += "[" + strconv.Itoa(rule) + "]"
	}
	return &RuleRef{Kind: kind, Namespace: namespace, Policy: policy, Rule: rule, ID: id, By: by, denial: denialBefore + id + "]"}
}

// By names who denied, as metrics and the access log do: the rule, or AuthorizationPolicy/none where there are ALLOW
// policies and none matched; nil if the decision allows.
func (d Decision) By() *RuleRef {
	switch {
	case d.Allowed:
		return nil
	case d.Rule == nil:
		return &noAllowRule
	}
	return d.Rule
}

// Detail is what Istio's access log shows as response code details of a denial:
// rbac_access_denied_matched_policy[...]; "" if the decision allows. It doesn't allocate for a rule of NewRuleRef.
func (d Decision) Detail() string {
	switch {
	case d.Allowed:
		return ""
	case d.Rule == nil:
		return denialByNone
	case d.Rule.denial == "":
		return denialBefore + d.Rule.ID + "]"
	}
	return d.Rule.denial
}
