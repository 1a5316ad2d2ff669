package compile

import (
	"cmp"
	"fmt"
	"slices"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// Cache compiles again and again for one workload, and does anew only what changed: a policy whose content is the same keeps
// its rules (and their *authz.RuleRef), and an index is mended where few of its policies changed. Not safe for concurrent
// use; the programs it returned are.
//
// A policy is the same if its key, its annotations that count and its Spec are: the same pointer, or decoded anew with the
// same content.
type Cache struct {
	threshold int
	// options are those that translations depend on; what they do not is the provider.
	options Options
	// kept is what was read last under each key, nil if nothing is kept.
	kept       map[mesh.Key]*entry
	generation uint64
	// sets are those of the last program.
	sets map[setKey]*ruleSet
	// unresolved stand for providers that do not exist, by name.
	unresolved map[string]*authz.Custom
}

// entry is a translation, and the pointer under which it was seen last.
type entry struct {
	spec       *security.AuthorizationPolicy
	policy     *translated
	generation uint64
}

// setKey is what policies are judged together by.
type setKey struct {
	action security.AuthorizationPolicy_Action
	custom *authz.Custom // of CUSTOM
	dryRun bool          // of CUSTOM
}

// NewCache is an empty cache.
func NewCache() *Cache { return &Cache{threshold: linearBelow, kept: map[mesh.Key]*entry{}} }

// Compile is Compile of the package. After an error the cache is as good as before.
func (c *Cache) Compile(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options) (*authz.Program, error) {
	e, err := c.compile(policies, o)
	if err != nil {
		return nil, err
	}
	return authz.NewProgram(e), nil
}

func (c *Cache) compile(policies []*mesh.Typed[*security.AuthorizationPolicy], o Options) (*engine, error) {
	for i, p := range policies {
		if p == nil || p.Spec == nil {
			return nil, fmt.Errorf("compiling AuthorizationPolicy %d of %d: there is no spec", i+1, len(policies))
		}
	}
	if o.TrustDomain != c.options.TrustDomain || o.RootNamespace != c.options.RootNamespace || !slices.Equal(o.Aliases, c.options.Aliases) {
		*c = Cache{threshold: c.threshold, kept: c.kept}
		clear(c.kept)
		c.options = Options{TrustDomain: o.TrustDomain, Aliases: slices.Clone(o.Aliases), RootNamespace: o.RootNamespace}
	}
	c.generation++
	read := make([]*translated, len(policies))
	customs := make(map[*translated]*authz.Custom)
	for i, p := range policies {
		var err error
		if read[i], err = c.translate(p); err != nil {
			return nil, err
		}
		if read[i].action == security.AuthorizationPolicy_CUSTOM {
			if customs[read[i]], err = c.resolve(p, read[i], o); err != nil {
				return nil, err
			}
		}
	}
	if !slices.IsSortedFunc(read, (*translated).compare) {
		slices.SortStableFunc(read, (*translated).compare)
	}
	e := c.engine(read, customs)
	c.forget(len(policies))
	return e, nil
}

// compare orders policies: those of the root namespace first, then by namespace and name.
func (t *translated) compare(other *translated) int {
	if t.root != other.root {
		if t.root {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(t.key.Namespace, other.key.Namespace), cmp.Compare(t.key.Name, other.key.Name))
}

// translate reads a policy, or finds it read.
func (c *Cache) translate(p *mesh.Typed[*security.AuthorizationPolicy]) (*translated, error) {
	was := c.kept[p.Key]
	twice := was != nil && was.generation == c.generation // a second policy of one name stays a stranger
	if was != nil && !twice && was.same(p) {
		was.spec, was.generation = p.Spec, c.generation
		return was.policy, nil
	}
	t := translator{policy: p, options: &c.options}
	read, err := t.translate()
	if err != nil {
		return nil, err
	}
	if read.dryRun && read.action != security.AuthorizationPolicy_CUSTOM {
		read.alone = newRuleSet([]*translated{read}, c.threshold)
		read.whole = refOf(&p.Meta, -1)
	}
	if c.kept != nil && !twice {
		c.kept[p.Key] = &entry{p.Spec, read, c.generation}
	}
	return read, nil
}

// same reports whether a policy is what was read.
func (e *entry) same(p *mesh.Typed[*security.AuthorizationPolicy]) bool {
	dry, err := inDryRun(&p.Meta)
	if err != nil || dry != e.policy.dryRun || p.Annotations[mesh.QuarantineAnnotation] != e.policy.quarantined {
		return false
	}
	return p.Spec == e.spec || sameSpec(p.Spec, e.policy.spec)
}

// sameSpec reports whether all that a translation reads of two policies is the same. The second was translated.
func sameSpec(a, b *security.AuthorizationPolicy) bool {
	return accept(a) == nil && a.GetAction() == b.GetAction() && a.GetProvider().GetName() == b.GetProvider().GetName() &&
		slices.EqualFunc(a.GetRules(), b.GetRules(), sameRule)
}

func sameRule(a, b *security.Rule) bool {
	return slices.EqualFunc(a.GetFrom(), b.GetFrom(), func(a, b *security.Rule_From) bool {
		x, y := source(a.GetSource()), source(b.GetSource())
		return slices.EqualFunc(x[:], y[:], sameField)
	}) && slices.EqualFunc(a.GetTo(), b.GetTo(), func(a, b *security.Rule_To) bool {
		x, y := operation(a.GetOperation()), operation(b.GetOperation())
		return slices.EqualFunc(x[:], y[:], sameField)
	}) && slices.EqualFunc(a.GetWhen(), b.GetWhen(), func(a, b *security.Condition) bool {
		return a.GetKey() == b.GetKey() && sameField(condition(a), condition(b))
	})
}

func sameField(a, b field) bool { return slices.Equal(a.want, b.want) && slices.Equal(a.bad, b.bad) }

// resolve finds who answers for a CUSTOM policy. One that doesn't exist is asked after tokens, so that rules which look at
// them match, and what they match is denied.
func (c *Cache) resolve(p *mesh.Typed[*security.AuthorizationPolicy], t *translated, o Options) (*authz.Custom, error) {
	var custom *authz.Custom
	if o.Provider != nil {
		custom = o.Provider(p.Namespace, t.provider)
	}
	switch {
	case custom == nil:
		if custom = c.unresolved[t.provider]; custom == nil {
			custom = &authz.Custom{Ref: authz.NewRef("ExtensionProvider", "", t.provider, -1), AfterToken: true}
			if c.unresolved == nil {
				c.unresolved = map[string]*authz.Custom{}
			}
			c.unresolved[t.provider] = custom
		}
	case !custom.AfterToken && t.token != "":
		from := translator{policy: p}
		return nil, from.fail(t.token, fmt.Errorf("needs a verified token, and provider %q is asked before tokens are verified", t.provider))
	}
	return custom, nil
}

// engine sorts policies, in their order, into the sets that are judged.
func (c *Cache) engine(policies []*translated, customs map[*translated]*authz.Custom) *engine {
	var order []setKey
	members := make(map[setKey]*[]*translated)
	var last setKey
	var into *[]*translated // of last: neighbours mostly stand together
	e := &engine{}
	for _, p := range policies {
		k := setKey{action: p.action, custom: customs[p]}
		if k.custom != nil {
			k.dryRun = p.dryRun
		} else if p.dryRun {
			e.shadows = append(e.shadows, p)
			continue
		}
		if into == nil || k != last {
			if into = members[k]; into == nil {
				into, order = new([]*translated), append(order, k)
				members[k] = into
			}
			last = k
		}
		*into = append(*into, p)
	}
	slices.SortStableFunc(order, func(a, b setKey) int { return cmp.Compare(stage(a), stage(b)) })
	sets := make(map[setKey]*ruleSet, len(order))
	for _, k := range order {
		s := c.sets[k]
		if s == nil {
			s = newRuleSet(*members[k], c.threshold)
		} else {
			s = s.with(*members[k], c.threshold)
		}
		sets[k] = s
		e.add(k, s)
	}
	c.sets = sets
	return e
}

// stage orders sets as they are judged; ties keep the order of their first policies.
func stage(k setKey) int {
	switch {
	case k.action == security.AuthorizationPolicy_CUSTOM && !k.custom.AfterToken:
		return 0
	case k.action == security.AuthorizationPolicy_CUSTOM:
		return 1
	case k.action == security.AuthorizationPolicy_AUDIT:
		return 2
	case k.action == security.AuthorizationPolicy_DENY:
		return 3
	}
	return 4
}

// forget drops what is no longer among so many policies.
func (c *Cache) forget(policies int) {
	if len(c.kept) <= policies {
		return
	}
	for k, e := range c.kept {
		if e.generation != c.generation {
			delete(c.kept, k)
		}
	}
}
