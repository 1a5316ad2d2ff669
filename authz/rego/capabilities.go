package rego

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// refused lists the built-in functions that reach out of the process or into its environment.
func refused() []string { return []string{"http.send", "net.lookup_ip_addr", "opa.runtime"} }

// capabilities are OPA's own without the refused functions, save those that the operator allows. Schemas are never
// fetched; with http.send allowed, its hosts are not restricted.
func capabilities(allowed []string) (*ast.Capabilities, error) {
	c := ast.CapabilitiesForThisVersion()
	for _, name := range allowed {
		if !slices.ContainsFunc(c.Builtins, func(b *ast.Builtin) bool { return b.Name == name }) {
			return nil, faultf("builtins", "%q is not a built-in function of this OPA", name)
		}
	}
	c.Builtins = slices.DeleteFunc(slices.Clone(c.Builtins), func(b *ast.Builtin) bool {
		return slices.Contains(refused(), b.Name) && !slices.Contains(allowed, b.Name)
	})
	if !slices.Contains(allowed, "http.send") {
		c.AllowNet = []string{}
	}
	return c, nil
}
