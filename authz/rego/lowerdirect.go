package rego

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// getter is a string of the request; ok is false if it is undefined.
type getter func(f *frame) (s string, ok bool)

// direct is a term that has at most one value and binds nothing: it is evaluated where it is used, without a slot.
type direct struct {
	unit unit
	// text is set if the value is a string wherever there is one, known if it is known now, test if it is a rule that is
	// only true or not.
	text  getter
	known *value
	test  test
	// truth says that the value is true or false wherever there is one.
	truth bool
	cost  int
	// safe says that OPA never fails to evaluate it, so that it may be evaluated earlier or later than written.
	safe bool
}

// What evaluating a term costs, for the order of conjuncts. Up to cheap it is evaluated again rather than kept.
const (
	cheap      = 2
	costPath   = 3
	costHeader = 6
	costClaim  = 8
	costLookup = 4
	costCall   = 5
	costRule   = 20
)

func textual(get getter, cost int) direct {
	return direct{text: get, cost: cost, safe: true, unit: func(f *frame) value {
		s, ok := get(f)
		if !ok {
			return value{kind: undefined}
		}
		return exactly(s)
	}}
}

func knownAs(v value) direct {
	d := direct{unit: func(*frame) value { return v }, safe: true}
	if v.kind != undefined {
		d.known = &v
	}
	if s := v.s; v.kind == text {
		d.text = func(*frame) (string, bool) { return s, true }
	}
	return d
}

// direct lowers a term that has at most one value; ok is false for others.
func (l *lowering) direct(t *ast.Term) (d direct, ok bool, err error) {
	if err := l.op(); err != nil {
		return d, false, err
	}
	switch v := t.Value.(type) {
	case ast.Var:
		if !l.bound[v] {
			return d, false, nil
		}
		d, ok = l.aliases[v]
		if !ok {
			d = slotted(l.scope[v])
		}
		return d, true, nil
	case ast.Ref:
		return l.directRef(v)
	}
	if !isConstant(t) {
		return d, false, nil
	}
	v, err := l.constants.of(t.Value)
	return knownAs(v), err == nil, err
}

// slotted is a variable that was bound before.
func slotted(at int) direct {
	return direct{unit: func(f *frame) value { return f.slots[at] }, cost: 1, safe: true}
}

func (l *lowering) directRef(r ast.Ref) (d direct, ok bool, err error) {
	d, rest, err := l.base(r)
	for i := 0; err == nil && i < len(rest); i++ {
		if v, isVar := rest[i].Value.(ast.Var); isVar && !l.bound[v] {
			return direct{}, false, nil
		}
		d, err = l.at(d, rest[i])
	}
	return d, err == nil, err
}

// at is the member of a value by a key that has a value.
func (l *lowering) at(d direct, t *ast.Term) (direct, error) {
	key, ok, err := l.direct(t)
	if err != nil {
		return direct{}, err
	}
	if !ok {
		return direct{}, unsupported("the key %s", t)
	}
	out := direct{cost: d.cost + key.cost + costLookup, safe: d.safe && key.safe}
	if d.known != nil && d.known.kind == constant && key.text != nil {
		if k := d.known.p.(*konst); k.object != nil && k.stringKeys {
			out.unit = memberOf(k.object, key.text)
			return out, nil
		}
	}
	base, by := d.unit, key.unit
	out.unit = func(f *frame) value {
		v := base(f)
		if v.kind == undefined || f.bail {
			return v
		}
		k := by(f)
		if k.kind == undefined || f.bail {
			return value{kind: undefined}
		}
		return lookup(f, v, k)
	}
	return out, nil
}

func memberOf(object map[string]value, key getter) unit {
	return func(f *frame) value {
		if s, ok := key(f); ok {
			if v, ok := object[s]; ok {
				return v
			}
		}
		return value{kind: undefined}
	}
}

// base is as much of a reference as is lowered at once, and the operands that are left.
func (l *lowering) base(r ast.Ref) (direct, ast.Ref, error) {
	head, ok := r[0].Value.(ast.Var)
	switch {
	case !ok:
	case head.Equal(ast.InputRootDocument.Value):
		return l.inputBase(r)
	case head.Equal(ast.DefaultRootDocument.Value):
		return l.dataBase(r)
	case l.bound[head]:
		d, ok, err := l.direct(r[0])
		if ok {
			return d, r[1:], err
		}
	}
	return direct{}, nil, unsupported("%s", r)
}

func (l *lowering) inputBase(r ast.Ref) (direct, ast.Ref, error) {
	n, i := l.input, 1
	for ; i < len(r) && n.get == nil && !n.headers; i++ {
		key, ok := r[i].Value.(ast.String)
		if !ok || n.kids[string(key)] == nil {
			return direct{}, nil, unsupported("%s", r)
		}
		n = n.kids[string(key)]
	}
	rest := r[i:]
	switch {
	case n.text != nil:
		return direct{text: n.text, unit: n.get, cost: n.cost, safe: true}, rest, nil
	case n.claims:
		d, rest := claimsBase(rest)
		return d, rest, nil
	case n.headers && len(rest) > 0:
		if name, ok := rest[0].Value.(ast.String); ok {
			return textual(headerNamed(string(name)), costHeader), rest[1:], nil
		}
		if v, ok := rest[0].Value.(ast.Var); !ok || !l.bound[v] {
			return direct{}, nil, unsupported("%s", r)
		}
	case n.segments && len(rest) > 0:
		if number, ok := rest[0].Value.(ast.Number); ok {
			if i, err := strconv.Atoi(string(number)); err == nil {
				return textual(segmentAt(i), costPath), rest[1:], nil
			}
		}
	}
	return direct{unit: n.value, cost: costPath, safe: true}, rest, nil
}

// segmentAt is parsed_path[i].
func segmentAt(i int) getter {
	return func(f *frame) (string, bool) {
		if f.r == nil {
			return "", false
		}
		if segs := f.segments(); i >= 0 && i < len(segs) {
			return segs[i], true
		}
		return "", false
	}
}

// headerNamed is a header whose name is known now.
func headerNamed(name string) getter {
	switch {
	case name == ":path":
		return func(f *frame) (string, bool) { return f.target(), f.r != nil }
	case strings.HasPrefix(name, ":"):
		return func(f *frame) (string, bool) {
			if f.r == nil {
				return "", false
			}
			return header(f.c, f.r, name, f.decoded)
		}
	case strings.ToLower(name) != name:
		return func(*frame) (string, bool) { return "", false }
	}
	return func(f *frame) (string, bool) {
		if f.r == nil {
			return "", false
		}
		return joined(f.r.Headers, name)
	}
}

// claimsBase is token.claims with the constant names below it.
func claimsBase(rest ast.Ref) (direct, ast.Ref) {
	var names []string
	for len(rest) > 0 && isKey(rest[0]) {
		names = append(names, string(rest[0].Value.(ast.String)))
		rest = rest[1:]
	}
	return direct{cost: costClaim + costLookup*len(names), safe: true, unit: func(f *frame) value {
		if !hasToken(f) {
			return value{kind: undefined}
		}
		at := any(f.r.Token.Claims)
		for _, name := range names {
			m, ok := at.(map[string]any)
			if !ok {
				return value{kind: undefined}
			}
			if at, ok = m[name]; !ok {
				return value{kind: undefined}
			}
		}
		return claimOf(f, at)
	}}, rest
}

// dataBase is a rule's value, or base data. Packages are not read as a whole.
func (l *lowering) dataBase(r ast.Ref) (direct, ast.Ref, error) {
	tree := l.s.compiler.RuleTree.Child(r[0].Value)
	for i := 1; tree != nil; i++ {
		if len(tree.Values) > 0 {
			if len(tree.Children) > 0 {
				return direct{}, nil, unsupported("%s, below which there are rules", r[:i])
			}
			d, err := l.rule(r[:i], tree.Values)
			return d, r[i:], err
		}
		if i == len(r) || !isKey(r[i]) {
			return direct{}, nil, unsupported("%s", r)
		}
		tree = tree.Child(r[i].Value)
	}
	v, rest, err := l.baseData(r)
	return knownAs(v), rest, err
}

// baseData is as much of the base document as a reference names by constants, and what is left of the reference.
func (l *lowering) baseData(r ast.Ref) (value, ast.Ref, error) {
	at := ast.Value(l.s.data)
	i := 1
	for ; i < len(r) && isKey(r[i]); i++ {
		o, ok := at.(ast.Object)
		if !ok {
			break
		}
		t := o.Get(r[i])
		if t == nil {
			return value{kind: undefined}, nil, nil
		}
		at = t.Value
	}
	name := r[:i].String()
	if v, ok := l.data[name]; ok {
		return v, r[i:], nil
	}
	v, err := l.constants.of(at)
	l.data[name] = v
	return v, r[i:], err
}
