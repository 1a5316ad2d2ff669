package judge

import (
	"context"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// Trace is how one request was judged, for a person. It keeps strings of the case.
type Trace struct {
	// Failure is why it is refused, nil if it is allowed. Detail and Status are what the access log would show.
	Failure *proxy.Failure
	Status  int
	Detail  string
	// Path and Decoded are the two readings of the path.
	Path, Decoded string
	// Token is the verified token, TokenError why it was refused; both nil if there was none, or none was looked for.
	Token      *jwt.Token
	TokenError *jwt.Error
	// Handovers are the authorities whose CUSTOM rules matched, in the order in which they were asked.
	Handovers []HandoverTrace
	// Policies are all AuthorizationPolicies of the workload.
	Policies []authz.PolicyTrace
	DryRun   []authz.Shadow
	// Allowed, and By who denied or Allowing who allowed; By is nil for a path that could not be read, Allowing where
	// there is no ALLOW policy.
	Allowed      bool
	By, Allowing *authz.RuleRef
	Audit        *authz.RuleRef
	// Limits are what rate limits would say.
	Limits []limit.Trace

	ask func(*authz.Custom) bool
}

// HandoverTrace is one authority that was to be asked.
type HandoverTrace struct {
	Custom *authz.Custom
	Rule   *authz.RuleRef // of the CUSTOM policy
	DryRun bool
	// Asked is false if it was not: then it counts as if it allowed.
	Asked  bool
	Answer authz.Answer
}

// Explain judges as Authorize does and says how. ask says which authorities may be asked, nil for all; limits may be nil.
func (j Judge) Explain(ctx context.Context, k *Case, limits *limit.Set, ask func(*authz.Custom) bool) Trace {
	t := Trace{ask: ask}
	v, failure := j.authorize(ctx, k, &t)
	t.Path, t.Decoded = k.Head.Path, k.Request.DecodedPath
	t.Allowed, t.By, t.Allowing, t.Audit = v.Permit.Valid(), v.By, v.Allowing, v.Audit
	t.DryRun = append(t.DryRun, v.Shadows...)
	if e := j.Program.Engine(); e != nil && (failure == nil || failure.Code != proxy.BadPath) {
		t.Policies = e.Explain(k.Connection, k.Request)
		t.Limits = limits.Explain(k.Connection, k.Request)
	}
	if failure != nil {
		f := *failure // the scratch's, perhaps
		a := f.Code.Answer()
		t.Failure, t.Status, t.Detail = &f, a.Status, f.Detail
		if f.Status != 0 {
			t.Status = f.Status
		}
		if f.Detail == "" {
			t.Detail = a.Detail
		}
	}
	return t
}

func (t *Trace) skips(c *authz.Custom) bool { return t != nil && t.ask != nil && !t.ask(c) }

func (t *Trace) handover(h authz.Handover, rule *authz.RuleRef, a *authz.Answer) {
	if t == nil {
		return
	}
	out := HandoverTrace{Custom: h.Custom, Rule: rule, DryRun: h.DryRun, Asked: a != nil}
	if a != nil {
		out.Answer = *a
	}
	t.Handovers = append(t.Handovers, out)
}

func (t *Trace) token(token *jwt.Token, err *jwt.Error) {
	if t != nil {
		t.Token, t.TokenError = token, err
	}
}
