package rego

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// shape is an upper bound of the type that OPA's checker will give to a term. Two rules that build the same type share it, but
// the checker walks it as a tree: its size may be exponential in the length of the text. Immutable.
type shape struct {
	nodes int // of the tree
	// size is the tree as comparing it costs: OPA compares each level twice, once from either side.
	size int
	// alternatives counts the leaves of unions in it.
	alternatives int
	print        uint64 // the same for the same type
	elem         *shape // what an element may be; nil if it has none
}

// most is where sizes stop growing: beyond any budget, and far from overflow.
const most = 1 << 30

func scalar(print uint64) *shape { return &shape{nodes: 1, size: 1, alternatives: 1, print: print} }

// mix combines hashes (FNV-1a over whole words).
func mix(all ...uint64) uint64 {
	h := uint64(14695981039346656037)
	for _, v := range all {
		h = (h ^ v) * 1099511628211
		h ^= h >> 29
	}
	return h
}

// union is a shape that may be any of several; nil if there are none.
func union(all []*shape) *shape {
	seen := map[uint64]bool{}
	var one *shape
	out := &shape{}
	var elems []*shape
	for _, s := range all {
		if s == nil || seen[s.print] {
			continue
		}
		seen[s.print], one = true, s
		out.nodes, out.size = min(most, out.nodes+s.nodes), min(most, out.size+s.size)
		out.alternatives = min(most, out.alternatives+s.alternatives)
		out.print += mix(s.print)
		if s.elem != nil {
			elems = append(elems, s.elem)
		}
	}
	if len(seen) < 2 {
		return one
	}
	out.elem = union(elems)
	return out
}

// composite is a collection of the given elements.
func composite(kind uint64, all []*shape) *shape {
	out := &shape{nodes: 1, size: 1, print: mix(kind, uint64(len(all))), elem: union(all)}
	for _, s := range all {
		out.nodes, out.size = min(most, out.nodes+s.nodes), min(most, out.size+2*s.size)
		out.print = mix(out.print, s.print)
	}
	out.alternatives = 1
	if out.elem != nil {
		out.alternatives = out.elem.alternatives
	}
	return out
}

// The kinds of shapes.
const (
	kindAny uint64 = iota + 1
	kindNull
	kindBoolean
	kindNumber
	kindString
	kindArray
	kindObject
	kindSet
	kindFunction
)

// comparing is the work of OPA's comparison of two types.
func comparing(a, b *shape) int {
	work := min(a.size, b.size)/4 + min(a.size*b.alternatives, b.size*a.alternatives)/64
	return min(most, work)
}

// reading is the work of looking up an element by what is not known before.
func reading(s *shape) int {
	alternatives := min(s.alternatives, 1<<20)
	return min(most, s.nodes/16+alternatives*alternatives/32)
}

// shapes walks the rules as OPA's type checker does.
type shapes struct {
	budget *budget
	tree   *ast.TreeNode
	own    map[*ast.TreeNode][]*shape // what the rules at a node may be
	below  map[*ast.TreeNode]*shape   // the same with all that is below it
	vars   map[ast.Var]*shape         // of the rule at hand
	rule   *ast.Rule
	err    *ast.Error
}

// types charges what checking types will cost. No rule depends on itself by now; each is looked at after those that it depends on.
func (b *budget) types(c *ast.Compiler) *ast.Error {
	sorted, ok := c.Graph.Sort()
	if !ok {
		return nil // the compiler says it
	}
	s := shapes{budget: b, tree: c.RuleTree, own: map[*ast.TreeNode][]*shape{}, below: map[*ast.TreeNode]*shape{}}
	for _, x := range sorted {
		if s.judge(x.(*ast.Rule)); s.err != nil {
			return s.err
		}
	}
	return nil
}

func (s *shapes) charge(n int) {
	if s.err == nil {
		s.err = s.budget.charge(s.rule.Loc(), n, "the types of the rules' values are too large")
	}
}

// judge charges for one rule's body and keeps the shape of its value.
func (s *shapes) judge(r *ast.Rule) {
	s.rule, s.vars = r, map[ast.Var]*shape{}
	s.body(r.Body)
	var out *shape
	switch head := r.Head; {
	case len(head.Args) > 0:
		parts := []*shape{s.term(head.Value)}
		for _, arg := range head.Args {
			parts = append(parts, s.term(arg))
		}
		out = composite(kindFunction, parts)
	case head.RuleKind() == ast.MultiValue:
		out = composite(kindSet, []*shape{s.term(head.Key)})
	default:
		out = s.term(head.Value)
	}
	ref := r.Ref()
	for range ref.DynamicSuffix() {
		out = composite(kindObject, []*shape{out})
	}
	at := s.tree
	for _, t := range ref.GroundPrefix() {
		if at = at.Child(t.Value); at == nil {
			return
		}
	}
	s.own[at] = append(s.own[at], out)
	s.charge(len(s.own[at]) / 4) // each is merged with those before it
}

func (s *shapes) body(b ast.Body) {
	for _, e := range b {
		s.expr(e)
	}
}

func (s *shapes) expr(e *ast.Expr) {
	for _, w := range e.With {
		s.charge(reading(s.term(w.Value)))
	}
	switch t := e.Terms.(type) {
	case *ast.Term:
		s.term(t)
	case *ast.Every:
		s.term(t.Domain)
		s.body(t.Body)
	case *ast.Not:
		s.body(t.Body)
	case []*ast.Term:
		s.call(e, t)
	}
}

// call compares operands: those of an equality with each other, those of a function with its parameters.
func (s *shapes) call(e *ast.Expr, terms []*ast.Term) {
	if e.IsEquality() && len(terms) == 3 {
		a, b := s.term(terms[1]), s.term(terms[2])
		s.charge(comparing(a, b))
		s.bind(terms[1], b)
		s.bind(terms[2], a)
		return
	}
	function := s.term(terms[0])
	for _, t := range terms[1:] {
		operand := s.term(t)
		s.charge(comparing(operand, function) + reading(operand))
		s.bind(t, function)
	}
}

// bind gives the variables in a term that have no type yet that of what the term is compared with.
func (s *shapes) bind(t *ast.Term, to *shape) {
	switch v := t.Value.(type) {
	case ast.Var:
		if s.vars[v] == nil {
			s.vars[v] = to
		}
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { s.bind(t, element(to)) })
	case ast.Object:
		v.Foreach(func(_, t *ast.Term) { s.bind(t, element(to)) })
	}
}

// element is what an element of a shape may be.
func element(s *shape) *shape {
	if s.elem == nil {
		return scalar(kindAny)
	}
	return s.elem
}

// term is the shape of a term; what stands in it is charged for.
func (s *shapes) term(t *ast.Term) *shape {
	switch v := t.Value.(type) {
	case ast.Null:
		return scalar(kindNull)
	case ast.Boolean:
		return scalar(kindBoolean)
	case ast.Number:
		return scalar(kindNumber)
	case ast.String:
		return scalar(kindString)
	case ast.Var:
		if known := s.vars[v]; known != nil {
			return known
		}
	case ast.Ref:
		return s.ref(v)
	case *ast.Array:
		parts := make([]*shape, 0, v.Len())
		v.Foreach(func(t *ast.Term) { parts = append(parts, s.term(t)) })
		return composite(kindArray, parts)
	case ast.Set:
		parts := make([]*shape, 0, v.Len())
		v.Foreach(func(t *ast.Term) { parts = append(parts, s.term(t)) })
		return composite(kindSet, parts)
	case ast.Object:
		var parts []*shape
		print := kindObject
		v.Foreach(func(key, t *ast.Term) {
			k := s.term(key)
			print = mix(print, uint64(key.Hash()))
			if !ast.IsConstant(key.Value) {
				parts = append(parts, k)
			}
			parts = append(parts, s.term(t))
		})
		return composite(print, parts)
	case *ast.ArrayComprehension:
		s.body(v.Body)
		return composite(kindArray, []*shape{s.term(v.Term)})
	case *ast.SetComprehension:
		s.body(v.Body)
		return composite(kindSet, []*shape{s.term(v.Term)})
	case *ast.ObjectComprehension:
		s.body(v.Body)
		return composite(kindObject, []*shape{s.term(v.Key), s.term(v.Value)})
	}
	return scalar(kindAny)
}

// ref is what a reference may name: in a variable, or in rules on its way, at its end and below that.
func (s *shapes) ref(ref ast.Ref) *shape {
	for _, t := range ref[1:] {
		s.term(t)
	}
	if !ref[0].Equal(ast.DefaultRootDocument) {
		return s.path(s.term(ref[0]), ref[1:])
	}
	var found []*shape
	at := s.tree
	for i, t := range ref {
		var next *ast.TreeNode
		if i == 0 || ast.IsConstant(t.Value) {
			next = at.Child(t.Value)
		}
		if next == nil {
			if !ast.IsConstant(t.Value) {
				found = append(found, s.path(s.under(at), ref[i:]))
			}
			at = nil
			break
		}
		at = next
		if i+1 < len(ref) {
			for _, own := range s.own[at] {
				found = append(found, s.path(own, ref[i+1:]))
			}
		}
	}
	if at != nil {
		found = append(found, s.under(at))
	}
	out := union(found)
	if out == nil {
		return scalar(kindAny)
	}
	return out
}

// path looks up what is below a shape, and charges for it.
func (s *shapes) path(base *shape, path ast.Ref) *shape {
	for _, t := range path {
		if _, known := t.Value.(ast.String); !known {
			s.charge(reading(base))
		}
		base = element(base)
	}
	return base
}

// under is what the rules at a node and below it may be.
func (s *shapes) under(at *ast.TreeNode) *shape {
	if known := s.below[at]; known != nil {
		return known
	}
	parts := slices.Clone(s.own[at])
	var below []*shape
	for _, child := range at.Children {
		below = append(below, s.under(child))
	}
	if len(below) > 0 {
		parts = append(parts, composite(kindObject, below))
	}
	out := union(parts)
	if out == nil {
		out = scalar(kindAny)
	}
	s.below[at] = out
	return out
}
