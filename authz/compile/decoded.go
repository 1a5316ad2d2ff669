package compile

import (
	slashpath "path"
	"slices"
	"strings"
)

// escaped reports whether a pattern of a path holds an escape.
func (p pattern) escaped() bool {
	return strings.Contains(p.text, "%") || strings.Contains(p.tail, "%") ||
		slices.ContainsFunc(p.literals, func(s string) bool { return strings.Contains(s, "%") })
}

// decodedPatterns are patterns of a path as the decoded reading is compared with them: their literals decoded as the path
// was.
func decodedPatterns(patterns []pattern) []pattern {
	out := slices.Clone(patterns)
	for i := range out {
		p := &out[i]
		if !p.escaped() {
			continue
		}
		p.text, p.tail, p.literals = decodeLiteral(p.text), decodeLiteral(p.tail), slices.Clone(p.literals)
		for k, s := range p.literals {
			p.literals[k] = decodeLiteral(s)
		}
		if p.kind == exact {
			p.text = clean(p.text)
		}
	}
	return out
}

// decodeLiteral decodes each escape once and makes '\\' and runs of '/' one '/'. What is no escape stays.
func decodeLiteral(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' && i+2 < len(s) {
			if high, low := unhex(s[i+1]), unhex(s[i+2]); high >= 0 && low >= 0 {
				c = byte(high<<4 | low)
				i += 2
			}
		}
		if c == '\\' {
			c = '/'
		}
		if c != '/' || len(b) == 0 || b[len(b)-1] != '/' {
			b = append(b, c)
		}
	}
	return string(b)
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }

// clean resolves the dot segments of a whole path that an escape hid, and keeps a trailing slash.
func clean(s string) string {
	last := s[strings.LastIndexByte(s, '/')+1:]
	s = slashpath.Clean("/" + s)
	if s != "/" && (last == "" || last == "." || last == "..") {
		s += "/"
	}
	return s
}
