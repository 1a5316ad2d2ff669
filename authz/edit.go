package authz

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of one HeaderEdit, in bytes.
const (
	MaxHeaderName  = 256
	MaxHeaderValue = 8 << 10
)

// untouchable are fields that no authority may set or remove: they frame the message, name its hop or prove the caller.
var untouchable = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
	"transfer-encoding", "upgrade", "host", "content-length", "expect", "x-forwarded-client-cert",
}

// Editable reports whether an authority may change the field of that lower-case name. Pseudo headers are never its.
func Editable(name string) bool {
	return name != "" && name[0] != ':' && !slices.Contains(untouchable, name)
}

// NewHeaderEdit checks one change that an authority wants. A name is a token (RFC 9110 section 5.1), a value holds no
// control character but tab. The edit's name is lower case.
func NewHeaderEdit(op HeaderOp, name, value string) (HeaderEdit, error) {
	lower := strings.ToLower(name)
	switch {
	case !IsToken(name) || len(name) > MaxHeaderName:
		return HeaderEdit{}, fmt.Errorf("%.64q is not the name of a header", name)
	case !Editable(lower):
		return HeaderEdit{}, fmt.Errorf("%q may not be changed by a policy or an authorizer", name)
	case len(value) > MaxHeaderValue:
		return HeaderEdit{}, fmt.Errorf("the value of %q has %d bytes, more than %d", name, len(value), MaxHeaderValue)
	case strings.ContainsFunc(value, IsControl):
		return HeaderEdit{}, fmt.Errorf("the value of %q has a control character", name)
	}
	return HeaderEdit{Op: op, Name: lower, Value: strings.Trim(value, " \t")}, nil
}

// IsToken reports whether s is a token of RFC 9110 section 5.6.2.
func IsToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return false
		}
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	})
}

// IsControl reports what no value of a field may hold: control characters but tab.
func IsControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
