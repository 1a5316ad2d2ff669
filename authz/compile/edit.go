package compile

import (
	"maps"
	"math"
	"slices"
)

// with is the index without some rules and with others. What is filed anew goes where the fewest stand: the frequencies
// that newIndex counts are not kept.
func (x *index) with(gone, come []*rule) *index {
	next := *x
	next.edits += len(gone) + len(come)
	e := editor{index: &next}
	for _, r := range gone {
		for _, keys := range r.keySets() {
			for _, k := range keys {
				if slices.Contains(next.lookups[k.dim].bucket(k), r) {
					e.change(k, func(b []*rule) []*rule { return without(b, r) })
				}
			}
		}
		next.residual = without(next.residual, r)
	}
	for _, r := range come {
		best := next.emptiest(r.keySets())
		if best == nil {
			next.residual = inserted(next.residual, r)
		}
		for _, k := range best {
			e.change(k, func(b []*rule) []*rule { return inserted(b, r) })
		}
	}
	return &next
}

// emptiest is the key set under whose fullest key the fewest rules stand, nil if there is none.
func (x *index) emptiest(candidates []keySet) (best keySet) {
	cost := math.MaxInt
	for _, c := range candidates {
		worst := 0
		for _, k := range c {
			n := len(x.lookups[k.dim].bucket(k))
			if k.kind != exact {
				n = 2*n + 1
				if len(k.text) <= 1 {
					n += 1000 // matches nearly all
				}
			}
			worst = max(worst, n)
		}
		if worst < cost {
			best, cost = c, worst
		}
	}
	return best
}

// editor changes an index that nobody else sees yet, and copies first what others share.
type editor struct {
	index *index
	owned [dimensions]bool // whose map of exact keys is a copy
}

func (e *editor) change(k indexKey, edit func([]*rule) []*rule) {
	l := &e.index.lookups[k.dim]
	l.used = true
	switch k.kind {
	case exact:
		if !e.owned[k.dim] {
			l.exact, e.owned[k.dim] = maps.Clone(l.exact), true
		}
		if l.exact == nil {
			l.exact = map[string][]*rule{}
		}
		if b := edit(l.exact[k.text]); len(b) > 0 {
			l.exact[k.text] = b
		} else {
			delete(l.exact, k.text)
		}
	case prefix:
		l.prefix = l.prefix.edited(false, k.text, edit)
	case suffix:
		l.suffix = l.suffix.edited(true, k.text, edit)
	}
}

// bucket is the rules under exactly that key.
func (l *lookup) bucket(k indexKey) []*rule {
	switch k.kind {
	case exact:
		return l.exact[k.text]
	case prefix:
		return l.prefix.bucket(k.text)
	default:
		return l.suffix.bucket(k.text)
	}
}

// without is a copy of a bucket without a rule; the bucket itself if it isn't there.
func without(bucket []*rule, r *rule) []*rule {
	i := slices.Index(bucket, r)
	if i < 0 {
		return bucket
	}
	return slices.Concat(bucket[:i], bucket[i+1:])
}

// inserted is a copy of a bucket with a rule in its place; the bucket itself if it is there.
func inserted(bucket []*rule, r *rule) []*rule {
	if slices.Contains(bucket, r) {
		return bucket
	}
	i := slices.IndexFunc(bucket, r.before)
	if i < 0 {
		i = len(bucket)
	}
	return slices.Concat(bucket[:i], []*rule{r}, bucket[i:])
}

// edited is a copy of the tree, which may be nil, with one bucket changed. It shares what is not on the way there.
func (t *radix) edited(backwards bool, literal string, edit func([]*rule) []*rule) *radix {
	out := &radix{backwards: backwards}
	if t != nil {
		out.root = t.root
	}
	out.root = out.copied(&out.root, literal, edit)
	return out
}

func (t *radix) copied(n *node, literal string, edit func([]*rule) []*rule) node {
	out := *n
	if literal == "" {
		out.rules = edit(n.rules)
		return out
	}
	out.edges = slices.Clone(n.edges)
	i := slices.Index(n.heads, t.head(literal))
	if i < 0 {
		leaf := node{rules: edit(nil)}
		out.heads = append(slices.Clone(n.heads), t.head(literal))
		out.edges = append(out.edges, edge{literal, &leaf})
		return out
	}
	e := n.edges[i]
	shared := t.shared(e.label, literal)
	near, far := t.split(e.label, shared)
	if far != "" {
		e.to = &node{heads: []byte{t.head(far)}, edges: []edge{{far, e.to}}}
	}
	_, rest := t.split(literal, shared)
	to := t.copied(e.to, rest, edit)
	out.edges[i] = edge{near, &to}
	return out
}

// bucket is the rules under exactly that literal. The tree may be nil.
func (t *radix) bucket(literal string) []*rule {
	if t == nil {
		return nil
	}
	n := &t.root
	for literal != "" {
		i := slices.Index(n.heads, t.head(literal))
		if i < 0 {
			return nil
		}
		e := &n.edges[i]
		if t.shared(e.label, literal) < len(e.label) {
			return nil
		}
		_, literal = t.split(literal, len(e.label))
		n = e.to
	}
	return n.rules
}
