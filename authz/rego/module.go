package rego

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/mesh/policy"
)

// Limits of a policy written in place. Bundles have their own.
const (
	MaxModules     = 256
	MaxModuleBytes = 1 << 20 // of all modules
)

// source is one module's text, and the field it was written in.
type source struct{ field, name, text string }

// material is what a snapshot is compiled from: modules as text or parsed (a bundle's), and the base document.
type material struct {
	sources  []source
	parsed   map[string]*ast.Module
	data     map[string]any
	revision string
}

// onlyOneSource wants exactly one of module, modules and bundle, and no data beside a bundle.
func onlyOneSource(spec *policy.RegoPolicy) error {
	n := 0
	for _, given := range []bool{spec.GetModule() != "", len(spec.GetModules()) > 0, spec.GetBundle() != nil} {
		if given {
			n++
		}
	}
	switch {
	case n != 1:
		return faultf("module", "exactly one of module, modules and bundle is needed, not %d", n)
	case spec.GetBundle() != nil && spec.GetData() != nil:
		return faultf("data", "a bundle brings its own data")
	case len(spec.GetModules()) > MaxModules:
		return faultf("modules", "%d modules are more than %d", len(spec.GetModules()), MaxModules)
	}
	return nil
}

// inline is the material of a policy that carries its modules.
func inline(spec *policy.RegoPolicy) material {
	m := material{data: spec.GetData().AsMap()}
	if spec.GetModule() != "" {
		m.sources = []source{{field: "module", name: "module", text: spec.GetModule()}}
	}
	for i, one := range spec.GetModules() {
		m.sources = append(m.sources, source{field: fmt.Sprintf("modules[%d].source", i), name: one.GetName(), text: one.GetSource()})
	}
	return m
}

// parse reads the modules that are text. A policy written for Rego's version 0, as published examples still are, is read
// as such; none that reads as version 1 is.
func (m *material) parse() (map[string]*ast.Module, error) {
	out := map[string]*ast.Module{}
	for name, module := range m.parsed {
		out[name] = module
	}
	size := 0
	for _, s := range m.sources {
		if size += len(s.text); size > MaxModuleBytes {
			return nil, faultf(s.field, "the modules have more than %d bytes", MaxModuleBytes)
		}
		if _, twice := out[s.name]; twice || s.name == "" {
			return nil, faultf(strings.Replace(s.field, ".source", ".name", 1), "%q is empty or taken", s.name)
		}
		if err := checkNesting(s); err != nil {
			return nil, err
		}
		module, err := parseModule(s)
		if err != nil {
			return nil, opaError(m.sources, s.field, err)
		}
		out[s.name] = module
	}
	return out, nil
}

func parseModule(s source) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts(s.name, s.text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err == nil {
		if module == nil {
			return nil, faultf(s.field, "the module is empty")
		}
		return module, nil
	}
	if !strings.Contains(s.text, "rego.v1") {
		if old, oldErr := ast.ParseModuleWithOpts(s.name, s.text, ast.ParserOptions{RegoVersion: ast.RegoV0}); oldErr == nil && old != nil {
			return old, nil
		}
	}
	return nil, err
}

// parseQuery wants a reference to one document below data, whose path holds no variables.
func parseQuery(text string) (ast.Ref, error) {
	if text == "" {
		return nil, faultf("query", "is required")
	}
	ref, err := ast.ParseRef(text)
	if err != nil || len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) || !ref.IsGround() {
		return nil, faultf("query", "%q is not a path below data such as data.menu.decision", text)
	}
	for _, t := range ref[1:] {
		if _, ok := t.Value.(ast.String); !ok {
			return nil, faultf("query", "%q is not a path below data such as data.menu.decision", text)
		}
	}
	return ref, nil
}
