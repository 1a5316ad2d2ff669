package jwt

import (
	"net/url"
	"slices"
	"strings"
)

// place is a kind of location.
type place uint8

const (
	inHeader place = iota
	inQuery
	inCookie
)

// spot is one place where tokens are looked for.
type spot struct {
	place  place
	name   string // lower case for fields
	prefix string
}

// location is a spot with the rules that look there, and what becomes of a request whose token was found there.
type location struct {
	spot
	rules []ruleAt
	// removed is what Found says when the token is not forwarded: the fields that are always cleared, and this place.
	removed Found
}

// The default locations (RFC 6750 sections 2.1 and 2.3, as Istio).
func defaults() []spot {
	return []spot{{inHeader, "authorization", "Bearer "}, {place: inQuery, name: "access_token"}}
}

func (r *Rule) spots() []spot {
	var out []spot
	for _, h := range r.Headers {
		out = append(out, spot{inHeader, strings.ToLower(h.Name), h.Prefix})
	}
	for _, p := range r.Params {
		out = append(out, spot{place: inQuery, name: p})
	}
	for _, c := range r.Cookies {
		out = append(out, spot{place: inCookie, name: c})
	}
	if len(out) == 0 {
		return defaults()
	}
	return out
}

// locations gathers the spots of all rules, in the order of the rules. always are the fields that are cleared in any case.
func locations(rules []Rule, always []string) []location {
	var out []location
	for i := range rules {
		for _, s := range rules[i].spots() {
			at := slices.IndexFunc(out, func(l location) bool { return l.spot == s })
			if at < 0 {
				at = len(out)
				out = append(out, location{spot: s, removed: s.removal(always)})
			}
			out[at].rules = append(out[at].rules, ruleAt{&rules[i], i})
		}
	}
	return out
}

func (s spot) removal(always []string) Found {
	out := Found{Clear: always}
	switch {
	case s.place == inQuery:
		out.RemoveParams = []string{s.name}
	case s.place == inCookie:
		out.RemoveCookie = []string{s.name}
	case !slices.Contains(always, s.name):
		out.Remove = []string{s.name}
	}
	return out
}

// find gives the token at a spot, "" if there is none; an empty value is none. single is false if the place has a second,
// different value beside the token: the program behind may read that one.
func (s *spot) find(f Fields, query string) (token string, single bool) {
	switch s.place {
	case inHeader:
		return s.inFields(f)
	case inQuery:
		return s.inQuery(query)
	}
	return s.inCookies(f)
}

func (s *spot) inFields(f Fields) (string, bool) {
	var first, token string
	several := false
	v, next, ok := f.HeaderValue(s.name, 0)
	for n := 0; ok; n++ {
		if n == 0 {
			first = v
		}
		several = several || v != first
		if t := s.strip(v); token == "" {
			token = t
		}
		v, next, ok = f.HeaderValue(s.name, next)
	}
	return token, token == "" || !several
}

// strip takes the prefix off a field's value. A value without it is no token. The prefix is exact, but for authorization, where
// it is the name of a scheme, in which case does not count (RFC 9110 section 11.1).
func (s *spot) strip(v string) string {
	n := len(s.prefix)
	if len(v) < n || v[:n] != s.prefix && !(s.name == "authorization" && strings.EqualFold(v[:n], s.prefix)) {
		return ""
	}
	return strings.Trim(v[n:], " \t")
}

func (s *spot) inQuery(query string) (token string, single bool) {
	query = strings.TrimPrefix(query, "?")
	seen, single := false, true
	for len(query) > 0 {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, v, _ := strings.Cut(pair, "=")
		if plain(name) != s.name {
			continue
		}
		v = plain(v)
		if seen && v != token {
			single = false
		}
		if !seen || token == "" {
			token = v
		}
		seen = true
	}
	return token, token == "" || single
}

// plain decodes a part of a query as programs do; what can't be decoded stays as it is.
func plain(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if out, err := url.QueryUnescape(s); err == nil {
		return out
	}
	return s
}

// inCookies reads the cookie fields (RFC 6265 section 5.4), of which HTTP/2 may have several.
func (s *spot) inCookies(f Fields) (token string, single bool) {
	seen, single := false, true
	line, next, ok := f.HeaderValue("cookie", 0)
	for ok {
		for len(line) > 0 {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			name, v, _ := strings.Cut(pair, "=")
			if strings.Trim(name, " \t") != s.name {
				continue
			}
			v = unquote(strings.Trim(v, " \t"))
			if seen && v != token {
				single = false
			}
			if !seen || token == "" {
				token = v
			}
			seen = true
		}
		line, next, ok = f.HeaderValue("cookie", next)
	}
	return token, token == "" || single
}

func unquote(v string) string {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		return v[1 : len(v)-1]
	}
	return v
}
