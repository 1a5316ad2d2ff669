package http1

import "net/netip"

// isAuthority checks host [":" port] (RFC 3986 section 3.2) without userinfo. The host is a name of letters, digits, '-',
// '.' and '_' (an IPv4 address is one) or an IPv6 address in brackets without a zone; the port is 1 to 65535 without leading
// zeros, so that one authority has one spelling but for case.
func isAuthority(s string) (ok, port bool) {
	if s == "" || len(s) > maxAuthority {
		return false, false
	}
	i := 0
	if s[0] == '[' {
		for i < len(s) && s[i] != ']' {
			i++
		}
		if i == len(s) {
			return false, false
		}
		if addr, err := netip.ParseAddr(s[1:i]); err != nil || !addr.Is6() || addr.Zone() != "" {
			return false, false
		}
		i++
	} else {
		for i < len(s) && isHostByte(s[i]) {
			i++
		}
		if i == 0 {
			return false, false
		}
	}
	if i == len(s) {
		return true, false
	}
	return s[i] == ':' && isPort(s[i+1:]), true
}

// isHostByte takes letters, digits, '-', '.' and '_': the bits of two words, one for the upper and one for the lower half of ASCII.
func isHostByte(c byte) bool {
	const (
		letters = 1<<26 - 1
		low     = 1<<'-' | 1<<'.' | (1<<10-1)<<'0'
		high    = letters<<('A'-64) | letters<<('a'-64) | 1<<('_'-64)
	)
	if c < 64 {
		return uint64(low)>>c&1 != 0
	}
	return c < 128 && uint64(high)>>(c-64)&1 != 0
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return false
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}
