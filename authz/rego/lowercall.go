package rego

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// callStep lowers a comparison or a call of a built-in function whose operands have at most one value each.
func (l *lowering) callStep(e *ast.Expr) (s step, ok bool, err error) {
	operator, ok := e.Terms.([]*ast.Term)[0].Value.(ast.Ref)
	if !ok || operator[0].Equal(ast.DefaultRootDocument) {
		return s, false, nil
	}
	name, operands := operator.String(), e.Operands()
	switch name {
	case ast.Equality.Name:
		name = ast.Equal.Name
	case ast.GlobMatch.Name:
		return l.globStep(e, operands)
	}
	b, ok := l.builtins[name]
	if !ok || len(operands) < b.arity || len(operands) > b.arity+1 {
		return s, false, nil
	}
	args, ok, err := l.directs(operands[:b.arity])
	if !ok || err != nil {
		return s, false, err
	}
	if test := fastTest(name, args); test != nil && len(operands) == b.arity {
		return l.risk(step{test: test}, args, true), true, nil
	}
	return l.captured(l.computed(b, args), operands[b.arity:])
}

// risk adds the costs of a test's operands; its place is fixed if OPA may fail to evaluate it.
func (l *lowering) risk(s step, args []direct, total bool) step {
	s.cost += costCall
	s.fixed = s.fixed || !total
	for _, a := range args {
		s.cost += a.cost
		s.fixed = s.fixed || !a.safe
	}
	l.risky = l.risky || s.fixed
	return s
}

func (l *lowering) directs(terms []*ast.Term) ([]direct, bool, error) {
	out := make([]direct, len(terms))
	for i, t := range terms {
		d, ok, err := l.direct(t)
		if !ok || err != nil {
			return nil, false, err
		}
		out[i] = d
	}
	return out, true, nil
}

// computed is the value of a built-in function.
func (l *lowering) computed(b builtin, args []direct) direct {
	at := l.risk(step{}, args, b.total)
	fn, a0, a1, a2 := b.fn, args[0].unit, args[min(1, b.arity-1)].unit, args[b.arity-1].unit
	return direct{cost: at.cost, safe: !at.fixed, unit: func(f *frame) value {
		a := a0(f)
		b, c := a, a
		if len(args) > 1 {
			b = a1(f)
			c = b
		}
		if len(args) > 2 {
			c = a2(f)
		}
		if f.bail || a.kind == undefined || b.kind == undefined || c.kind == undefined {
			return value{kind: undefined}
		}
		return fn(f, a, b, c)
	}}
}

// captured is what becomes of a call's value, as output says of a body.
func (l *lowering) captured(d direct, capture []*ast.Term) (s step, ok bool, err error) {
	if len(capture) == 0 {
		return step{test: truthful(d), cost: d.cost, fixed: !d.safe}, true, nil
	}
	if v, isVar := capture[0].Value.(ast.Var); isVar && !l.bound[v] {
		return l.keep(v, d), true, nil
	}
	with, ok, err := l.direct(capture[0])
	if !ok || err != nil {
		return s, false, err
	}
	pair := []direct{d, with}
	return l.risk(step{test: equalTest(d, with)}, pair, true), true, nil
}

// globStep is glob.match of a string of the request.
func (l *lowering) globStep(e *ast.Expr, operands []*ast.Term) (s step, ok bool, err error) {
	if len(operands) != 3 {
		return s, false, nil
	}
	d, ok, err := l.direct(operands[2])
	if !ok || err != nil || d.text == nil {
		return s, false, err
	}
	match, err := compileGlob(e, operands)
	if err != nil {
		return s, false, err
	}
	get := d.text
	s = step{test: func(f *frame) bool {
		s, ok := get(f)
		return ok && match(s)
	}}
	return l.risk(s, []direct{d}, true), true, nil
}

// fastTest is a function of strings that is evaluated without values; nil if there is none for these arguments. It never
// fails.
func fastTest(name string, args []direct) test {
	switch name {
	case ast.Equal.Name:
		if args[0].text != nil || args[1].text != nil {
			return equalTest(args[0], args[1])
		}
		return nil
	case ast.NotEqual.Name:
		return compareTexts(args, func(a, b string) bool { return a != b })
	case ast.StartsWith.Name:
		return compareTexts(args, strings.HasPrefix)
	case ast.EndsWith.Name:
		return compareTexts(args, strings.HasSuffix)
	case ast.Contains.Name:
		return compareTexts(args, strings.Contains)
	case ast.Member.Name:
		return memberTest(args[0], args[1])
	}
	return nil
}

func compareTexts(args []direct, ok func(a, b string) bool) test {
	a, b := args[0].text, args[1].text
	switch {
	case a == nil || b == nil:
		return nil
	case args[1].known != nil:
		s := args[1].known.s
		return func(f *frame) bool {
			x, there := a(f)
			return there && ok(x, s)
		}
	}
	return func(f *frame) bool {
		x, there := a(f)
		y, too := b(f)
		return there && too && ok(x, y)
	}
}

// memberTest is a string in a set, array or object of data.
func memberTest(x, of direct) test {
	if x.text == nil || of.known == nil || of.known.kind != constant {
		return nil
	}
	get, k := x.text, of.known.p.(*konst)
	if len(k.members) <= 4 {
		few := make([]string, 0, len(k.members))
		for s := range k.members {
			few = append(few, s)
		}
		return func(f *frame) bool {
			s, ok := get(f)
			if ok {
				for _, one := range few {
					if one == s {
						return true
					}
				}
			}
			return false
		}
	}
	return func(f *frame) bool {
		s, ok := get(f)
		if ok {
			_, ok = k.members[s]
		}
		return ok
	}
}

// equalTest compares two terms; strings without making values of them.
func equalTest(a, b direct) test {
	if a.known != nil {
		a, b = b, a
	}
	switch {
	case a.text != nil && b.known != nil && b.known.kind == text:
		get, s := a.text, b.known.s
		return func(f *frame) bool {
			x, ok := get(f)
			return ok && x == s
		}
	case a.text != nil && b.text != nil:
		x, y := a.text, b.text
		return func(f *frame) bool {
			s, ok := x(f)
			t, too := y(f)
			return ok && too && s == t
		}
	case b.known != nil && b.known.kind == text:
		unit, s := a.unit, b.known.s
		return func(f *frame) bool {
			v := unit(f)
			return v.kind == text && v.s == s
		}
	}
	x, y := a.unit, b.unit
	return func(f *frame) bool {
		v, w := x(f), y(f)
		return v.kind != undefined && w.kind != undefined && !f.bail && equal(f, v, w)
	}
}
