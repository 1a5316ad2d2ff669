package rego

import (
	"errors"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// fault is a mistake in one field of the spec.
type fault struct {
	field string
	cause error
	// first is where in the field's text the first mistake is, nil if there is no such place.
	first *ast.Location
}

func (f *fault) Error() string { return f.field + ": " + f.cause.Error() }
func (f *fault) Unwrap() error { return f.cause }

func faultf(field, format string, args ...any) error {
	return &fault{field: field, cause: fmt.Errorf(format, args...)}
}

// Field splits an error of New into the field of the spec (query, module, modules[2].source, ...) and the cause. The
// field is "" if no single one is to blame.
func Field(err error) (field string, cause error) {
	var f *fault
	if errors.As(err, &f) {
		return f.field, f.cause
	}
	return "", err
}

// maxFaults is how many mistakes of one compilation are told.
const maxFaults = 5

// opaFaults turns errors of OPA into one: NAME:ROW:COLUMN: MESSAGE, at most maxFaults of them.
func opaFaults(sources []source, refused map[string]bool, errs ast.Errors) error {
	var lines []string
	field := ""
	var first *ast.Location
	more := len(errs) - 10*maxFaults // so many are looked at for the same mistake told twice
	for _, e := range errs[:min(len(errs), 10*maxFaults)] {
		line := e.Message
		if name, ok := strings.CutPrefix(line, "undefined function "); ok && refused[name] {
			line = fmt.Sprintf("the built-in function %s is refused unless the operator allows it by name", name)
		}
		if e.Location != nil {
			line = fmt.Sprintf("%s:%d:%d: %s", e.Location.File, e.Location.Row, e.Location.Col, line)
			for _, s := range sources {
				if s.name == e.Location.File && field == "" {
					field, first = s.field, e.Location
				}
			}
		}
		lines = tell(lines, line)
	}
	if n := len(lines) - maxFaults + max(more, 0); n > 0 && len(lines) > maxFaults {
		lines = append(lines[:maxFaults], fmt.Sprintf("and %d more", n))
	}
	return &fault{field: field, cause: errors.New(strings.Join(lines, "; ")), first: first}
}

// tell adds a line. OPA may tell a mistake twice, the same or once with more words: the longer stays.
func tell(lines []string, line string) []string {
	for i, told := range lines {
		if told == line || strings.HasPrefix(told, line+": ") {
			return lines
		}
		if strings.HasPrefix(line, told+": ") {
			lines[i] = line
			return lines
		}
	}
	return append(lines, line)
}

// Place is the line and column (from 1) in the text of Field's field that an error of New is about first; 0 if it names none.
func Place(err error) (line, column int) {
	var f *fault
	if errors.As(err, &f) && f.first != nil {
		return f.first.Row, f.first.Col
	}
	return 0, 0
}
