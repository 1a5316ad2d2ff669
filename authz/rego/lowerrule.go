package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// rule lowers a complete rule without arguments. Its value is kept for the rest of the evaluation.
func (l *lowering) rule(path ast.Ref, rules []*ast.Rule) (direct, error) {
	name := path.String()
	if d, ok := l.rules[name]; ok {
		if d == nil {
			return direct{}, unsupported("recursion")
		}
		l.risky = l.risky || !d.safe
		return *d, nil
	}
	l.rules[name] = nil
	before := l.risky
	l.risky = false
	d, err := l.alike(path, rules)
	if err == nil && d == nil {
		d, err = l.remembered(path, rules)
	}
	if err != nil {
		return direct{}, err
	}
	d.safe, d.cost = !l.risky, costRule
	l.risky = l.risky || before
	l.rules[name] = d
	return *d, nil
}

// remembered is a rule of any form.
func (l *lowering) remembered(path ast.Ref, rules []*ast.Rule) (*direct, error) {
	once, err := l.definitions(path, rules, nil)
	if err != nil {
		return nil, err
	}
	at := l.kept
	l.kept++
	return &direct{unit: func(f *frame) value {
		if f.kept[at].kind == unset {
			f.kept[at] = once(f)
		}
		return f.kept[at]
	}}, nil
}

// What a frame remembers of a rule whose definitions all have the same value.
const (
	unknown uint8 = iota
	holds
	fails
)

// alike lowers a rule whose definitions all have one and the same value that is known now, as a list of allow rules: the
// first that is true decides. It returns nil for others.
func (l *lowering) alike(path ast.Ref, rules []*ast.Rule) (*direct, error) {
	var same ast.Value
	otherwise := value{kind: undefined}
	for _, r := range rules {
		switch {
		case !isComplete(path, r, 0):
			return nil, nil
		case r.Default:
		case r.Else != nil || !isConstant(r.Head.Value) || same != nil && ast.Compare(same, r.Head.Value.Value) != 0:
			return nil, nil
		default:
			same = r.Head.Value.Value
		}
	}
	if same == nil {
		return nil, nil
	}
	var bodies []cont
	for _, r := range rules {
		var err error
		if r.Default {
			otherwise, err = l.constants.of(r.Head.Value.Value)
		} else {
			var b cont
			b, err = l.alone(r)
			bodies = append(bodies, b)
		}
		if err != nil {
			return nil, err
		}
	}
	v, err := l.constants.of(same)
	if err != nil {
		return nil, err
	}
	at := l.alikes
	l.alikes++
	any := anyOf(bodies, at)
	d := &direct{unit: func(f *frame) value {
		if any(f) {
			return v
		}
		return otherwise
	}}
	d.truth = v.kind == boolean && (otherwise.kind == boolean || otherwise.kind == undefined)
	if v.holds() && !otherwise.holds() {
		d.test = any
	}
	return d, nil
}

func anyOf(bodies []cont, at int) test {
	return func(f *frame) bool {
		if was := f.alikes[at]; was != unknown {
			return was == holds
		}
		for _, b := range bodies {
			if b(f) {
				f.alikes[at] = holds
				return true
			}
		}
		f.alikes[at] = fails
		return false
	}
}

// alone lowers the body of a definition whose value is known.
func (l *lowering) alone(r *ast.Rule) (cont, error) {
	defer l.enter()()
	if err := l.op(); err != nil {
		return nil, err
	}
	return l.body(r.Body, func() (cont, error) { return found, nil })
}

// isComplete reports whether a definition is of a complete rule or function at exactly this path.
func isComplete(path ast.Ref, r *ast.Rule, args int) bool {
	return r.Ref().Equal(path) && r.Head.Key == nil && r.Head.RuleKind() == ast.SingleValue && len(r.Head.Args) == args
}
