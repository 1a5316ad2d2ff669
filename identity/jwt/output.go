package jwt

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// outputs lists the fields that rules may set, in lower case.
func outputs(rules []Rule) []string {
	var out []string
	add := func(name string) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for i := range rules {
		add(rules[i].PayloadHeader)
		for _, c := range rules[i].ClaimHeaders {
			add(c.Header)
		}
	}
	return slices.Clip(out)
}

// fields are what a rule sets for a verified token: the payload as it was sent, and claims that are a string, a number or a
// bool. A claim that is something else, or absent, or that no field may hold, sets nothing.
func (r *Rule) fields(t *Token) []Field {
	var out []Field
	if r.PayloadHeader != "" {
		out = append(out, Field{strings.ToLower(r.PayloadHeader), t.Payload})
	}
	for _, c := range r.ClaimHeaders {
		if v, ok := text(claim(t.Claims, c.Claim)); ok {
			out = append(out, Field{strings.ToLower(c.Header), v})
		}
	}
	return out
}

// claim finds a claim of that name, else one that is nested in objects whose names are joined by '.'.
func claim(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	for {
		part, rest, nested := strings.Cut(name, ".")
		v, ok := claims[part]
		if !ok || !nested {
			return v
		}
		if claims, ok = v.(map[string]any); !ok {
			return nil
		}
		name = rest
	}
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, fieldValue(v)
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// fieldValue says that a field may hold a string as it is (RFC 9110 section 5.5): no controls, which could begin another field,
// and no blanks at the ends, which readers drop.
func fieldValue(v string) bool {
	for i := range len(v) {
		if b := v[i]; b < 0x20 && b != '\t' || b == 0x7f {
			return false
		}
	}
	return v == strings.Trim(v, " \t")
}
