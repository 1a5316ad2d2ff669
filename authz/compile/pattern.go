package compile

import (
	"errors"
	"fmt"
	"strings"
)

// kind is how a pattern matches.
type kind uint8

const (
	exact    kind = iota
	prefix        // x*
	suffix        // *x
	present       // *: present and not empty
	template      // a path with {*} or {**}
)

// pattern is one value of a string field.
type pattern struct {
	kind kind
	// text is the literal of exact, prefix and suffix, and the literal beginning of a template.
	text string
	// literals of a template: what stands before, between and after its {*}, up to the {**} if it has one.
	literals []string
	// deep is true when the template has a {**}, tail what stands after it.
	deep bool
	tail string
}

// parsePattern reads a value with at most one '*', at one of its ends.
func parsePattern(value string) (pattern, error) {
	switch body, lead := strings.CutPrefix(value, "*"); {
	case value == "":
		return pattern{}, errors.New("is empty")
	case value == "*":
		return pattern{kind: present}, nil
	case strings.Count(value, "*") > 1, !lead && strings.Contains(value[:len(value)-1], "*"):
		return pattern{}, fmt.Errorf("%q: '*' may stand at the beginning or at the end only, else it would never match", value)
	case lead:
		return pattern{kind: suffix, text: body}, nil
	case strings.HasSuffix(value, "*"):
		return pattern{kind: prefix, text: value[:len(value)-1]}, nil
	}
	return pattern{kind: exact, text: value}, nil
}

// parsePath reads a value of paths: a pattern, or a template with {*} (one segment that is not empty) and {**} (any
// number of segments, the last operator), each a whole segment.
func parsePath(value string) (pattern, error) {
	if !strings.Contains(value, "{*}") && !strings.Contains(value, "{**}") {
		return parsePattern(value)
	}
	if value[0] != '/' {
		return pattern{}, fmt.Errorf("%q: a path template begins with '/'", value)
	}
	p := pattern{kind: template}
	literal := ""
	for _, segment := range strings.Split(value[1:], "/") {
		literal += "/"
		switch {
		case segment == "{*}" && !p.deep:
			p.literals = append(p.literals, literal)
			literal = ""
		case segment == "{**}" && !p.deep:
			p.literals = append(p.literals, literal)
			p.deep, literal = true, ""
		case segment == "{*}" || segment == "{**}":
			return pattern{}, fmt.Errorf("%q: {**} must be the last operator of a path template", value)
		case strings.ContainsAny(segment, "*{}"):
			return pattern{}, fmt.Errorf("%q: segment %q of a path template must be {*}, {**} or free of '*', '{' and '}'", value, segment)
		default:
			literal += segment
		}
	}
	if p.deep {
		p.tail = literal
	} else {
		p.literals = append(p.literals, literal)
	}
	p.text = p.literals[0]
	return p, nil
}

func (p *pattern) match(s string) bool {
	switch p.kind {
	case exact:
		return s == p.text
	case prefix:
		return strings.HasPrefix(s, p.text)
	case suffix:
		return strings.HasSuffix(s, p.text)
	case present:
		return s != ""
	default:
		return p.matchTemplate(s)
	}
}

// matchFold is match without regard to ASCII case; the pattern's text is in lower case.
func (p *pattern) matchFold(s string) bool {
	switch p.kind {
	case exact:
		return equalFold(s, p.text)
	case prefix:
		return len(s) >= len(p.text) && equalFold(s[:len(p.text)], p.text)
	case suffix:
		return len(s) >= len(p.text) && equalFold(s[len(s)-len(p.text):], p.text)
	default:
		return s != ""
	}
}

func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		if asciiLower(s[i]) != lower[i] {
			return false
		}
	}
	return true
}

func asciiLower(c byte) byte {
	if c-'A' <= 'Z'-'A' {
		return c + 'a' - 'A'
	}
	return c
}

// matchTemplate needs no backtracking: each {*} ends at the next '/', and nothing but a literal follows {**}.
func (p *pattern) matchTemplate(s string) bool {
	for i, literal := range p.literals {
		if i > 0 {
			n := strings.IndexByte(s, '/')
			if n < 0 {
				n = len(s)
			}
			if n == 0 {
				return false
			}
			s = s[n:]
		}
		if !strings.HasPrefix(s, literal) {
			return false
		}
		s = s[len(literal):]
	}
	if p.deep {
		return strings.HasSuffix(s, p.tail)
	}
	return s == ""
}
