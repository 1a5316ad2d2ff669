package rego

import (
	"maps"

	"github.com/open-policy-agent/opa/v1/ast"
)

// found is the end of a body that is only asked whether it is true.
func found(*frame) bool { return true }

func (l *lowering) body(b ast.Body, next func() (cont, error)) (cont, error) {
	steps, rest, err := l.steps(b)
	if err != nil {
		return nil, err
	}
	var k cont
	if len(rest) == 0 {
		k, err = next()
	} else {
		k, err = l.expr(rest[0], func() (cont, error) { return l.body(rest[1:], next) })
	}
	return and(steps, k), err
}

func (l *lowering) expr(e *ast.Expr, next func() (cont, error)) (cont, error) {
	if err := l.op(); err != nil {
		return nil, err
	}
	if len(e.With) > 0 {
		return nil, unsupported("with at %s", e.Location)
	}
	if e.Negated {
		return l.not(ast.NewBody(e.ComplementNoWith()), next)
	}
	switch t := e.Terms.(type) {
	case *ast.Term:
		return l.gen(t, func() (yield, error) { return ifTrue(next) })
	case []*ast.Term:
		return l.call(e, next)
	case *ast.Every:
		return l.every(t, next)
	case *ast.Not:
		return l.not(t.Body, next)
	}
	return nil, unsupported("%s", e)
}

// ifTrue goes on with every value but false.
func ifTrue(next func() (cont, error)) (yield, error) {
	k, err := next()
	if err != nil {
		return nil, err
	}
	return func(f *frame, v value) bool {
		if v.kind == boolean && !v.b {
			return false
		}
		return k(f)
	}, nil
}

func (l *lowering) not(body ast.Body, next func() (cont, error)) (cont, error) {
	before := maps.Clone(l.bound)
	test, err := l.body(body, func() (cont, error) { return found, nil })
	l.bound = before
	if err != nil {
		return nil, err
	}
	k, err := next()
	if err != nil {
		return nil, err
	}
	return func(f *frame) bool {
		yes := test(f)
		if f.bail {
			return true
		}
		return !yes && k(f)
	}, nil
}

// every is true if its body is for each element, and for none.
func (l *lowering) every(e *ast.Every, next func() (cont, error)) (cont, error) {
	return l.gen(e.Domain, func() (yield, error) {
		before := maps.Clone(l.bound)
		var key int
		if v, ok := keyOf(e.Key); ok {
			key = l.bind(v)
		} else {
			key = l.slot()
		}
		v, ok := e.Value.Value.(ast.Var)
		if !ok {
			return nil, unsupported("%s", e)
		}
		elem := l.bind(v)
		test, err := l.body(e.Body, func() (cont, error) { return found, nil })
		if err != nil {
			return nil, err
		}
		l.bound = before
		fails := func(f *frame) bool { return !test(f) || f.bail }
		k, err := next()
		if err != nil {
			return nil, err
		}
		return func(f *frame, v value) bool {
			if !f.iterable(v) {
				return f.bail
			}
			if iterate(f, v, key, elem, fails) {
				return f.bail
			}
			return k(f)
		}, nil
	})
}

func keyOf(t *ast.Term) (ast.Var, bool) {
	if t == nil {
		return "", false
	}
	v, ok := t.Value.(ast.Var)
	return v, ok
}

func (l *lowering) call(e *ast.Expr, next func() (cont, error)) (cont, error) {
	operator, ok := e.Terms.([]*ast.Term)[0].Value.(ast.Ref)
	if !ok {
		return nil, unsupported("%s", e)
	}
	operands := e.Operands()
	if operator.Equal(ast.Equality.Ref()) && len(operands) == 2 {
		return l.unify(operands[0], operands[1], next)
	}
	l.risky = true
	if operator[0].Equal(ast.DefaultRootDocument) {
		return l.function(operator, operands, next)
	}
	name := operator.String()
	if name == ast.GlobMatch.Name {
		return l.glob(e, operands, next)
	}
	b, ok := l.builtins[name]
	if !ok || len(operands) < b.arity || len(operands) > b.arity+1 {
		return nil, unsupported("%s", name)
	}
	args := l.args(b.arity)
	return l.evalArgs(operands[:b.arity], args, func() (cont, error) {
		y, err := l.output(operands[b.arity:], next)
		if err != nil {
			return nil, err
		}
		fn := b.fn
		a0, a1, a2 := args[0], args[min(1, b.arity-1)], args[b.arity-1]
		return func(f *frame) bool {
			v := fn(f, f.slots[a0], f.slots[a1], f.slots[a2])
			if f.bail {
				return true
			}
			return y(f, v)
		}, nil
	})
}

// args are slots for the values of a call's operands.
func (l *lowering) args(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = l.slot()
	}
	return out
}

func (l *lowering) evalArgs(operands []*ast.Term, args []int, next func() (cont, error)) (cont, error) {
	if len(operands) == 0 {
		return next()
	}
	return l.gen(operands[0], func() (yield, error) {
		k, err := l.evalArgs(operands[1:], args[1:], next)
		at := args[0]
		return func(f *frame, v value) bool {
			f.slots[at] = v
			return k(f)
		}, err
	})
}

// output is what becomes of a call's value: it is matched with the term that captures it, or must not be false.
func (l *lowering) output(capture []*ast.Term, next func() (cont, error)) (yield, error) {
	if len(capture) == 1 {
		return l.match(capture[0], next)
	}
	return ifTrue(next)
}

// function lowers a call of a function that the policy defines, anew for each call.
func (l *lowering) function(path ast.Ref, operands []*ast.Term, next func() (cont, error)) (cont, error) {
	rules := l.s.compiler.GetRulesExact(path)
	if len(rules) == 0 || len(rules[0].Head.Args) == 0 {
		return nil, unsupported("%s", path)
	}
	arity := len(rules[0].Head.Args)
	if len(operands) < arity || len(operands) > arity+1 {
		return nil, unsupported("%s", path)
	}
	args := l.args(arity)
	return l.evalArgs(operands[:arity], args, func() (cont, error) {
		u, err := l.definitions(path, rules, args)
		if err != nil {
			return nil, err
		}
		y, err := l.output(operands[arity:], next)
		if err != nil {
			return nil, err
		}
		return func(f *frame) bool {
			v := u(f)
			if f.bail {
				return true
			}
			return v.kind != undefined && y(f, v)
		}, nil
	})
}
