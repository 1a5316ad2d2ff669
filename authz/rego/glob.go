package rego

import (
	"strings"

	"github.com/gobwas/glob"
	"github.com/open-policy-agent/opa/v1/ast"
)

// compileGlob makes a matcher of glob.match's pattern and delimiters, which must be known now.
func compileGlob(e *ast.Expr, operands []*ast.Term) (func(string) bool, error) {
	if len(operands) < 3 {
		return nil, unsupported("%s", e)
	}
	pattern, ok := operands[0].Value.(ast.String)
	if !ok {
		return nil, unsupported("%s with a pattern that is not constant", ast.GlobMatch.Name)
	}
	delimiters, err := delimitersOf(operands[1].Value)
	if err != nil {
		return nil, err
	}
	compiled, err := glob.Compile(string(pattern), delimiters...)
	if err != nil {
		return nil, unsupported("the pattern %q", string(pattern))
	}
	if match := simpleGlob(string(pattern), delimiters); match != nil {
		return match, nil
	}
	return compiled.Match, nil
}

// simpleGlob matches patterns without any wildcard, or with one * or ** that is their end; nil for others, which the
// library that OPA uses matches.
func simpleGlob(pattern string, delimiters []rune) func(string) bool {
	prefix := strings.TrimRight(pattern, "*")
	if strings.ContainsAny(prefix, "*?[]{}\\,!") {
		return nil
	}
	switch stars := pattern[len(prefix):]; {
	case stars == "":
		return func(s string) bool { return s == pattern }
	case stars == "**", stars == "*" && len(delimiters) == 0:
		return func(s string) bool { return strings.HasPrefix(s, prefix) }
	case stars == "*" && len(delimiters) == 1 && delimiters[0] < 0x80:
		delimiter := byte(delimiters[0])
		return func(s string) bool {
			return strings.HasPrefix(s, prefix) && strings.IndexByte(s[len(prefix):], delimiter) < 0
		}
	}
	return nil
}

// glob lowers glob.match in a body.
func (l *lowering) glob(e *ast.Expr, operands []*ast.Term, next func() (cont, error)) (cont, error) {
	match, err := compileGlob(e, operands)
	if err != nil {
		return nil, err
	}
	return l.gen(operands[2], func() (yield, error) {
		y, err := l.output(operands[3:], next)
		return func(f *frame, v value) bool {
			if v.kind != text {
				f.bail = true
				return true
			}
			return y(f, truth(match(v.s)))
		}, err
	})
}

// delimitersOf are those of glob.match: null is none, [] a dot.
func delimitersOf(v ast.Value) ([]rune, error) {
	switch v := v.(type) {
	case ast.Null:
		return nil, nil
	case *ast.Array:
		out := []rune{}
		for _, t := range terms(v) {
			s, ok := t.Value.(ast.String)
			if !ok || len([]rune(string(s))) != 1 {
				return nil, unsupported("the delimiters %s", v)
			}
			out = append(out, []rune(string(s))...)
		}
		if len(out) == 0 {
			out = []rune{'.'}
		}
		return out, nil
	}
	return nil, unsupported("delimiters that are not constant")
}
