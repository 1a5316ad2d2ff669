package authz

// Shadow is what one policy in dry run (istio.io/dry-run) would have decided.
type Shadow struct {
	// Rule is the rule that matched; of a policy none of whose rules did, a reference with rule -1.
	Rule   *RuleRef
	Denied bool
}

// PolicyTrace is how one policy judged one request, for a person.
type PolicyTrace struct {
	Kind, Namespace, Name string
	Action                string // ALLOW, DENY, AUDIT, CUSTOM
	Provider              string // of CUSTOM
	DryRun                bool
	Quarantined           string // why it stands for a refused policy; "" if it doesn't
	Matched               bool
	Rule                  int // the first that matched, -1 if none
	Rules                 []RuleTrace
}

// RuleTrace is how one rule judged one request.
type RuleTrace struct {
	Rule    int
	Matched bool
	// Field is the first clause that failed, as authored: to[0].operation.paths, when[1].values. Where several sources or
	// operations are alternatives, it is of the one that got farthest.
	Field string
	// Want is what that field lists, Saw the value that was compared with it; "" with Absent if there was none.
	Want   []string
	Saw    string
	Absent bool
}
