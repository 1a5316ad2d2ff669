package rego

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

func numberOf(i int) value {
	if i < len(digits) {
		return value{kind: number, s: digits[i : i+1]}
	}
	return value{kind: number, s: strconv.Itoa(i)}
}

const digits = "0123456789"

// builtin is a built-in function that native code knows. Further arguments repeat the last. Arguments of a type that
// OPA would call an error make the frame unsure; total says that there are none.
type builtin struct {
	arity int
	fn    func(f *frame, a, b, c value) value
	total bool
}

func builtins() map[string]builtin {
	return map[string]builtin{
		ast.Equal.Name:         {2, func(f *frame, a, b, _ value) value { return truth(equal(f, a, b)) }, true},
		ast.NotEqual.Name:      {2, func(f *frame, a, b, _ value) value { return truth(!equal(f, a, b)) }, true},
		ast.LessThan.Name:      ordered(func(c int) bool { return c < 0 }),
		ast.LessThanEq.Name:    ordered(func(c int) bool { return c <= 0 }),
		ast.GreaterThan.Name:   ordered(func(c int) bool { return c > 0 }),
		ast.GreaterThanEq.Name: ordered(func(c int) bool { return c >= 0 }),
		ast.StartsWith.Name:    strings2(func(a, b string) value { return truth(strings.HasPrefix(a, b)) }),
		ast.EndsWith.Name:      strings2(func(a, b string) value { return truth(strings.HasSuffix(a, b)) }),
		ast.Contains.Name:      strings2(func(a, b string) value { return truth(strings.Contains(a, b)) }),
		ast.TrimPrefix.Name:    strings2(func(a, b string) value { return exactly(strings.TrimPrefix(a, b)) }),
		ast.TrimSuffix.Name:    strings2(func(a, b string) value { return exactly(strings.TrimSuffix(a, b)) }),
		ast.Lower.Name:         strings1(strings.ToLower),
		ast.Upper.Name:         strings1(strings.ToUpper),
		ast.Member.Name:        {2, func(f *frame, a, b, _ value) value { return member(f, a, b) }, true},
		ast.Count.Name:         {1, count, false},
		ast.ArraySlice.Name:    {3, slice, false},
	}
}

// exactly is a string that is there even if it is empty.
func exactly(s string) value { return value{kind: text, s: s} }

func strings1(fn func(string) string) builtin {
	return builtin{1, func(f *frame, a, _, _ value) value {
		if a.kind != text {
			return f.unsure()
		}
		return exactly(fn(a.s))
	}, false}
}

func strings2(fn func(a, b string) value) builtin {
	return builtin{2, func(f *frame, a, b, _ value) value {
		if a.kind != text || b.kind != text {
			return f.unsure()
		}
		return fn(a.s, b.s)
	}, false}
}

// ordered compares two strings or two numbers.
func ordered(ok func(int) bool) builtin {
	return builtin{2, func(f *frame, a, b, _ value) value {
		switch {
		case a.kind == text && b.kind == text:
			return truth(ok(strings.Compare(a.s, b.s)))
		case a.kind == number && b.kind == number:
			return truth(ok(ast.Compare(ast.Number(a.s), ast.Number(b.s))))
		}
		return f.unsure()
	}, false}
}

// count is of an array.
func count(f *frame, a, _, _ value) value {
	n := f.length(a)
	if n < 0 {
		return f.unsure()
	}
	return numberOf(n)
}

// slice is array.slice of parsed_path, whose bounds are clamped.
func slice(f *frame, a, from, to value) value {
	i, err := strconv.Atoi(from.s)
	j, err2 := strconv.Atoi(to.s)
	if a.kind != path || from.kind != number || to.kind != number || err != nil || err2 != nil {
		return f.unsure()
	}
	j = min(max(j, 0), int(a.hi-a.lo))
	i = min(max(i, 0), j)
	return value{kind: path, lo: a.lo + int32(i), hi: a.lo + int32(j)}
}
