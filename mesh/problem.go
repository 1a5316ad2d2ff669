package mesh

import (
	"fmt"
	"strconv"
	"strings"
)

// String is FILE:LINE:COLUMN, without what is unknown; "" for the zero Position.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	s := strconv.Itoa(p.Line)
	if p.Column > 0 {
		s += ":" + strconv.Itoa(p.Column)
	}
	if p.File == "" {
		return s
	}
	return p.File + ":" + s
}

// String is KIND NAMESPACE/NAME, "" for the zero Key.
func (k Key) String() string {
	switch {
	case k.Kind == "":
		return ""
	case k.Name == "":
		return k.Kind
	case k.Namespace == "":
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Error prints the problem as FILE:LINE:COLUMN: KIND NAMESPACE/NAME: FIELD: message, without what is unknown.
func (p *Problem) Error() string {
	parts := make([]string, 0, 4)
	for _, s := range []string{p.Position.String(), p.Key.String(), p.Field, p.Message} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Fault is a refusal of an object by somebody who tried to run it, with the position of the field or of what is nearest
// above it.
func Fault(o *Object, field, message string) Problem {
	return Problem{Position: o.where(field), Key: o.Key, Field: field, Message: message, partial: o}
}

// FaultInText is a Fault inside a field that holds a text of its own, such as a module of Rego: line counts from 1. The
// position is the line in the file where the text stands as a block (|), else that of the field.
func FaultInText(o *Object, field string, line, column int, message string) Problem {
	p := Fault(o, field, message)
	if at, ok := o.at[field+insideText]; ok && line > 0 {
		p.Position = Position{File: at.File, Line: at.Line + line - 1}
	} else {
		p.Message = fmt.Sprintf("line %d, column %d: %s", line, column, message)
	}
	return p
}

// String is "refused" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "refused"
}

// WholeFile reports whether the problem is about a file as such (broken YAML, a limit, a document that is no object):
// nothing that the file holds could be judged.
func (p *Problem) WholeFile() bool { return p.Severity == Refused && p.Key == (Key{}) }

// Refusals are those of problems that refuse an object or a file.
func Refusals(problems []Problem) []Problem {
	var out []Problem
	for _, p := range problems {
		if p.Severity == Refused {
			out = append(out, p)
		}
	}
	return out
}
