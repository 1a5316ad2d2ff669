package extauthz

import (
	"slices"
	"strings"
)

// pattern is a name of a field: exact, abc* or *abc, in lower case.
type pattern struct {
	text           string
	prefix, suffix bool
}

func patterns(list []string) []pattern {
	out := make([]pattern, 0, len(list))
	for _, s := range list {
		s = strings.ToLower(s)
		p := pattern{text: strings.Trim(s, "*"), suffix: strings.HasPrefix(s, "*"), prefix: strings.HasSuffix(s, "*")}
		if p.text != "" { // a presence match is none: it would name every field
			out = append(out, p)
		}
	}
	return out
}

// matches reports whether one of the patterns names the field of that lower-case name.
func matches(list []pattern, name string) bool {
	return slices.ContainsFunc(list, func(p pattern) bool {
		switch {
		case p.prefix:
			return strings.HasPrefix(name, p.text)
		case p.suffix:
			return strings.HasSuffix(name, p.text)
		}
		return name == p.text
	})
}
