package authz

import "testing"

// verdict is an engine that always says the same.
type verdict Decision

func (v verdict) Judge(*Connection, *Request) Decision                    { return Decision(v) }
func (v verdict) Handovers() []Handover                                   { return nil }
func (v verdict) Handover(int, *Connection, *Request) *RuleRef            { return nil }
func (v verdict) DryRuns() bool                                           { return false }
func (v verdict) DryRun(dst []Shadow, _ *Connection, _ *Request) []Shadow { return dst }
func (v verdict) Explain(*Connection, *Request) []PolicyTrace             { return nil }

func TestZeroValuesDeny(t *testing.T) {
	for name, p := range map[string]*Program{"nil": nil, "zero": {}, "nil engine": NewProgram(nil), "zero decision": NewProgram(verdict{})} {
		if permit, d := p.Decide(&Connection{}, nil); permit.Valid() || d.Allowed || d.Reason != NoProgram {
			t.Errorf("%s program: %v, %+v", name, permit.Valid(), d)
		}
	}
	if (Permit{}).Valid() {
		t.Error("the zero permit is valid")
	}
	permit, _ := NewProgram(verdict{Allowed: true, Reason: NoAllowPolicy}).Decide(&Connection{}, nil)
	if !permit.Valid() || !Egress().Valid() {
		t.Error("an allowing decision and the outbound corridor must give valid permits")
	}
}

func TestDetail(t *testing.T) {
	rule := NewRuleRef("shop", "deny-admin", 3)
	if rule.ID != "ns[shop]-policy[deny-admin]-rule[3]" {
		t.Errorf("ID %q", rule.ID)
	}
	for _, c := range []struct {
		d    Decision
		want string
	}{
		{Decision{Reason: DenyMatched, Rule: rule}, "rbac_access_denied_matched_policy[ns[shop]-policy[deny-admin]-rule[3]]"},
		{Decision{Reason: DenyMatched, Rule: &RuleRef{ID: "ns[a]-policy[b]-rule[0]"}}, "rbac_access_denied_matched_policy[ns[a]-policy[b]-rule[0]]"},
		{Decision{Reason: NoAllow}, "rbac_access_denied_matched_policy[none]"},
		{Decision{}, "rbac_access_denied_matched_policy[none]"},
		{Decision{Allowed: true, Reason: AllowMatched, Rule: rule}, ""},
	} {
		if got := c.d.Detail(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.d, got, c.want)
		}
	}
	d := Decision{Reason: DenyMatched, Rule: rule}
	if n := testing.AllocsPerRun(100, func() { _ = d.Detail() }); n != 0 {
		t.Errorf("Detail allocates %v times", n)
	}
}
