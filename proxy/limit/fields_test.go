package limit

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// readList reads a list of strings with integer parameters as RFC 9651 section 4.2.1 parses it, strictly.
func readList(s string) (names []string, params []map[string]int64, err error) {
	for {
		name, rest, err := readString(s)
		if err != nil {
			return nil, nil, err
		}
		at := map[string]int64{}
		for strings.HasPrefix(rest, ";") {
			var key string
			var value int64
			if key, value, rest, err = readParam(strings.TrimLeft(rest[1:], " ")); err != nil {
				return nil, nil, err
			}
			at[key] = value
		}
		names, params = append(names, name), append(params, at)
		if rest == "" {
			return names, params, nil
		}
		var more bool
		if s, more = strings.CutPrefix(strings.TrimLeft(rest, " \t"), ","); !more || s == "" {
			return nil, nil, fmt.Errorf("%q follows an item", rest)
		}
		s = strings.TrimLeft(s, " \t")
	}
}

func readString(s string) (text, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", fmt.Errorf("%q is not a string", s)
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return text, s[i+1:], nil
		case c == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", "", errors.New("an escape of nothing")
			}
			text += string(s[i])
		case c < ' ' || c > '~':
			return "", "", fmt.Errorf("%q in a string", c)
		default:
			text += string(c)
		}
	}
	return "", "", errors.New("a string without an end")
}

func readParam(s string) (key string, value int64, rest string, err error) {
	end := strings.IndexFunc(s, func(c rune) bool { return c == ';' || c == ',' || c == ' ' })
	if end < 0 {
		end = len(s)
	}
	key, number, ok := strings.Cut(s[:end], "=")
	if !ok || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz") != "" || len(number) > 15 {
		return "", 0, "", fmt.Errorf("%q is not an integer parameter", s[:end])
	}
	value, err = strconv.ParseInt(number, 10, 64)
	return key, value, s[end:], err
}

func TestFields(t *testing.T) {
	for _, c := range []struct {
		limit string
		take  int
		want  []Field
	}{
		{`"requests":20,"unit":"Second"`, 1, []Field{{"ratelimit-policy", `"oven";q=20;w=1`}, {"ratelimit", `"oven";r=19;t=1`}}},
		{`"requests":20,"unit":"Second"`, 21, []Field{{"retry-after", "1"}, {"ratelimit-policy", `"oven";q=20;w=1`}, {"ratelimit", `"oven";r=0;t=1`}}},
		{`"requests":3,"unit":"Hour","burst":1`, 2, []Field{{"retry-after", "1200"}, {"ratelimit-policy", `"oven";q=3;w=3600`}, {"ratelimit", `"oven";r=0;t=1200`}}},
		{`"requests":7,"unit":"Minute"`, 8, []Field{{"retry-after", "9"}, {"ratelimit-policy", `"oven";q=7;w=60`}, {"ratelimit", `"oven";r=0;t=60`}}},
		{`"requests":5,"unit":"Day"`, 1, []Field{{"ratelimit-policy", `"oven";q=5;w=86400`}, {"ratelimit", `"oven";r=4;t=43200`}}},
		{`"requests":1,"unit":"Month"`, 2, []Field{{"retry-after", "2635200"}, {"ratelimit-policy", `"oven";q=1`}, {"ratelimit", `"oven";r=0;t=2635200`}}},
		{`"requests":0,"unit":"Second"`, 1, []Field{{"retry-after", "1"}, {"ratelimit-policy", `"oven";q=0;w=1`}, {"ratelimit", `"oven";r=0;t=1`}}},
	} {
		s := compiled(t, NewRegistry(newHand().now), local(``, c.limit))
		var v Verdict
		for range c.take {
			v = s.Take(t.Context(), caller(t, ""), get("/"))
		}
		if got := v.AppendFields(nil); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, want %q", c.limit, got, c.want)
		}
	}
}

// TestFieldsAreStructured reads the fields back, whatever the policy is called.
func TestFieldsAreStructured(t *testing.T) {
	for name, want := range map[string]string{"oven": "oven", `a"b\c`: `a"b\c`, "ofen-\u00e4\n\x7f": "ofen-???", "": "", "\xff": "?"} {
		for _, b := range []Bucket{{Requests: 4294967295, Period: time.Second}, {Requests: 1, Calendar: policy.Limit_Month}} {
			parts := newFieldParts(name, &b)
			v := Verdict{Tightest: &Rule{Ref: authz.NewRef("RateLimitPolicy", "lab", name, 0), Bucket: b, fields: &parts},
				Grant: Grant{Remaining: 4294967295, Reset: 31 * 24 * time.Hour}}
			fields := v.AppendFields([]Field{{"x", "y"}})[1:]
			for i, key := range []string{"q", "r"} {
				names, params, err := readList(fields[i].Value)
				if err != nil || len(names) != 1 || names[0] != want || params[0][key] == 0 {
					t.Errorf("%q: %q: %q %v %v", name, fields[i].Value, names, params, err)
				}
			}
		}
	}
}
