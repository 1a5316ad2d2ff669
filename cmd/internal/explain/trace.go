package explain

import (
	"strings"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy/judge"
	"github.com/signet-mesh/signet/proxy/limit"
)

// TokenAnswer is what the server made of an end user's token.
type TokenAnswer struct {
	// Refused is why it was not taken, "" if it was.
	Refused   string         `json:"refused,omitempty"`
	Principal string         `json:"principal,omitempty"` // ISSUER/SUBJECT
	Issuer    string         `json:"issuer,omitempty"`
	Subject   string         `json:"subject,omitempty"`
	Audiences []string       `json:"audiences,omitempty"`
	Expires   *time.Time     `json:"expires,omitempty"`
	Claims    map[string]any `json:"claims,omitempty"`
}

func tokenAnswer(t *judge.Trace) *TokenAnswer {
	switch {
	case t.TokenError != nil:
		return &TokenAnswer{Refused: t.TokenError.Error()}
	case t.Token == nil:
		return nil
	}
	out := &TokenAnswer{Principal: t.Token.Principal(), Issuer: t.Token.Issuer, Subject: t.Token.Subject,
		Audiences: t.Token.Audiences, Claims: t.Token.Claims}
	if !t.Token.Expires.IsZero() {
		out.Expires = &t.Token.Expires
	}
	return out
}

// Handover is one authority to which a CUSTOM policy hands the request.
type Handover struct {
	Provider Ref  `json:"provider"`
	Policy   *Ref `json:"policy"` // whose rule matched
	DryRun   bool `json:"dryRun,omitempty"`
	// Asked is false if it could not be asked from here: then it counts as if it allowed.
	Asked   bool   `json:"asked"`
	Allowed bool   `json:"allowed"`
	Status  int    `json:"status,omitempty"`
	Rule    string `json:"rule,omitempty"` // what the authority says of why
	Error   string `json:"error,omitempty"`
}

func handoverAnswer(h *judge.HandoverTrace) Handover {
	out := Handover{Policy: refOf(h.Rule), DryRun: h.DryRun, Asked: h.Asked, Allowed: h.Answer.Allowed, Status: h.Answer.Status, Rule: h.Answer.Rule}
	if h.Custom != nil && h.Custom.Ref != nil {
		out.Provider = *refOf(h.Custom.Ref)
	}
	if h.Answer.Err != nil {
		out.Error = h.Answer.Err.Error()
	}
	return out
}

// PolicyAnswer is how one AuthorizationPolicy judged.
type PolicyAnswer struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Action    string `json:"action"`
	Provider  string `json:"provider,omitempty"`
	DryRun    bool   `json:"dryRun,omitempty"`
	// Quarantined is why it stands for a refused policy.
	Quarantined string       `json:"quarantined,omitempty"`
	Matched     bool         `json:"matched"`
	Rule        int          `json:"rule"` // the first that matched, -1 if none
	Rules       []RuleAnswer `json:"rules"`
}

// RuleAnswer is how one rule judged: for one that did not match, the first clause that failed and what it saw.
type RuleAnswer struct {
	Rule    int      `json:"rule"`
	Matched bool     `json:"matched"`
	Field   string   `json:"field,omitempty"`
	Want    []string `json:"want,omitempty"`
	Saw     string   `json:"saw,omitempty"`
	Absent  bool     `json:"absent,omitempty"`
}

func policyAnswer(p *authz.PolicyTrace) PolicyAnswer {
	out := PolicyAnswer{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Action: p.Action, Provider: p.Provider, DryRun: p.DryRun,
		Quarantined: p.Quarantined, Matched: p.Matched, Rule: p.Rule, Rules: []RuleAnswer{}}
	if out.Kind == "" {
		out.Kind = "AuthorizationPolicy"
	}
	for _, r := range p.Rules {
		saw := strings.Clone(r.Saw)
		if low := strings.ToLower(saw); strings.HasPrefix(low, "bearer ") || strings.HasPrefix(low, "basic ") {
			saw = "(hidden)"
		}
		out.Rules = append(out.Rules, RuleAnswer{r.Rule, r.Matched, r.Field, r.Want, saw, r.Absent})
	}
	return out
}

// DryRunOutcome is what a policy in dry run would have decided.
type DryRunOutcome struct {
	By       *Ref   `json:"by"`
	Decision string `json:"decision"`
}

func dryRunAnswers(ss []authz.Shadow) []DryRunOutcome {
	var out []DryRunOutcome
	for _, s := range ss {
		o := DryRunOutcome{By: refOf(s.Rule), Decision: Allow}
		if s.Denied {
			o.Decision = Deny
		}
		out = append(out, o)
	}
	return out
}

// LimitAnswer is what one rate limit makes of the request.
type LimitAnswer struct {
	By      *Ref   `json:"by"`
	Bucket  string `json:"bucket"`
	Global  bool   `json:"global"`
	Matched bool   `json:"matched"`
	Field   string `json:"field,omitempty"` // the first selector that did not match
	Saw     string `json:"saw,omitempty"`
	// Key is what it counts by, "" for all requests together.
	Key      string `json:"key,omitempty"`
	Requests uint32 `json:"requests"`
	Per      string `json:"per"`
	Burst    uint32 `json:"burst,omitempty"`
	// Known says that Remaining is: a running sidecar was asked.
	Known     bool   `json:"known"`
	Remaining uint32 `json:"remaining"`
}

func limitAnswers(ts []limit.Trace, live bool) []LimitAnswer {
	var out []LimitAnswer
	for i := range ts {
		t := &ts[i]
		if t.Rule == nil {
			continue
		}
		b := &t.Rule.Bucket
		per := b.Period.String()
		if b.Calendar != 0 {
			per = b.Calendar.String()
		}
		out = append(out, LimitAnswer{By: refOf(t.Rule.Ref), Bucket: b.Name, Global: t.Rule.Global, Matched: t.Matched, Field: t.Field,
			Saw: strings.Clone(t.Saw), Key: strings.Clone(t.Key), Requests: b.Requests, Per: per, Burst: b.Burst,
			Known: t.Known, Remaining: t.Grant.Remaining})
	}
	return out
}
