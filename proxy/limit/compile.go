package limit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// kindRateLimitPolicy is the kind that references to rules carry.
const kindRateLimitPolicy = "RateLimitPolicy"

// quarantinePeriod is how long a caller is asked to wait by a policy that refuses everything because it was itself refused.
const quarantinePeriod = time.Minute

// FieldError is what is wrong with a policy. Field is a path such as spec.local.rules[0].limit.unit.
type FieldError struct {
	Policy mesh.Key
	Field  string
	Err    error
}

func (e *FieldError) Error() string {
	return "compiling " + kindRateLimitPolicy + " " + e.Policy.Namespace + "/" + e.Policy.Name + ": " + e.Field + ": " + e.Err.Error()
}

// Unwrap is the reason without the place.
func (e *FieldError) Unwrap() error { return e.Err }

// wrong builds an error about a field below a rule; compileRule says of which rule.
func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

func (r *Registry) compilePolicy(p *mesh.Typed[*policy.RateLimitPolicy]) ([]*rule, error) {
	if p.Quarantined() {
		return []*rule{r.quarantined(p)}, nil
	}
	var out []*rule
	for _, scope := range []struct {
		field  string
		rules  []*policy.RateLimitRule
		global bool
	}{
		{"spec.local", p.Spec.GetLocal().GetRules(), false},
		{"spec.global", p.Spec.GetGlobal().GetRules(), true},
	} {
		twins := map[[32]byte]int{}
		for i, authored := range scope.rules {
			field := scope.field + ".rules[" + strconv.Itoa(i) + "]"
			key := cellKey{policy: p.Key, global: scope.global, content: fingerprint(authored)}
			key.twin = twins[key.content]
			twins[key.content]++
			rl, err := r.compileRule(p, authored, field, i, key)
			if fault := (*FieldError)(nil); errors.As(err, &fault) {
				return nil, &FieldError{Policy: p.Key, Field: field + "." + fault.Field, Err: fault.Err}
			}
			out = append(out, rl)
		}
	}
	return out, nil
}

// quarantined is the rule that stands for a policy that was refused: it refuses every request.
func (r *Registry) quarantined(p *mesh.Typed[*policy.RateLimitPolicy]) *rule {
	rl := &rule{registry: r, field: "spec", cellKey: cellKey{policy: p.Key}}
	rl.Ref = authz.NewRef(kindRateLimitPolicy, p.Namespace, p.Name, -1)
	rl.Bucket = Bucket{Name: p.Namespace + "/" + p.Name, Period: quarantinePeriod}
	rl.finish(p.Name)
	return rl
}

func (r *Registry) compileRule(p *mesh.Typed[*policy.RateLimitPolicy], authored *policy.RateLimitRule, field string, number int, key cellKey) (*rule, error) {
	rl := &rule{registry: r, field: field, shadow: authored.GetShadowMode(), onAway: authored.GetOnStoreFailure(), cellKey: key}
	if key.global {
		number += len(p.Spec.GetLocal().GetRules())
	}
	rl.Ref, rl.Global = authz.NewRef(kindRateLimitPolicy, p.Namespace, p.Name, number), key.global
	switch rl.onAway {
	case policy.OnStoreFailure_OnStoreFailure_Unset:
		rl.onAway = policy.OnStoreFailure_Local
	case policy.OnStoreFailure_Local, policy.OnStoreFailure_Allow, policy.OnStoreFailure_Deny:
		if !key.global {
			return nil, wrong("onStoreFailure", "only a global rule has a store")
		}
	default:
		return nil, wrong("onStoreFailure", "%v is not supported", rl.onAway)
	}
	for i, s := range authored.GetClientSelectors() {
		clauses, err := compileSelector(s, "clientSelectors["+strconv.Itoa(i)+"]")
		if err != nil {
			return nil, err
		}
		rl.clauses = append(rl.clauses, clauses...)
	}
	for i := range rl.clauses {
		rl.keyed = rl.keyed || rl.clauses[i].distinct
	}
	var err error
	rl.Bucket, err = compileLimit(authored.GetLimit())
	rl.Bucket.Name = key.name()
	if err == nil {
		rl.finish(p.Name)
	}
	return rl, err
}

// name is Bucket.Name.
func (k *cellKey) name() string {
	scope := "/local/"
	if k.global {
		scope = "/global/"
	}
	return k.policy.Namespace + "/" + k.policy.Name + scope + hex.EncodeToString(k.content[:8]) + "/" + strconv.Itoa(k.twin)
}

// finish fills in what follows from the bucket, and finds the state.
func (rl *rule) finish(name string) {
	rl.shape = newShape(&rl.Bucket)
	rl.storeKey = storeKey(&rl.Bucket, nil)
	rl.fields = newFieldParts(name, &rl.Bucket)
	rl.Rule.fields = &rl.fields
	rl.cell = rl.registry.cell(rl.cellKey, rl.keyed)
}

func compileLimit(l *policy.Limit) (Bucket, error) {
	b := Bucket{Requests: l.GetRequests(), Burst: l.GetRequests()}
	if l != nil && l.Burst != nil {
		b.Burst = l.GetBurst()
	}
	b.Burst = max(b.Burst, 1)
	switch l.GetUnit() {
	case policy.Limit_Second:
		b.Period = time.Second
	case policy.Limit_Minute:
		b.Period = time.Minute
	case policy.Limit_Hour:
		b.Period = time.Hour
	case policy.Limit_Day, policy.Limit_Month:
		if l.Burst != nil {
			return b, wrong("limit.burst", "a quota of a calendar day or month has no burst")
		}
		b.Calendar, b.Burst = l.GetUnit(), 0
	default:
		return b, wrong("limit.unit", "must be Second, Minute, Hour, Day or Month")
	}
	return b, nil
}
