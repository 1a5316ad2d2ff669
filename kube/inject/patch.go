package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Operation is one step of a JSON Patch (RFC 6902).
type Operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Diff is the JSON Patch that makes after of before, two values that encode as JSON objects. Lists whose entries have names are
// compared by name, so that an inserted container leaves the others untouched, with what this version does not know in them.
func Diff(before, after any) ([]Operation, error) {
	b, err := generic(before)
	if err != nil {
		return nil, err
	}
	a, err := generic(after)
	if err != nil {
		return nil, err
	}
	return diff("", b, a, nil), nil
}

// generic is a value as JSON has it.
func generic(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("comparing pods: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var out any
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("comparing pods: %w", err)
	}
	return out, nil
}

func diff(path string, before, after any, ops []Operation) []Operation {
	if reflect.DeepEqual(before, after) {
		return ops
	}
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok {
			return diffMap(path, b, a, ops)
		}
	case []any:
		if a, ok := after.([]any); ok && grown(b, a) {
			return diffList(path, b, a, ops)
		}
	}
	return append(ops, Operation{"replace", path, after})
}

func diffMap(path string, before, after map[string]any, ops []Operation) []Operation {
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, stays := after[k]; !stays {
			ops = append(ops, Operation{Op: "remove", Path: path + "/" + token(k)})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if old, there := before[k]; there {
			ops = diff(path+"/"+token(k), old, after[k], ops)
		} else {
			ops = append(ops, Operation{"add", path + "/" + token(k), after[k]})
		}
	}
	return ops
}

// grown reports whether every entry of before is in after, by name and in the same order.
func grown(before, after []any) bool {
	i := 0
	for _, a := range after {
		if name(a) == "" {
			return false
		}
		if i < len(before) && name(before[i]) == name(a) {
			i++
		}
	}
	return i == len(before)
}

func diffList(path string, before, after []any, ops []Operation) []Operation {
	i := 0
	for n, a := range after {
		at := path + "/" + strconv.Itoa(n)
		if i < len(before) && name(before[i]) == name(a) {
			ops = diff(at, before[i], a, ops)
			i++
		} else {
			ops = append(ops, Operation{"add", at, a})
		}
	}
	return ops
}

func name(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["name"].(string)
	return s
}

// token is a key as RFC 6901 writes it in a path.
func token(k string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(k) }

// Tokens are the keys of an Operation's path.
func (o Operation) Tokens() []string {
	if o.Path == "" {
		return nil
	}
	tokens := strings.Split(o.Path[1:], "/")
	for i, t := range tokens {
		tokens[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(t)
	}
	return tokens
}
