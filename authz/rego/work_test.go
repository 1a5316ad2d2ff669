package rego

import (
	"fmt"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh/policy"
)

// try compiles a module.
func try(module string) error {
	_, err := New(Config{Namespace: "lab", Name: "menu", Spec: &policy.RegoPolicy{Query: "data.m.allow", Module: module}})
	return err
}

// wrapped nests a text in n pairs.
func wrapped(open, inner, end string, n int) string {
	return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
}

// numbered joins what f gives for 0 to n-1.
func numbered(n int, f func(i int) string) string {
	var out strings.Builder
	for i := range n {
		out.WriteString(f(i))
	}
	return out.String()
}

// linked is rules of which each mentions the next k.
func linked(n, k int) string {
	return "package m\n" + numbered(n, func(i int) string {
		return fmt.Sprintf("r%d if {\n%s}\n", i, numbered(k, func(j int) string { return fmt.Sprintf("r%d\n", min(i+j+1, n)) }))
	}) + fmt.Sprintf("r%d if input.a\nallow if r0\n", n)
}

// body is a policy of one rule.
func body(text string) string { return "package m\nallow if {\n" + text + "\n}\n" }

// TestRefusesWhatWouldNotCompileInTime gives shapes for which OPA's compiler takes seconds to years. One that got through would
// hang this test.
func TestRefusesWhatWouldNotCompileInTime(t *testing.T) {
	const closures, steps, brackets = "nest deeper than 5", "more than 200: split it", "brackets nest deeper than 64"
	const mentions, depend, types = "mention each other too often", "depend on too many others", "types of the rules' values are too large"
	doubled := func(format string) string {
		return numbered(40, func(i int) string { return fmt.Sprintf(format, i+1, i, i) + "\n" })
	}
	for name, c := range map[string]struct{ module, want string }{
		"array comprehensions":         {body("x := " + wrapped("[y | y := ", "input.a", "]", 60)), closures},
		"set comprehensions":           {body("x := " + wrapped("{y | y := ", "input.a", "}", 16)), closures},
		"object comprehensions":        {body("x := " + wrapped("{1: y | y := ", "input.a", "}", 16)), closures},
		"comprehensions in calls":      {body(wrapped("count([1 | ", "input.a", "]) > 0", 16)), closures},
		"comprehensions in heads":      {"package m\nallow := " + wrapped("[y | y := ", "input.a", "]", 16), closures},
		"comprehensions under not":     {body("x := " + wrapped("[1 | not ", "input.a", "]", 16)), closures},
		"comprehensions in references": {body("input.a" + wrapped("[[1 | input.a", "", "]]", 16)), closures},
		"comprehensions in domains":    {body(wrapped("every x in [1 | ", "input.a", "] { x }", 16)), closures},
		"comprehensions in with":       {body(wrapped("input.a with input.x as [1 | ", "input.a", "]", 16)), closures},
		"every":                        {body(numbered(32, func(i int) string { return fmt.Sprintf("every x%d in input.a { ", i) }) + "x0" + strings.Repeat("}", 32)), closures},
		"template strings":             {body("x := " + wrapped(`$"{`, "input.a", `}"`, 16)), closures},
		"comprehensions in an else":    {"package m\nallow if input.a == 1 else := " + wrapped("[y | y := ", "input.a", "]", 16), closures},
		"many comprehensions": {"package m\n" + numbered(300, func(i int) string {
			return fmt.Sprintf("r%d := %s\n", i, wrapped("[y | input.b; y := ", "input.a", "]", 5))
		}) + "allow if r0", "too many rules, expressions or values"},
		"a body in the wrong order": {body(numbered(400, func(i int) string { return fmt.Sprintf("x%d = x%d + 1\n", i, i+1) }) + "x400 = input.a"), steps},
		"many such bodies": {"package m\n" + numbered(20, func(k int) string {
			return fmt.Sprintf("r%d if {\n%sx90 = input.a\n}\n", k, numbered(90, func(i int) string { return fmt.Sprintf("x%d = x%d + 1\n", i, i+1) }))
		}) + "allow if r0", "too many rules, expressions or values"},
		"calls":                             {body(strings.Repeat("1 + ", 300) + "1 == input.a"), steps},
		"with":                              {body("input.a" + strings.Repeat(" with input.a as 1", 250)), steps},
		"variables after some":              {body("some " + numbered(5000, func(i int) string { return fmt.Sprintf("x%d, ", i) }) + "z"), steps},
		"parameters":                        {"package m\nf(" + numbered(5000, func(i int) string { return fmt.Sprintf("x%d, ", i) }) + "z) := z\nallow if f(1)", steps},
		"else branches":                     {"package m\nallow if input.a == 0" + numbered(300, func(i int) string { return fmt.Sprintf(" else := %d if input.a == %d", i, i) }), "more than 200 else branches"},
		"rules in a chain":                  {linked(2000, 2), depend},
		"rules in a dense graph":            {linked(250, 32), depend},
		"rules in a ring":                   {"package m\n" + numbered(1500, func(i int) string { return fmt.Sprintf("r%d if r%d\n", i, (i+1)%1500) }) + "allow if r0", depend},
		"rules below others":                {"package m\n" + numbered(2000, func(i int) string { return fmt.Sprintf("r.a := %d\nr(x) := x\n", i) }) + "allow if input.a", "too many rules are below others"},
		"references to all rules":           {"package m\n" + numbered(1000, func(i int) string { return fmt.Sprintf("r%d if data.m[input.a]\n", i) }), mentions},
		"many definitions in many places":   {"package m\n" + numbered(1000, func(i int) string { return fmt.Sprintf("s := {\"a%d\": 1} if input.a == %d\n", i, i) }) + numbered(1000, func(i int) string { return fmt.Sprintf("r%d := s\n", i) }), mentions},
		"types that double in rules":        {"package m\nr0 := [1]\ns0 := [1]\n" + doubled("r%d := [r%d, r%d]") + doubled("s%d := [s%d, s%d]") + "allow if r40 == s40", types},
		"types that double in a body":       {body("r0 := [1]\ns0 := [1]\n" + doubled("r%d := [r%d, r%d]") + doubled("s%d := [s%d, s%d]") + "r40 == s40"), types},
		"types that double in objects":      {body("r0 := [1]\ns0 := [1]\n" + doubled(`r%d := {"a": r%d, "b": r%d}`) + doubled(`s%d := {"a": s%d, "b": s%d}`) + "r40 == s40"), types},
		"types that double in functions":    {"package m\nr0(x) := [x]\n" + doubled("r%d(x) := [r%d(x), r%d(x)]") + "allow if r40(1) == r40(2)", types},
		"types that nest":                   {body("x := " + wrapped("[", "1", "]", 40) + "\ny := " + wrapped("[", "1", "]", 40) + "\nx == y"), types},
		"arrays":                            {"package m\nx := " + strings.Repeat("[", 500_000), brackets},
		"objects":                           {"package m\nx := " + strings.Repeat("{1:", 100_000), brackets},
		"parentheses":                       {"package m\nx := 1" + strings.Repeat("-(1", 100_000), brackets},
		"brackets in a template string":     {"package m\nx := $\"{[\"x\", " + strings.Repeat("-(1", 100_000), brackets},
		"brackets in a raw template string": {"package m\nx := $`\\{{[`x`, " + strings.Repeat("-(1", 100_000), brackets},
	} {
		t.Run(name, func(t *testing.T) {
			err := try(c.module)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%.200v, want %q", err, c.want)
			}
			if line, column := Place(err); line < 2 || column < 1 {
				t.Errorf("at %d:%d: %v", line, column, err)
			}
			if field, _ := Field(err); field != "module" {
				t.Errorf("field %q", field)
			}
		})
	}
}

// TestTakesLargePolicies compiles what real policies look like at their largest.
func TestTakesLargePolicies(t *testing.T) {
	table := "roles := {\n" + numbered(5000, func(i int) string {
		return fmt.Sprintf("  \"user%d\": {\"name\": \"User %d\", \"groups\": [\"g%d\", \"staff\"], \"level\": %d},\n", i, i, i%50, i%7)
	}) + "}\n"
	for name, module := range map[string]string{
		"500 rules": "package m\n" + numbered(500, func(i int) string {
			return fmt.Sprintf(`allow if {
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "svc%d"
	some role in roles_of[caller]
	role in {"reader%d", "admin"}
	not blocked[caller]
}
`, i, i)
		}) + "caller := input.source_principal\nblocked contains \"x\"\n" + numbered(20, func(i int) string { return fmt.Sprintf("roles_of[\"u%d\"] := [\"admin\"]\n", i) }),
		"5,000 lines of data": "package m\n" + table + "allow if { some g in roles[input.source_principal].groups; g == \"staff\" }",
		"a table that many rules read": "package m\n" + table + numbered(100, func(i int) string {
			return fmt.Sprintf("allow if { roles[input.source_principal].level > %d; input.parsed_path[0] == \"p%d\" }\n", i, i)
		}),
		"500 reasons for a denial": "package m\n" + numbered(500, func(i int) string {
			return fmt.Sprintf("deny contains msg if { input.parsed_path[0] == \"p%d\"; msg := sprintf(\"%%s may not read %d\", [input.source_principal]) }\n", i, i)
		}) + "allow if count(deny) == 0",
		"comprehensions": "package m\n" + numbered(100, func(i int) string {
			return fmt.Sprintf("s%d := {x | some g in input.a; x := [y | some y in g; y > %d]; count([z | z := x[_]]) > 1}\n", i, i)
		}) + "allow if s0",
		"brackets that are not code": "package m\n# " + strings.Repeat("[", 100) + "\nx := \"" + strings.Repeat("(", 100) + "\\\"\"\ny := `" + strings.Repeat("{\n", 100) + "`\nz := $\"((((\\{{ input.a }\"\n" + strings.Repeat("w := $\"[ ( {input.a}\"\n", 70) + "allow if input.a",
	} {
		t.Run(name, func(t *testing.T) {
			if err := try(module); err != nil {
				t.Errorf("%.300v", err)
			}
		})
	}
}

// TestTellsSomeOfManyFaults has far more mistakes than are told.
func TestTellsSomeOfManyFaults(t *testing.T) {
	err := try("package m\n" + strings.Repeat("a b c\n", 20_000))
	if err == nil || strings.Count(err.Error(), ";") != maxFaults || !strings.Contains(err.Error(), " more") {
		t.Fatalf("%.500v", err)
	}
}
