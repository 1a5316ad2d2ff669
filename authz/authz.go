// Package authz says yes or no. A Program is what policies were compiled to (authz/compile), immutable; Decide judges one
// request or one TCP connection and returns the Permit that the corridor's forward step demands. No I/O, no clock.
package authz

import (
	"net/netip"
	"strconv"

	"github.com/signet-mesh/signet/identity"
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
}

// Engine is what a Program runs: the indexed engine in production, the linear one as its oracle in tests.
type Engine interface {
	// Judge decides; request is nil for a TCP connection. It must not retain either argument.
	Judge(c *Connection, request *Request) Decision
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
	Namespace, Policy string
	Rule              int
	// ID is ns[NAMESPACE]-policy[POLICY]-rule[RULE], as Istio logs it.
	ID string
	// denial is what Decision.Detail says of a denial by this rule, built once.
	denial string
}

// The access log's words for a denial, as Envoy's RBAC filter writes them.
const (
	denialBefore = "rbac_access_denied_matched_policy["
	denialByNone = denialBefore + "none]"
)

// NewRuleRef builds a reference with its ID.
func NewRuleRef(namespace, policy string, rule int) *RuleRef {
	id := "ns[" + namespace + "]-policy[" + policy + "]-rule[" + strconv.Itoa(rule) + "]"
	return &RuleRef{Namespace: namespace, Policy: policy, Rule: rule, ID: id, denial: denialBefore + id + "]"}
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
