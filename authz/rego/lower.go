package rego

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of lowering; a policy beyond them is evaluated by topdown.
const (
	maxOps       = 20_000  // closures
	maxConstants = 500_000 // values of data and literals
)

var (
	errTooLarge = fmt.Errorf("it has more than %d constants", maxConstants)
	errTooLong  = fmt.Errorf("it has more than %d steps", maxOps)
)

// unsupported is why a policy is not lowered.
func unsupported(format string, args ...any) error {
	return errors.New("it uses " + fmt.Sprintf(format, args...))
}

// The code that a policy is lowered to. A body is a chain of closures, each of which calls the next for every way in
// which its expression can be true, as topdown does; true ends the search.
type (
	cont  func(f *frame) bool
	yield func(f *frame, v value) bool
	// unit is a rule or function that was called: its one value, or undefined.
	unit func(f *frame) value
)

// lowering turns OPA's compiled modules into closures. What it does not know it refuses.
//
// Next functions compile what comes after an expression. They are called exactly once, after the variables that the
// expression binds were marked as bound.
type lowering struct {
	s         *snapshot
	input     *inode
	builtins  map[string]builtin
	constants constants
	ops       int
	sizes
	rules   map[string]*direct
	data    map[string]value
	scope   map[ast.Var]int // the slots of the rule being lowered
	bound   map[ast.Var]bool
	aliases map[ast.Var]direct // what bound variables stand for that have no slot
	// risky is set by what OPA may fail to evaluate.
	risky bool
}

// lower compiles the query. The error says what it cannot.
func lower(s *snapshot, query ast.Ref) (*native, error) {
	l := &lowering{
		s: s, input: inputTree(), builtins: builtins(), constants: constants{left: maxConstants},
		rules: map[string]*direct{}, data: map[string]value{},
	}
	l.enter()
	d, ok, err := l.directRef(query)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unsupported("%s", query)
	}
	return newNative(l.sizes, d.unit, d.truth), nil
}

func (l *lowering) slot() int {
	l.slots++
	return l.slots - 1
}

func (l *lowering) op() error {
	if l.ops++; l.ops > maxOps {
		return errTooLong
	}
	return nil
}

// enter begins a rule, whose variables are its own; leave goes back to the one around.
func (l *lowering) enter() (leave func()) {
	scope, bound, aliases := l.scope, l.bound, l.aliases
	l.scope, l.bound, l.aliases = map[ast.Var]int{}, map[ast.Var]bool{}, map[ast.Var]direct{}
	return func() { l.scope, l.bound, l.aliases = scope, bound, aliases }
}

// bind gives a variable its slot.
func (l *lowering) bind(v ast.Var) int {
	at, ok := l.scope[v]
	if !ok {
		at = l.slot()
		l.scope[v] = at
	}
	l.bound[v] = true
	delete(l.aliases, v)
	return at
}

// definitions lowers the definitions of a rule, or of a function called with the values in args. All that can be true
// must agree; where they don't, topdown tells the conflict.
func (l *lowering) definitions(path ast.Ref, rules []*ast.Rule, args []int) (unit, error) {
	l.risky = true // definitions may be in conflict
	out := l.slot()
	otherwise := value{kind: undefined}
	var all []definition
	for _, r := range rules {
		if !isComplete(path, r, len(args)) {
			return nil, unsupported("the rule %s", r.Head)
		}
		if r.Default {
			var err error
			if otherwise, err = l.constants.of(r.Head.Value.Value); err != nil || args != nil {
				return nil, unsupported("the default %s", r.Head)
			}
			continue
		}
		d, err := l.chain(r, args, out)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return func(f *frame) value {
		f.slots[out] = value{kind: unset}
		for i := range all {
			all[i].run(f, out)
			if f.bail {
				return value{kind: undefined}
			}
		}
		if f.slots[out].kind == unset {
			return otherwise
		}
		return f.slots[out]
	}, nil
}

// definition is one definition with its else branches.
type definition struct {
	branches []cont
	// fixed is the value of the only branch, if it is known now.
	fixed *value
}

// run evaluates the first branch that is true. A definition that could only repeat the value that is there already is
// not looked at.
func (d *definition) run(f *frame, out int) {
	if d.fixed != nil && f.slots[out].kind != unset && equal(f, *d.fixed, f.slots[out]) {
		return
	}
	before := f.slots[out]
	for _, branch := range d.branches {
		f.slots[out] = value{kind: unset}
		branch(f)
		if f.bail {
			return
		}
		if now := f.slots[out]; now.kind != unset {
			if before.kind != unset && !equal(f, before, now) {
				f.bail = true
			}
			return
		}
	}
	f.slots[out] = before
}

func (l *lowering) chain(r *ast.Rule, args []int, out int) (definition, error) {
	var d definition
	for ; r != nil; r = r.Else {
		if err := l.op(); err != nil {
			return d, err
		}
		branch, fixed, err := l.branch(r, args, out)
		if err != nil {
			return d, err
		}
		d.branches = append(d.branches, branch)
		d.fixed = fixed
	}
	if len(d.branches) > 1 {
		d.fixed = nil
	}
	return d, nil
}

// branch lowers one body with its head. The last step keeps the value; one that is known now is found once, any other
// as often as the body is true, and must always be the same.
func (l *lowering) branch(r *ast.Rule, args []int, out int) (cont, *value, error) {
	defer l.enter()()
	var fixed *value
	last := func() (cont, error) {
		return l.gen(r.Head.Value, func() (yield, error) {
			constant := isConstant(r.Head.Value)
			return func(f *frame, v value) bool {
				if had := f.slots[out]; had.kind != unset && !equal(f, had, v) {
					f.bail = true
				}
				f.slots[out] = v
				return constant || f.bail
			}, nil
		})
	}
	body, err := l.arguments(r, args, 0, func() (cont, error) { return l.body(r.Body, last) })
	if err != nil {
		return nil, nil, err
	}
	if isConstant(r.Head.Value) {
		v, err := l.constants.of(r.Head.Value.Value)
		if err != nil {
			return nil, nil, err
		}
		fixed = &v
	}
	return body, fixed, nil
}

// arguments matches the parameters of a function with the values it was called with.
func (l *lowering) arguments(r *ast.Rule, args []int, i int, next func() (cont, error)) (cont, error) {
	if i == len(args) {
		return next()
	}
	y, err := l.match(r.Head.Args[i], func() (cont, error) { return l.arguments(r, args, i+1, next) })
	if err != nil {
		return nil, err
	}
	at := args[i]
	return func(f *frame) bool { return y(f, f.slots[at]) }, nil
}

// isConstant reports whether a term is known now: no variables, references, calls or comprehensions in it.
func isConstant(t *ast.Term) bool {
	constant := true
	ast.WalkTerms(t, func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.Null, ast.Boolean, ast.Number, ast.String, *ast.Array, ast.Object, ast.Set:
		default:
			constant = false
		}
		return !constant
	})
	return constant
}
