package mesh

import (
	"fmt"
	"net/netip"
	"strings"
)

// checkLabel judges an RFC 1123 label: lower-case letters, digits and hyphens, at most 63.
func checkLabel(s string) error {
	if s == "" || len(s) > maxLabelLength {
		return fmt.Errorf("%q must have 1 to %d characters", clip(s), maxLabelLength)
	}
	for i, c := range []byte(s) {
		edge := i == 0 || i == len(s)-1
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || edge) {
			return fmt.Errorf("%q must be lower-case letters, digits and inner hyphens", clip(s))
		}
	}
	return nil
}

// checkSubdomain judges an RFC 1123 subdomain: labels with dots between, at most 253.
func checkSubdomain(s string) error {
	if s == "" || len(s) > maxNameLength {
		return fmt.Errorf("%q must have 1 to %d characters", clip(s), maxNameLength)
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := checkLabel(label); err != nil {
			return fmt.Errorf("%q must be lower-case letters, digits and inner hyphens, with dots between", clip(s))
		}
	}
	return nil
}

// checkHost judges a host name of an object. Case does not matter; a wildcard is *.x, and * alone where any is allowed.
func checkHost(s string, any bool) error {
	if s == "*" {
		if any {
			return nil
		}
		return fmt.Errorf("%q alone is not a host here", s)
	}
	rest := strings.TrimPrefix(s, "*.")
	if strings.Contains(rest, "*") {
		return fmt.Errorf("%q: a wildcard is only *. at the beginning", clip(s))
	}
	if _, err := netip.ParseAddr(rest); err == nil && rest != s {
		return fmt.Errorf("%q: a wildcard of an address", clip(s))
	}
	return checkSubdomain(strings.ToLower(rest))
}

// checkToken judges an RFC 9110 field name.
func checkToken(s string) error {
	if s == "" || len(s) > 256 {
		return fmt.Errorf("%q is no header name", clip(s))
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return fmt.Errorf("%q is no header name", clip(s))
		}
	}
	return nil
}

// hostCovers reports whether pattern (a host, *.x or *) covers host, which may be a pattern itself. Both lower case.
func hostCovers(pattern, host string) bool {
	if pattern == "*" || pattern == host {
		return true
	}
	suffix, ok := strings.CutPrefix(pattern, "*")
	return ok && host != "*" && strings.HasSuffix(host, suffix) && len(host) > len(suffix)
}

// hostsMeet reports whether two patterns have a host in common.
func hostsMeet(a, b string) bool { return hostCovers(a, b) || hostCovers(b, a) }
