package rego

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// reads is the part of the input that a policy reads, as a tree of keys: nothing else is built. The nil *reads reads
// nothing.
type reads struct {
	all  bool // this value and everything below it
	kids map[string]*reads
}

// everything is a policy that reads all of its input.
var everything = &reads{all: true}

// at is what is read below a key; nil if nothing is.
func (r *reads) at(key string) *reads {
	switch {
	case r == nil:
		return nil
	case r.all:
		return everything
	}
	return r.kids[key]
}

// has reports whether anything at a path is read.
func (r *reads) has(path ...string) bool {
	for _, key := range path {
		r = r.at(key)
	}
	return r != nil
}

// body reports whether the body of a request is read.
func (r *reads) body() bool {
	return r.has("parsed_body") || r.has("truncated_body") || r.has("attributes", "request", "http", "body")
}

// path reports whether anything is read that differs between the readings of a path.
func (r *reads) path() bool {
	http := r.at("attributes").at("request").at("http")
	return r.has("parsed_path") || http.has("path") || http.has("headers", ":path")
}

func (r *reads) add(path ast.Ref) {
	for _, t := range path {
		key, ok := t.Value.(ast.String)
		if !ok || r.all {
			break
		}
		if r.kids == nil {
			r.kids = map[string]*reads{}
		}
		next := r.kids[string(key)]
		if next == nil {
			next = &reads{}
			r.kids[string(key)] = next
		}
		r = next
		path = path[1:]
	}
	if len(path) == 0 || !isKey(path[0]) {
		r.all, r.kids = true, nil
	}
}

func isKey(t *ast.Term) bool {
	_, ok := t.Value.(ast.String)
	return ok
}

// readsOf collects the references to input of the rules that a query depends on. A variable that stands for a part of the
// input (http := input.attributes.request.http) is followed where it is only the head of references; anywhere else it
// reads all of its part.
func readsOf(c *ast.Compiler, query ast.Ref) *reads {
	out := &reads{}
	seen := map[*ast.Rule]bool{}
	var visit func(rule *ast.Rule)
	visit = func(rule *ast.Rule) {
		if seen[rule] {
			return
		}
		seen[rule] = true
		r := reader{out: out, aliases: map[ast.Var][]ast.Ref{}}
		r.alias(rule)
		r.walk(rule)
		r.unused()
		for branch := rule; branch != nil; branch = branch.Else {
			for next := range c.Graph.Dependencies(branch) {
				visit(next.(*ast.Rule))
			}
		}
	}
	for _, rule := range c.GetRules(query) {
		visit(rule)
	}
	return out
}

// reader collects what one rule reads.
type reader struct {
	out     *reads
	aliases map[ast.Var][]ast.Ref
	names   map[*ast.Term]bool // occurrences of a variable that only name its alias
	used    map[ast.Var]bool
}

// alias finds the variables that are nothing but names of a part of the input. Aliases of aliases count as reads of all.
func (r *reader) alias(rule *ast.Rule) {
	r.names, r.used = map[*ast.Term]bool{}, map[ast.Var]bool{}
	ast.WalkExprs(rule, func(e *ast.Expr) bool {
		if !e.IsEquality() || e.Negated || len(e.With) > 0 || len(e.Operands()) != 2 {
			return false
		}
		a, b := e.Operand(0), e.Operand(1)
		for _, pair := range [][2]*ast.Term{{a, b}, {b, a}} {
			v, isVar := pair[0].Value.(ast.Var)
			ref, isRef := pair[1].Value.(ast.Ref)
			if isVar && isRef && ref[0].Equal(ast.InputRootDocument) && ref.IsGround() {
				r.aliases[v] = append(r.aliases[v], ref[1:])
				r.names[pair[0]], r.names[pair[1]] = true, true
			}
		}
		return false
	})
}

func (r *reader) walk(x any) {
	ast.NewGenericVisitor(func(x any) bool {
		t, ok := x.(*ast.Term)
		if !ok {
			return false
		}
		if r.names[t] {
			return true
		}
		switch v := t.Value.(type) {
		case ast.Var:
			r.use(v, nil)
		case ast.Ref:
			if head, ok := v[0].Value.(ast.Var); ok {
				r.use(head, v[1:])
			} else {
				r.walk(v[0])
			}
			for _, operand := range v[1:] {
				r.walk(operand)
			}
			return true
		}
		return false
	}).Walk(x)
}

// use notes that a variable is read at a path below it: input itself, or a name of a part of it.
func (r *reader) use(v ast.Var, below ast.Ref) {
	if v.Equal(ast.InputRootDocument.Value) {
		r.out.add(below)
		return
	}
	r.used[v] = true
	for _, base := range r.aliases[v] {
		path := append(base[:len(base):len(base)], below...)
		r.out.add(path)
	}
}

// unused reads what is named and never looked at: whether it is there decides.
func (r *reader) unused() {
	for v, bases := range r.aliases {
		for _, base := range bases {
			if !r.used[v] {
				r.out.add(base)
			}
		}
	}
}

// recorded is what an access log says of a request and its caller.
var recorded = [][]string{
	{"attributes", "source", "principal"}, {"source_principal"}, {"attributes", "source", "address"}, {"attributes", "destination", "address"},
	{"attributes", "request", "http", "method"}, {"attributes", "request", "http", "path"}, {"attributes", "request", "http", "host"},
	{"parsed_path"}, {"parsed_query"}, {"version"},
}

// within reports whether nothing is read outside the given parts.
func (r *reads) within(parts [][]string) bool {
	if r == nil {
		return true
	}
	for _, p := range parts {
		if len(p) == 0 {
			return true
		}
	}
	if r.all {
		return false
	}
	for key, kid := range r.kids {
		var below [][]string
		for _, p := range parts {
			if p[0] == key {
				below = append(below, p[1:])
			}
		}
		if !kid.within(below) {
			return false
		}
	}
	return true
}

// Recorded reports whether a line of an access log says all of a request that the policy reads (method, path, query, host,
// the caller's principal and address), so that recorded traffic can be judged by it. It is false without a bundle.
func (p *Policy) Recorded() bool {
	s := p.current.Load()
	return s != nil && s.reads.within(recorded)
}
