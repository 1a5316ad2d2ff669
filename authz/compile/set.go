package compile

import (
	"slices"

	"github.com/signet-mesh/signet/authz"
)

// set is the rules that are judged together, in their order, found by an index where there are enough of them.
type set struct {
	rules []*rule
	index *index
}

// newSet takes rules in their order. A threshold of 0 makes no index.
func newSet(rules []*rule, threshold int) set {
	s := set{rules: rules}
	if threshold > 0 && len(rules) >= threshold {
		s.index = newIndex(s.rules)
	}
	return s
}

// with is the set with these rules instead. gone and come are how they differ from those of the set.
func (s set) with(rules, gone, come []*rule, threshold int) set {
	switch {
	case len(gone)+len(come) == 0:
		return s
	case s.index == nil || len(rules) < threshold || s.index.edits+len(gone)+len(come) > len(rules)/4:
		return newSet(rules, threshold)
	}
	return set{rules, s.index.with(gone, come)}
}

// first is the reference of the first rule that matches, nil if none does.
func (s *set) first(f *facts) *authz.RuleRef {
	var best *rule
	if s.index != nil {
		best = s.index.first(f)
	} else {
		best = scan(s.rules, f, nil)
	}
	if best == nil {
		return nil
	}
	return best.ref
}

// scan is the earlier of best and the first rule of a bucket that matches. Buckets are in order.
func scan(bucket []*rule, f *facts, best *rule) *rule {
	for _, r := range bucket {
		if best != nil && !r.before(best) {
			return best
		}
		if r.matches(f) {
			return r
		}
	}
	return best
}

// ruleSet is the policies that are judged together, and their rules as HTTP requests and as TCP connections are judged by
// them. Immutable.
type ruleSet struct {
	policies  []*translated
	http, tcp set
}

// newRuleSet takes policies in their order.
func newRuleSet(policies []*translated, threshold int) *ruleSet {
	s := &ruleSet{policies: policies}
	all, tcp, same := rulesOf(policies)
	s.http = newSet(all, threshold)
	s.tcp = s.http
	if !same {
		s.tcp = newSet(tcp, threshold)
	}
	return s
}

// rulesOf are the rules of policies, and what they mean on TCP; same says that this is the same.
func rulesOf(policies []*translated) (http, tcp []*rule, same bool) {
	n := 0
	for _, p := range policies {
		n += len(p.rules)
	}
	http, same = make([]*rule, 0, n), true
	for _, p := range policies {
		http = append(http, p.rules...)
	}
	for i, r := range http {
		if r.tcp == r {
			if !same {
				tcp = append(tcp, r)
			}
			continue
		}
		if same {
			same, tcp = false, append(make([]*rule, 0, n), http[:i]...)
		}
		if r.tcp != nil {
			tcp = append(tcp, r.tcp)
		}
	}
	if same {
		tcp = http
	}
	return http, tcp, same
}

// with is the set of these policies, made of s where they are mostly the same. Both are in order.
func (s *ruleSet) with(policies []*translated, threshold int) *ruleSet {
	gone, come := differ(s.policies, policies)
	if len(gone)+len(come) == 0 {
		return s
	}
	http, tcp, same := rulesOf(policies)
	goneHTTP, goneTCP, _ := rulesOf(gone)
	comeHTTP, comeTCP, _ := rulesOf(come)
	out := &ruleSet{policies: policies, http: s.http.with(http, goneHTTP, comeHTTP, threshold)}
	if out.tcp = out.http; !same {
		out.tcp = s.tcp.with(tcp, goneTCP, comeTCP, threshold)
	}
	return out
}

// differ is what is in one list and not in the other; both are in order.
func differ(was, is []*translated) (gone, come []*translated) {
	i, k := 0, 0
	for i < len(was) && k < len(is) {
		if was[i] == is[k] {
			i, k = i+1, k+1
			continue
		}
		order := was[i].compare(is[k])
		if order <= 0 {
			gone, i = append(gone, was[i]), i+1
		}
		if order >= 0 {
			come, k = append(come, is[k]), k+1
		}
	}
	return slices.Concat(gone, was[i:]), slices.Concat(come, is[k:])
}
