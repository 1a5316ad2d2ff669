package rego

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signet-mesh/signet/authz"
)

// untouchable are fields that no policy may set or remove: they frame the message, name its hop or prove the caller.
var untouchable = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
	"transfer-encoding", "upgrade", "host", "content-length", "expect", "x-forwarded-client-cert",
}

// edit checks one change of a field. A name is a token (RFC 9110 section 5.1), a value holds no CR, LF or NUL.
func edit(op authz.HeaderOp, name, value string) (authz.HeaderEdit, error) {
	lower := strings.ToLower(name)
	switch {
	case name == "" || len(name) > MaxHeaderName || strings.ContainsFunc(name, notToken):
		return authz.HeaderEdit{}, fmt.Errorf("%.64q is not the name of a header", name)
	case slices.Contains(untouchable, lower):
		return authz.HeaderEdit{}, fmt.Errorf("%q may not be changed by a policy", name)
	case len(value) > MaxHeaderValue:
		return authz.HeaderEdit{}, fmt.Errorf("the value of %q has %d bytes, more than %d", name, len(value), MaxHeaderValue)
	case strings.ContainsFunc(value, control):
		return authz.HeaderEdit{}, fmt.Errorf("the value of %q has a control character", name)
	}
	return authz.HeaderEdit{Op: op, Name: lower, Value: strings.Trim(value, " \t")}, nil
}

func notToken(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	}
	return !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}

func control(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
