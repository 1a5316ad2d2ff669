package decisionlog

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// secretHeader is for fields whose values let their reader in: wherever input or result hold headers, these are erased, with
// or without a mask rule. OPA sends them.
func secretHeader(name string) bool {
	return slices.ContainsFunc([]string{"authorization", "proxy-authorization", "cookie", "set-cookie"}, func(s string) bool {
		return strings.EqualFold(s, name)
	})
}

// tokenParameter is the query parameter that carries a bearer token (RFC 6750, section 2.3).
const tokenParameter = "access_token"

// eraser notes what it took out of a document.
type eraser struct {
	secret         string
	erased, masked []string
}

// eraseSecrets changes input, result and error: what is secret by its name goes, and whatever holds the secret, or something
// that looks like a token, is masked, since a token may come in any header or parameter.
func (w *wire) eraseSecrets(secret string) {
	e := eraser{secret: secret}
	if w.Error != nil {
		w.Error.Message = e.text("/error/message", w.Error.Message, false)
	}
	if w.Input != nil {
		*w.Input = e.walk("/input", *w.Input, false, false)
	}
	if w.Result != nil {
		*w.Result = e.walk("/result", *w.Result, false, false)
	}
	slices.Sort(e.erased) // maps have no order, and readers compare
	slices.Sort(e.masked)
	w.Erased, w.Masked = e.erased, e.masked
}

// walk answers x without secrets. headers says that it is inside something that is named for headers (headers,
// response_headers_to_add and the like), query that it is inside parsed_query.
func (e *eraser) walk(at string, x any, headers, query bool) any {
	switch v := x.(type) {
	case map[string]any:
		for name, child := range v {
			path := at + "/" + url.PathEscape(name)
			if hide(name, e.secret, true) != name {
				delete(v, name)
				e.erased = append(e.erased, at+"/"+hidden)
				continue
			}
			if headers && secretHeader(name) || query && name == tokenParameter {
				delete(v, name)
				e.erased = append(e.erased, path)
				continue
			}
			v[name] = e.walk(path, child, headers || strings.Contains(strings.ToLower(name), "headers"), query || name == "parsed_query")
		}
	case []any:
		for i, child := range v {
			v[i] = e.walk(at+"/"+strconv.Itoa(i), child, headers, query)
		}
	case string:
		return e.text(at, v, (headers || query) && !strings.HasSuffix(at, "/:path"))
	}
	return x
}

// text answers a string without secrets; whole says that nothing of one that holds any is to stay.
func (e *eraser) text(at, s string, whole bool) string {
	clean := hide(withoutToken(s), e.secret, whole)
	if clean != s {
		e.masked = append(e.masked, at)
	}
	return clean
}

// withoutToken empties the parameter access_token in whatever looks like a query, also one whose name is escaped.
func withoutToken(s string) string {
	var out strings.Builder
	copied := 0
	for at := 0; at < len(s); {
		end := len(s)
		if i := strings.IndexAny(s[at:], "?&"); i >= 0 {
			end = at + i
		}
		name, _, found := strings.Cut(s[at:end], "=")
		if found && isToken(name) {
			value := at + len(name) + 1
			out.WriteString(s[copied:value])
			copied = end
			if i := strings.IndexAny(s[value:end], "# "); i >= 0 {
				copied = value + i
			}
		}
		at = end + 1
	}
	if copied == 0 {
		return s
	}
	out.WriteString(s[copied:])
	return out.String()
}

func isToken(name string) bool {
	if strings.Contains(name, "%") {
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
	}
	return name == tokenParameter
}
