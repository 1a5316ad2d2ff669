package authz

import "context"

// Authority answers for one provider of CUSTOM policies: an external authorizer, or a RegoPolicy. Safe for concurrent use.
type Authority interface {
	// Ask judges one request, or with a nil request one TCP connection. It must not keep what it is given. Every failure
	// (a timeout, an undefined result, an error) is an Answer too: a denial, unless the authority was told to fail open.
	Ask(ctx context.Context, c *Connection, r *Request) Answer
	// Needs says what of a request's body Ask reads.
	Needs() Needs
}

// Needs is how much of a body an Authority reads. The zero value is none.
type Needs struct {
	// Body is the most bytes of a body, 0 for none.
	Body int
	// Partial says that the beginning of a longer body will do (Request.Truncated); else such a request is answered 413.
	Partial bool
}

// Answer is what an Authority decided. The zero value denies.
type Answer struct {
	Allowed bool
	// Status and Body answer a denied request; 0 is 403, "" the standard body.
	Status int
	Body   string
	// Client are fields of the response: of the denial, or if it is allowed of whatever the server answers.
	Client []HeaderEdit
	// Upstream changes the request that is forwarded, and that later steps judge; only when it is allowed.
	Upstream []HeaderEdit
	// RemoveQuery and SetQuery change the query that is forwarded, parameter by parameter (opa-envoy-plugin's
	// query_parameters_to_remove and query_parameters_to_set).
	RemoveQuery []string
	SetQuery    []QueryParam
	// Rule is what the authority says of why, for log and metrics; it may be "".
	Rule string
	// Err is why there was no proper decision, for the log; nil if there was one. FailedOpen says that the request is
	// allowed in spite of it.
	Err        error
	FailedOpen bool
}

// HeaderOp is what becomes of a field.
type HeaderOp uint8

// The operations.
const (
	SetHeader    HeaderOp = iota // replaces what is there
	AppendHeader                 // one more field of that name
	RemoveHeader
	AddHeader // unless there is one already
)

// HeaderEdit changes one field. Name is lower case.
type HeaderEdit struct {
	Op          HeaderOp
	Name, Value string
}

// QueryParam is one parameter, not escaped.
type QueryParam struct{ Name, Value string }

// Custom is one provider that CUSTOM policies hand requests to. Immutable.
type Custom struct {
	// Ref names it: Kind RegoPolicy with namespace and name, or ExtensionProvider with the provider's name. It is what a
	// denial names when the authority denies.
	Ref *RuleRef
	// AfterToken says that it judges verified claims, and so is asked after tokens were verified (a RegoPolicy); an
	// external authorizer is asked before.
	AfterToken bool
	// Authority is nil if the provider could not be resolved: what matches is denied.
	Authority Authority
}

// Handover is a set of CUSTOM rules with the provider that judges what they match.
type Handover struct {
	Custom *Custom
	// DryRun says that the answer is only logged and counted.
	DryRun bool
}
