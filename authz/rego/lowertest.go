package rego

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// test is an expression that is true or not, in one way only.
type test func(f *frame) bool

// step is an expression of a body that was lowered to a test. It may bind a variable (keeps): then its place is fixed, as
// it is if OPA may fail to evaluate it.
type step struct {
	test  test
	cost  int
	fixed bool
}

// and is the body of steps with what comes after it.
func and(steps []step, k cont) cont {
	switch len(steps) {
	case 0:
		return k
	case 1:
		a := steps[0].test
		return func(f *frame) bool {
			if !a(f) {
				return f.bail
			}
			return k(f)
		}
	case 2:
		a, b := steps[0].test, steps[1].test
		return func(f *frame) bool {
			if !a(f) || !b(f) {
				return f.bail
			}
			return k(f)
		}
	}
	first, rest := steps[0].test, and(steps[1:], k)
	return func(f *frame) bool {
		if !first(f) {
			return f.bail
		}
		return rest(f)
	}
}

// steps lowers the expressions at the beginning of a body that are tests, cheap ones first where the order doesn't
// matter, and returns the others.
//
// A variable that names a term is replaced by it. That the term is defined is asked where the next test doesn't anyway.
func (l *lowering) steps(b ast.Body) (out []step, rest ast.Body, err error) {
	names := map[ast.Var]direct{}
	for i, e := range b {
		v, d, ok, err := l.naming(e)
		if err != nil {
			return nil, nil, err
		}
		if ok && d.safe && (d.cost <= cheap || uses(b[i+1:], v) <= 1) {
			l.bound[v] = true
			l.aliases[v], names[v] = d, d
			continue
		}
		s := step{}
		if ok {
			s = l.keep(v, d)
		} else if s, ok, err = l.step(e); err != nil {
			return nil, nil, err
		}
		for v, d := range names {
			if d.known == nil && (!ok || !mentions(e, v)) {
				out = append(out, step{test: defined(d), cost: d.cost})
			}
		}
		clear(names)
		if !ok {
			return cheapFirst(out), b[i:], nil
		}
		out = append(out, s)
	}
	for _, d := range names {
		out = append(out, step{test: defined(d), cost: d.cost})
	}
	return cheapFirst(out), nil, nil
}

// cheapFirst sorts the steps between those whose places are fixed.
func cheapFirst(steps []step) []step {
	from := 0
	for i := 0; i <= len(steps); i++ {
		if i == len(steps) || steps[i].fixed {
			slices.SortStableFunc(steps[from:i], func(a, b step) int { return a.cost - b.cost })
			from = i + 1
		}
	}
	return steps
}

// naming recognizes v = TERM with a free variable and a term that has at most one value.
func (l *lowering) naming(e *ast.Expr) (v ast.Var, d direct, ok bool, err error) {
	if e.Negated || len(e.With) > 0 || !e.IsEquality() || len(e.Operands()) != 2 {
		return "", d, false, nil
	}
	a, b := e.Operand(0), e.Operand(1)
	if v, ok = a.Value.(ast.Var); !ok || l.bound[v] {
		if v, ok = b.Value.(ast.Var); !ok || l.bound[v] {
			return "", d, false, nil
		}
		b = a
	}
	d, ok, err = l.direct(b)
	return v, d, ok, err
}

// uses counts the occurrences of a variable.
func uses(b ast.Body, v ast.Var) (n int) {
	ast.WalkVars(b, func(x ast.Var) bool {
		if x == v {
			n++
		}
		return false
	})
	return n
}

// mentions reports whether a test evaluates a variable as one of its operands, and so fails where that is undefined.
func mentions(e *ast.Expr, v ast.Var) bool {
	all, ok := e.Terms.([]*ast.Term)
	return ok && !e.Negated && slices.ContainsFunc(all[1:], func(t *ast.Term) bool { return t.Value.Compare(v) == 0 })
}

func defined(d direct) test {
	if get := d.text; get != nil {
		return func(f *frame) bool { _, ok := get(f); return ok }
	}
	unit := d.unit
	return func(f *frame) bool { return unit(f).kind != undefined }
}

// truthful is true for every value but false.
func truthful(d direct) test {
	if d.test != nil {
		return d.test
	}
	if d.text != nil {
		return defined(d)
	}
	unit := d.unit
	return func(f *frame) bool { return unit(f).holds() }
}

// keep binds a variable to the value that a term has now.
func (l *lowering) keep(v ast.Var, d direct) step {
	at := l.bind(v)
	unit := d.unit
	if d.text != nil {
		l.aliases[v] = textual(func(f *frame) (string, bool) { return f.slots[at].s, true }, 1)
	}
	l.risky = l.risky || !d.safe
	return step{cost: d.cost, fixed: true, test: func(f *frame) bool {
		v := unit(f)
		f.slots[at] = v
		return v.kind != undefined
	}}
}

// step lowers an expression to a test; ok is false if it is none.
func (l *lowering) step(e *ast.Expr) (s step, ok bool, err error) {
	if len(e.With) > 0 {
		return s, false, nil
	}
	if e.Negated {
		return l.notStep(ast.NewBody(e.ComplementNoWith()))
	}
	switch t := e.Terms.(type) {
	case *ast.Term:
		d, ok, err := l.direct(t)
		if !ok || err != nil {
			return s, false, err
		}
		l.risky = l.risky || !d.safe
		return step{test: truthful(d), cost: d.cost, fixed: !d.safe}, true, nil
	case []*ast.Term:
		return l.callStep(e)
	case *ast.Not:
		return l.notStep(t.Body)
	}
	return s, false, nil
}

// notStep negates a body that is nothing but tests.
func (l *lowering) notStep(b ast.Body) (s step, ok bool, err error) {
	before := maps.Clone(l.bound)
	defer func() { l.bound = before }()
	steps, rest, err := l.steps(b)
	if err != nil || len(rest) > 0 {
		return s, false, err
	}
	for _, one := range steps {
		s.cost += one.cost
		s.fixed = s.fixed || one.fixed
	}
	if len(steps) == 1 {
		yes := steps[0].test
		s.test = func(f *frame) bool { return !yes(f) && !f.bail }
		return s, true, nil
	}
	all := and(steps, found)
	s.test = func(f *frame) bool { return !all(f) && !f.bail }
	return s, true, nil
}
