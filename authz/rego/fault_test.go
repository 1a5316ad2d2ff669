package rego

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/mesh/policy"
)

// TestFaults tells a mistake once, and at most maxFaults of them.
func TestFaults(t *testing.T) {
	var errs ast.Errors
	for i := range maxFaults + 2 {
		for range 2 {
			errs = append(errs, ast.NewError(ast.CompileErr, &ast.Location{File: "module", Row: i + 1, Col: 1}, "wrong"))
		}
	}
	sources := []source{{field: "module", name: "module"}}
	want := "module: module:1:1: wrong; module:2:1: wrong; module:3:1: wrong; module:4:1: wrong; module:5:1: wrong; and 2 more"
	err := opaFaults(sources, nil, errs)
	if line, column := Place(err); err.Error() != want || line != 1 || column != 1 {
		t.Errorf("%d:%d %v", line, column, err)
	}
	_, err = New(Config{Namespace: "lab", Name: "menu", Spec: &policy.RegoPolicy{Query: "data.m.allow", Module: "package m\nallow := {"}})
	if err == nil || strings.Count(err.Error(), "unexpected eof token") != 1 || !strings.Contains(err.Error(), "expected rule value term") {
		t.Errorf("a syntax error: %v", err)
	}
}
