package extauthz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/authz"
)

// untouchable are fields that no authorizer may set or remove: they frame the message, name its hop or prove the caller.
var untouchable = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
	"transfer-encoding", "upgrade", "host", "content-length", "expect", "x-forwarded-client-cert",
}

// edit checks one change of a field. A name is a token (RFC 9110 section 5.1), a value holds no control character but tab.
func edit(op authz.HeaderOp, name, value string) (authz.HeaderEdit, error) {
	lower := strings.ToLower(name)
	switch {
	case !token(name) || len(name) > MaxHeaderName:
		return authz.HeaderEdit{}, fmt.Errorf("%.64q is not the name of a header", name)
	case slices.Contains(untouchable, lower):
		return authz.HeaderEdit{}, fmt.Errorf("%q may not be changed by an authorizer", name)
	case len(value) > MaxHeaderValue:
		return authz.HeaderEdit{}, fmt.Errorf("the value of %q has %d bytes, more than %d", name, len(value), MaxHeaderValue)
	case strings.ContainsFunc(value, control):
		return authz.HeaderEdit{}, fmt.Errorf("the value of %q has a control character", name)
	}
	return authz.HeaderEdit{Op: op, Name: lower, Value: strings.Trim(value, " \t")}, nil
}

func token(s string) bool { return s != "" && !strings.ContainsFunc(s, notToken) }

func notToken(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}

func control(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

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
