package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// gen yields each value of a term.
func (l *lowering) gen(t *ast.Term, next func() (yield, error)) (cont, error) {
	if err := l.op(); err != nil {
		return nil, err
	}
	d, ok, err := l.direct(t)
	if err != nil {
		return nil, err
	}
	if ok {
		l.risky = l.risky || !d.safe
		return l.below(d, nil, next)
	}
	if r, isRef := t.Value.(ast.Ref); isRef {
		d, rest, err := l.base(r)
		if err != nil {
			return nil, err
		}
		l.risky = l.risky || !d.safe
		return l.below(d, rest, next)
	}
	if v, isVar := t.Value.(ast.Var); isVar {
		return nil, unsupported("the unbound variable %s", v)
	}
	switch v := t.Value.(type) {
	case *ast.Array:
		return l.composite(terms(v), next, func(of []*ast.Term) ast.Value { return ast.NewArray(of...) })
	case ast.Object:
		var members []*ast.Term
		v.Foreach(func(key, member *ast.Term) { members = append(members, key, member) })
		return l.composite(members, next, func(of []*ast.Term) ast.Value {
			o := ast.NewObject()
			for i := 0; i < len(of); i += 2 {
				o.Insert(of[i], of[i+1])
			}
			return o
		})
	}
	return nil, unsupported("the %s %s", ast.ValueName(t.Value), t)
}

func terms(a *ast.Array) []*ast.Term {
	out := make([]*ast.Term, 0, a.Len())
	a.Foreach(func(t *ast.Term) { out = append(out, t) })
	return out
}

// composite builds an array or object from terms that are only known later. It allocates.
func (l *lowering) composite(of []*ast.Term, next func() (yield, error), build func([]*ast.Term) ast.Value) (cont, error) {
	args := l.args(len(of))
	return l.evalArgs(of, args, func() (cont, error) {
		y, err := next()
		return func(f *frame) bool {
			out := make([]*ast.Term, len(args))
			for i, at := range args {
				v := f.toAST(f.slots[at])
				if v == nil {
					return true
				}
				out[i] = ast.NewTerm(v)
			}
			return y(f, value{kind: built, p: build(out)})
		}, err
	})
}

// unify makes two terms equal.
func (l *lowering) unify(a, b *ast.Term, next func() (cont, error)) (cont, error) {
	if l.isPattern(b) && !l.isPattern(a) {
		a, b = b, a
	}
	return l.gen(b, func() (yield, error) { return l.match(a, next) })
}

// isPattern reports whether a term takes a value rather than has one: a free variable, or an array with one.
func (l *lowering) isPattern(t *ast.Term) bool {
	switch v := t.Value.(type) {
	case ast.Var:
		return !l.bound[v]
	case *ast.Array:
		return v.Until(l.isPattern)
	}
	return false
}

// match compares a value with a term, and binds the term's free variables.
func (l *lowering) match(t *ast.Term, next func() (cont, error)) (yield, error) {
	if err := l.op(); err != nil {
		return nil, err
	}
	if v, ok := t.Value.(ast.Var); ok && !l.bound[v] {
		at := l.bind(v)
		k, err := next()
		return func(f *frame, v value) bool {
			f.slots[at] = v
			return k(f)
		}, err
	}
	if list, ok := t.Value.(*ast.Array); ok && l.isPattern(t) {
		return l.matchArray(terms(list), next)
	}
	tmp := l.slot()
	test, err := l.gen(t, func() (yield, error) {
		k, err := next()
		return func(f *frame, v value) bool {
			same := equal(f, f.slots[tmp], v)
			if f.bail {
				return true
			}
			return same && k(f)
		}, err
	})
	return func(f *frame, v value) bool {
		f.slots[tmp] = v
		return test(f)
	}, err
}

func (l *lowering) matchArray(of []*ast.Term, next func() (cont, error)) (yield, error) {
	tmp := l.slot()
	var from func(i int) (cont, error)
	from = func(i int) (cont, error) {
		if i == len(of) {
			return next()
		}
		y, err := l.match(of[i], func() (cont, error) { return from(i + 1) })
		return func(f *frame) bool {
			v := f.index(f.slots[tmp], i)
			return f.bail || y(f, v)
		}, err
	}
	k, err := from(0)
	n := len(of)
	return func(f *frame, v value) bool {
		if v.kind == node || v.kind == built {
			f.bail = true
			return true
		}
		f.slots[tmp] = v
		return f.length(v) == n && k(f)
	}, err
}

// below yields what is at the operands of a reference below a value. A free variable takes each key in turn.
func (l *lowering) below(d direct, operands ast.Ref, next func() (yield, error)) (cont, error) {
	for i, t := range operands {
		if v, isVar := t.Value.(ast.Var); isVar && !l.bound[v] {
			return l.iterateBelow(d.unit, l.bind(v), operands[i+1:], next)
		}
		var err error
		if d, err = l.at(d, t); err != nil {
			return nil, err
		}
	}
	y, err := next()
	unit := d.unit
	return func(f *frame) bool {
		v := unit(f)
		if f.bail {
			return true
		}
		return v.kind != undefined && y(f, v)
	}, err
}

func (l *lowering) iterateBelow(base unit, key int, operands ast.Ref, next func() (yield, error)) (cont, error) {
	elem := l.slot()
	k, err := l.below(slotted(elem), operands, next)
	return func(f *frame) bool {
		v := base(f)
		if f.bail || v.kind == undefined {
			return f.bail
		}
		return iterate(f, v, key, elem, k)
	}, err
}

// iterable reports whether every may run over a value.
func (f *frame) iterable(v value) bool {
	if v.kind == node || v.kind == built {
		f.bail = true
	}
	return v.kind == constant || v.kind == claim || v.kind == audiences || v.kind == path
}

// iterate calls k for each element until it returns true. What cannot be iterated has no elements.
func iterate(f *frame, v value, key, elem int, k cont) bool {
	step := func(kv, ev value) bool {
		f.tick()
		f.slots[key], f.slots[elem] = kv, ev
		return f.bail || k(f)
	}
	switch v.kind {
	case node, built:
		f.bail = true
		return true
	case constant:
		c := v.p.(*konst)
		for i := range c.values {
			if step(c.keys[i], c.values[i]) {
				return true
			}
		}
		return false
	case claim:
		if m, ok := v.p.(map[string]any); ok {
			for name, member := range m {
				if step(value{kind: text, s: name}, claimOf(f, member)) {
					return true
				}
			}
			return false
		}
	}
	for i, n := 0, f.length(v); i < n; i++ {
		if step(numberOf(i), f.index(v, i)) {
			return true
		}
	}
	return false
}
