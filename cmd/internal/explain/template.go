package explain

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// anyValue is one segment of a path template of AuthorizationPolicy.
const anyValue = "{*}"

// guessTemplate replaces segments that look like values (numbers, hexadecimal names, anything with three digits) by {*}.
func guessTemplate(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if looksLikeValue(s) {
			segments[i] = anyValue
		}
	}
	return strings.Join(segments, "/")
}

func looksLikeValue(s string) bool {
	digits, hex := 0, len(s) >= 8
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F', c == '-':
		default:
			hex = false
		}
	}
	return s != "" && (digits == len(s) || hex && digits > 0 || digits >= 3 && len(s) > 3)
}

// pathSet is paths that were seen, as a tree of segments.
type pathSet struct {
	children map[string]*pathSet
	end      bool
}

func (p *pathSet) add(segments []string) {
	if len(segments) == 0 {
		p.end = true
		return
	}
	if p.children == nil {
		p.children = map[string]*pathSet{}
	}
	c := p.children[segments[0]]
	if c == nil {
		c = &pathSet{}
		p.children[segments[0]] = c
	}
	c.add(segments[1:])
}

func (p *pathSet) merge(o *pathSet) {
	p.end = p.end || o.end
	for name, c := range o.children {
		if p.children == nil {
			p.children = map[string]*pathSet{}
		}
		if have := p.children[name]; have != nil {
			have.merge(c)
		} else {
			p.children[name] = c
		}
	}
}

// fold makes one {*} of the values of a position: of those that look like values where there are at least two, and of all
// where there are more than most. An empty segment is never one: {*} does not match it.
func (p *pathSet) fold(most int) {
	var values, all []string
	for name := range p.children {
		if name == "" {
			continue
		}
		all = append(all, name)
		if looksLikeValue(name) || name == anyValue || !literal(name) {
			values = append(values, name)
		}
	}
	switch {
	case len(all) > most:
		p.replace(all)
	case len(values) > 1 || slices.ContainsFunc(values, func(s string) bool { return !literal(s) }):
		p.replace(values)
	}
	for _, c := range p.children {
		c.fold(most)
	}
}

func (p *pathSet) replace(names []string) {
	slices.Sort(names)
	into := &pathSet{}
	for _, n := range names {
		into.merge(p.children[n])
		delete(p.children, n)
	}
	p.children[anyValue] = into
}

// literal reports whether a segment can be written into a policy's paths and means itself there.
func literal(segment string) bool {
	return !strings.ContainsAny(segment, "*{}") && utf8.ValidString(segment) && Printable(segment) == segment
}

// list are the templates, sorted.
func (p *pathSet) list() []string {
	var out []string
	p.walk("", &out)
	slices.Sort(out)
	return out
}

func (p *pathSet) walk(before string, out *[]string) {
	if p.end {
		*out = append(*out, before)
	}
	for name, c := range p.children {
		c.walk(before+"/"+name, out)
	}
}
