package compile

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/signet-mesh/signet/identity/jwt"
)

// maxClaimPath is the deepest claim that a key may name.
const maxClaimPath = 16

// claimKey reads what stands after request.auth.claims: [NAME], or for a nested claim [NAME][NAME].
func claimKey(key, names string) ([]string, error) {
	var out []string
	for rest := names; rest != ""; {
		name, after, closed := strings.Cut(rest, "]")
		name, opened := strings.CutPrefix(name, "[")
		if !closed || !opened || name == "" || strings.Contains(name, "[") {
			return nil, fmt.Errorf("%q: a claim is written request.auth.claims[NAME], a nested one request.auth.claims[NAME][NAME]", key)
		}
		out, rest = append(out, name), after
	}
	switch {
	case len(out) == 0:
		return nil, errors.New("request.auth.claims names no claim")
	case len(out) > maxClaimPath:
		return nil, fmt.Errorf("%q: is nested deeper than %d", key, maxClaimPath)
	}
	return out, nil
}

// matchToken reports whether the clause's attribute of the verified token has one of these values. A list has those of its
// elements. It is never so without a token.
func (c *clause) matchToken(v *values, f *facts, either bool) bool {
	t := f.token
	if t == nil {
		return false
	}
	switch c.attr {
	case requestPrincipal:
		var buffer [maxPrincipal]byte
		s := joinPrincipal(buffer[:0], t)
		return len(s) > 0 && v.text(unsafe.String(&s[0], len(s)))
	case audiences:
		return slices.ContainsFunc(t.Audiences, v.present)
	case presenter:
		return v.present(t.Presenter)
	}
	found := claimOf(t.Claims, c.claim)
	if words, ok := found.(string); ok && spaceDelimited(c.claim) {
		for word := range strings.FieldsSeq(words) {
			if v.text(word) {
				return true
			}
		}
		return false
	}
	if list, ok := found.([]any); ok {
		return slices.ContainsFunc(list, func(x any) bool { return v.claim(x, either) })
	}
	return v.claim(found, either)
}

// present is text of a string that may be absent.
func (v *values) present(s string) bool { return s != "" && v.text(s) }

// claim compares one claim, or one element of a list. Policies are written for strings. A number or a boolean is compared
// by its JSON text, and an object or a list of lists with '*', only where any reading counts.
func (v *values) claim(x any, either bool) bool {
	switch x := x.(type) {
	case string:
		return v.present(x)
	case json.Number:
		return either && v.present(string(x))
	case bool:
		return either && v.text(strconv.FormatBool(x))
	case nil:
		return false
	}
	return either && v.presence()
}

// claimOf walks down the objects of a payload; nil if there is no such claim.
func claimOf(claims map[string]any, path []string) any {
	for i, name := range path {
		x := claims[name]
		if i == len(path)-1 {
			return x
		}
		claims, _ = x.(map[string]any)
	}
	return nil
}

// spaceDelimited reports whether a string claim is a list of words: scope (RFC 8693, section 4.2) and permission, as always
// in Istio.
func spaceDelimited(path []string) bool {
	return len(path) == 1 && (path[0] == "scope" || path[0] == "permission")
}

// maxPrincipal is the longest request principal that is joined without allocating.
const maxPrincipal = 512

// joinPrincipal appends ISSUER/SUBJECT, nothing if either is absent.
func joinPrincipal(to []byte, t *jwt.Token) []byte {
	if t == nil || t.Issuer == "" || t.Subject == "" {
		return to
	}
	to = append(to, t.Issuer...)
	to = append(to, '/')
	return append(to, t.Subject...)
}
