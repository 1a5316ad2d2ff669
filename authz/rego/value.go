package rego

import (
	"encoding/json"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

// kind is what a value of native code is.
type kind uint8

const (
	unset     kind = iota // a variable that nothing was bound to yet
	undefined             // no value
	null
	boolean
	text
	number    // s is its literal
	constant  // p is a *konst: an array, object or set known when the policy was lowered
	claim     // p is a map[string]any or []any of a token
	audiences // of the token
	path      // the segments lo to hi of parsed_path
	node      // p is an *inode: a part of the input that is only looked into
	built     // p is an ast.Value: an array or object that the policy made, only compared or answered
)

// value is a value of native code. It borrows from the request and lives as long as its frame is in use.
type value struct {
	kind   kind
	b      bool
	lo, hi int32
	s      string
	p      any
}

// holds reports whether an expression with that value is true: every value is but false.
func (v value) holds() bool { return v.kind != undefined && (v.kind != boolean || v.b) }

func truth(b bool) value { return value{kind: boolean, b: b} }

// konst is an array, object or set, with indexes for lookups by strings.
type konst struct {
	v ast.Value
	// keys and values are what iteration yields: of an array positions, of a set its elements twice.
	keys, values []value
	object       map[string]value    // members of an object whose keys are strings
	members      map[string]struct{} // what is in it and is a string
	texts        bool                // all values are strings
	stringKeys   bool                // all keys of an object are strings
}

// constants turns OPA's values into native ones, up to a number of them.
type constants struct{ left int }

func (c *constants) of(v ast.Value) (value, error) {
	if c.left--; c.left < 0 {
		return value{}, errTooLarge
	}
	switch v := v.(type) {
	case ast.Null:
		return value{kind: null}, nil
	case ast.Boolean:
		return truth(bool(v)), nil
	case ast.String:
		return value{kind: text, s: string(v)}, nil
	case ast.Number:
		return value{kind: number, s: string(v)}, nil
	}
	k := &konst{v: v, members: map[string]struct{}{}, texts: true, stringKeys: true}
	var err error
	switch v := v.(type) {
	case *ast.Array:
		i := -1
		err = v.Iter(func(t *ast.Term) error { i++; return c.add(k, ast.InternedTerm(i), t) })
	case ast.Set:
		err = v.Iter(func(t *ast.Term) error { return c.add(k, t, t) })
	case ast.Object:
		k.object = map[string]value{}
		err = v.Iter(func(key, t *ast.Term) error { return c.add(k, key, t) })
	default:
		return value{}, unsupported("a %s", ast.ValueName(v))
	}
	return value{kind: constant, p: k}, err
}

func (c *constants) add(k *konst, key, member *ast.Term) error {
	kv, err := c.of(key.Value)
	if err != nil {
		return err
	}
	mv, err := c.of(member.Value)
	if err != nil {
		return err
	}
	k.keys, k.values = append(k.keys, kv), append(k.values, mv)
	if mv.kind == text {
		k.members[mv.s] = struct{}{}
	} else {
		k.texts = false
	}
	if kv.kind == text && k.object != nil {
		k.object[kv.s] = mv
	} else {
		k.stringKeys = false
	}
	return nil
}

// claimOf is a value of a token's claims, as encoding/json reads them with numbers kept.
func claimOf(f *frame, v any) value {
	switch v := v.(type) {
	case nil:
		return value{kind: null}
	case bool:
		return truth(v)
	case string:
		return value{kind: text, s: v}
	case json.Number:
		return value{kind: number, s: string(v)}
	case map[string]any, []any:
		return value{kind: claim, p: v}
	}
	return f.unsure()
}

// lookup is v[key]; undefined if there is none.
func lookup(f *frame, v, key value) value {
	switch v.kind {
	case constant:
		return v.p.(*konst).lookup(f, key)
	case claim:
		if m, ok := v.p.(map[string]any); ok {
			if member, ok := m[key.s]; ok && key.kind == text {
				return claimOf(f, member)
			}
			return value{kind: undefined}
		}
		return f.element(v, key)
	case audiences, path:
		return f.element(v, key)
	case node:
		if key.kind != text {
			return value{kind: undefined}
		}
		return v.p.(*inode).child(f, key.s)
	case built:
		return f.unsure()
	}
	return value{kind: undefined}
}

func (k *konst) lookup(f *frame, key value) value {
	switch k.v.(type) {
	case *ast.Array:
		return f.element(value{kind: constant, p: k}, key)
	case ast.Set:
		if _, ok := k.members[key.s]; ok && key.kind == text {
			return key
		} else if key.kind == text || k.texts {
			return value{kind: undefined}
		}
	default:
		if v, ok := k.object[key.s]; ok && key.kind == text {
			return v
		} else if key.kind == text || k.stringKeys {
			return value{kind: undefined}
		}
	}
	return f.unsure()
}

// length of an array; -1 for anything else.
func (f *frame) length(v value) int {
	switch v.kind {
	case constant:
		if _, ok := v.p.(*konst).v.(*ast.Array); ok {
			return len(v.p.(*konst).values)
		}
	case claim:
		if list, ok := v.p.([]any); ok {
			return len(list)
		}
	case audiences:
		return len(f.r.Token.Audiences)
	case path:
		return int(v.hi - v.lo)
	}
	return -1
}

// index is the i-th element of an array that has one.
func (f *frame) index(v value, i int) value {
	switch v.kind {
	case constant:
		return v.p.(*konst).values[i]
	case claim:
		return claimOf(f, v.p.([]any)[i])
	case audiences:
		return value{kind: text, s: f.r.Token.Audiences[i]}
	}
	return value{kind: text, s: f.segments()[int(v.lo)+i]}
}

// element is array[key].
func (f *frame) element(v, key value) value {
	if key.kind != number {
		return value{kind: undefined}
	}
	i, err := strconv.Atoi(key.s)
	if err != nil {
		return f.unsure()
	}
	if i < 0 || i >= f.length(v) {
		return value{kind: undefined}
	}
	return f.index(v, i)
}

// equal is Rego's equality.
func equal(f *frame, a, b value) bool {
	if a.kind > number || b.kind > number {
		if a.kind <= number || b.kind <= number {
			return false // a scalar is no composite
		}
		if n, m := f.length(a), f.length(b); n >= 0 && m >= 0 {
			return n == m && f.sameElements(a, b, n)
		}
		x, y := f.toAST(a), f.toAST(b)
		return x != nil && y != nil && ast.Compare(x, y) == 0
	}
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case boolean:
		return a.b == b.b
	case text:
		return a.s == b.s
	case number:
		return a.s == b.s || ast.Compare(ast.Number(a.s), ast.Number(b.s)) == 0
	}
	return true
}

func (f *frame) sameElements(a, b value, n int) bool {
	for i := range n {
		if f.tick(); !equal(f, f.index(a, i), f.index(b, i)) {
			return false
		}
	}
	return true
}

// member is x in v.
func member(f *frame, x, v value) value {
	switch v.kind {
	case constant:
		k := v.p.(*konst)
		if x.kind == text {
			_, ok := k.members[x.s]
			return truth(ok)
		}
		if k.texts && x.kind <= number {
			return truth(false)
		}
		return truth(f.anyEqual(x, k.values))
	case claim:
		if m, ok := v.p.(map[string]any); ok {
			for _, e := range m {
				if equal(f, x, claimOf(f, e)) {
					return truth(true)
				}
			}
			return truth(false)
		}
	case node, built:
		return f.unsure()
	}
	for i, n := 0, f.length(v); i < n; i++ {
		if f.tick(); equal(f, x, f.index(v, i)) {
			return truth(true)
		}
	}
	return truth(false)
}

func (f *frame) anyEqual(x value, values []value) bool {
	for _, v := range values {
		if f.tick(); equal(f, x, v) {
			return true
		}
	}
	return false
}

// toAST is the value for OPA; nil, and an unsure frame, for a part of the input.
func (f *frame) toAST(v value) ast.Value {
	switch v.kind {
	case null:
		return ast.NullValue
	case boolean:
		return ast.Boolean(v.b)
	case text:
		return ast.String(v.s)
	case number:
		return ast.Number(v.s)
	case constant:
		return v.p.(*konst).v
	case built:
		return v.p.(ast.Value)
	case claim:
		if out, err := ast.InterfaceToValue(v.p); err == nil {
			return out
		}
	case path, audiences:
		terms := make([]*ast.Term, f.length(v))
		for i := range terms {
			terms[i] = ast.StringTerm(f.index(v, i).s)
		}
		return ast.NewArray(terms...)
	}
	f.unsure()
	return nil
}
