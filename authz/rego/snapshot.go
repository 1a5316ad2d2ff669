package rego

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// resultVar is what the compiled query binds the decision to.
const resultVar = ast.Var("result")

// snapshot is a compiled policy with its data. Immutable; a bundle replaces it as a whole.
type snapshot struct {
	compiler *ast.Compiler
	queries  ast.QueryCompiler
	query    ast.Body
	// store is never written after it was made, and txn, which reads it, is never closed: both are shared.
	store    storage.Store
	txn      storage.Transaction
	data     ast.Object
	reads    *reads
	revision string
	// twice says that both readings of a path must be judged.
	twice bool
	// native is nil if the policy could not be lowered, and notLowered why.
	native     *native
	notLowered string
}

// compile makes a snapshot. Errors tell the field and Rego's position; a panic inside OPA is one.
func (p *Policy) compile(m material) (made *snapshot, err error) {
	defer func() {
		if e := recover(); e != nil {
			made, err = nil, faultf("module", "compiling: panic: %v", e)
		}
	}()
	modules, err := m.parse()
	if err != nil {
		return nil, err
	}
	s := &snapshot{revision: m.revision}
	if err := s.load(m.data); err != nil {
		return nil, err
	}
	work := newBudget()
	if err := work.modules(modules); err != nil {
		return nil, opaFaults(m.sources, nil, ast.Errors{err})
	}
	s.compiler = work.stages(ast.NewCompiler().WithCapabilities(p.capabilities).WithDefaultRegoVersion(ast.RegoV1).
		WithPathConflictsCheck(s.taken))
	s.compiler.Compile(modules)
	if s.compiler.Failed() {
		return nil, opaFaults(m.sources, refusedNames(), s.compiler.Errors)
	}
	if err := s.ask(p.query); err != nil {
		return nil, err
	}
	s.reads = readsOf(s.compiler, p.query)
	s.twice = s.reads.path()
	if s.reads.body() {
		s.notLowered = "it reads the body"
	} else if s.native, err = lower(s, p.query); err != nil {
		s.notLowered = err.Error()
	}
	return s, nil
}

func refusedNames() map[string]bool {
	out := map[string]bool{}
	for _, name := range refused() {
		out[name] = true
	}
	return out
}

// load puts the base document into a store that hands out OPA's own values.
func (s *snapshot) load(data map[string]any) error {
	v, err := ast.InterfaceToValue(data)
	if err != nil {
		return faultf("data", "reading the base document: %w", err)
	}
	s.data, _ = v.(ast.Object)
	if s.data == nil {
		s.data = ast.NewObject()
	}
	if data == nil {
		data = map[string]any{}
	}
	s.store = inmem.NewFromObjectWithOpts(data, inmem.OptReturnASTValuesOnRead(true))
	var none context.Context // a store in memory looks at no context
	s.txn, err = s.store.NewTransaction(none)
	if err != nil {
		return fmt.Errorf("opening the policy's data: %w", err)
	}
	return nil
}

// taken reports whether the base document has a value at a path, which no rule may then define.
func (s *snapshot) taken(path []string) (bool, error) {
	at := ast.Value(s.data)
	for _, key := range path {
		object, ok := at.(ast.Object)
		if !ok {
			return false, nil
		}
		t := object.Get(ast.StringTerm(key))
		if t == nil {
			return false, nil
		}
		at = t.Value
	}
	return true, nil
}

// ask compiles the query. One that names neither a rule nor data would be undefined for ever: it is refused.
func (s *snapshot) ask(query ast.Ref) error {
	path := make([]string, 0, len(query)-1)
	for _, t := range query[1:] {
		path = append(path, string(t.Value.(ast.String)))
	}
	if inData, _ := s.taken(path); !inData && len(s.compiler.GetRules(query)) == 0 {
		packages := map[string]bool{}
		for _, m := range s.compiler.Modules {
			packages[m.Package.Path.String()] = true
		}
		return faultf("query", "%q names no rule; the packages are %q", query, slices.Sorted(maps.Keys(packages)))
	}
	s.queries = s.compiler.QueryCompiler()
	body, err := s.queries.Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(query), ast.NewTerm(resultVar))))
	if err != nil {
		return faultf("query", "compiling %q: %w", query, err)
	}
	s.query = body
	return nil
}

// opaError turns an error of OPA's parser into one that names the field.
func opaError(sources []source, field string, err error) error {
	var many ast.Errors
	if errors.As(err, &many) {
		return opaFaults(sources, nil, many)
	}
	if named, _ := Field(err); named != "" {
		return err
	}
	return &fault{field: field, cause: err}
}
