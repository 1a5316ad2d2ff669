package compile

import (
	"errors"
	"fmt"
	"strconv"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// dryRun is Istio's annotation for policies that are judged without effect.
const dryRun = "istio.io/dry-run"

// translated is one policy, read. Immutable but for spec's owner.
type translated struct {
	key  mesh.Key
	root bool
	// spec is as authored.
	spec     *security.AuthorizationPolicy
	action   security.AuthorizationPolicy_Action
	provider string // of CUSTOM
	dryRun   bool
	// quarantined is why the policy stands for a refused one, "" if it doesn't.
	quarantined string
	rules       []*rule
	// token is the first field of a CUSTOM policy that needs a verified token, "" if none does.
	token string
	// alone is the policy as a set of its own, and whole names all of it; both only of a policy in dry run.
	alone *ruleSet
	whole *authz.RuleRef
}

// wide reports whether the policy's rules match in doubt.
func (t *translated) wide() bool { return t.action != security.AuthorizationPolicy_ALLOW }

// inDryRun reads the annotation as Istio does (strconv.ParseBool). A quarantine is never in dry run.
func inDryRun(m *mesh.Meta) (bool, error) {
	v, ok := m.Annotations[dryRun]
	if !ok || m.Quarantined() {
		return false, nil
	}
	dry, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", v)
	}
	return dry, nil
}

// accept judges what of a policy concerns all of its rules.
func accept(spec *security.AuthorizationPolicy) error {
	none := len(spec.GetRules()) == 0
	switch spec.GetAction() {
	case security.AuthorizationPolicy_ALLOW, security.AuthorizationPolicy_AUDIT:
	case security.AuthorizationPolicy_DENY:
		if none {
			return at("rules", errors.New("is empty: a DENY without rules never denies"))
		}
	case security.AuthorizationPolicy_CUSTOM:
		if none {
			return at("rules", errors.New("is empty: a CUSTOM without rules never asks its provider"))
		}
		if spec.GetProvider().GetName() == "" {
			return at("provider.name", errors.New("is empty: a CUSTOM names who decides"))
		}
	default:
		return at("action", fmt.Errorf("%s is not supported", spec.GetAction()))
	}
	if spec.GetProvider() != nil && spec.GetAction() != security.AuthorizationPolicy_CUSTOM {
		return at("provider", fmt.Errorf("is for CUSTOM, not for %s", spec.GetAction()))
	}
	if spec.GetTargetRef() != nil || len(spec.GetTargetRefs()) > 0 {
		return at("targetRefs", errors.New("is not supported"))
	}
	return nil
}

// tokenField is the path of a rule's first field that needs a verified token, "" if none does.
func tokenField(r *security.Rule, index int) string {
	for i, from := range r.GetFrom() {
		for _, f := range source(from.GetSource()) {
			if f.attr.token() && f.set() {
				name := f.name
				if len(f.want) == 0 {
					name = f.not
				}
				return fmt.Sprintf("spec.rules[%d].from[%d].source.%s", index, i, name)
			}
		}
	}
	for i, when := range r.GetWhen() {
		if c, err := key(when.GetKey()); err == nil && c.attr.token() {
			return fmt.Sprintf("spec.rules[%d].when[%d].key", index, i)
		}
	}
	return ""
}
