package decisionlog

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// mask evaluates the mask rule and applies it. An error means that the event must not be sent.
func (r *Reporter) mask(ctx context.Context, w *wire) error {
	if r.cfg.Mask == nil {
		return nil
	}
	event, err := ast.InterfaceToValue(w)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, MaskTime)
	defer cancel()
	value, err := r.cfg.Mask(ctx, event)
	if err != nil {
		return err
	}
	rules, err := newMask(value)
	if err != nil {
		return err
	}
	for _, m := range rules {
		m.apply(w)
	}
	return nil
}

// maskRule is one entry of a mask, as OPA reads it (v1/plugins/logs/mask.go, which exports nothing of it).
type maskRule struct {
	upsert bool
	value  any
	parts  []string // of the path, unescaped
	path   string   // in the form that erased and masked have
}

// newMaskRule reads a path, to be removed, or an object {op, path, value}.
func newMaskRule(x any) (maskRule, error) {
	var r maskRule
	path, ok := x.(string)
	if o, is := x.(map[string]any); is {
		op, _ := o["op"].(string)
		if op != "remove" && op != "upsert" {
			return r, fmt.Errorf("mask op %q is neither remove nor upsert", op)
		}
		r.upsert, r.value = op == "upsert", o["value"]
		path, ok = o["path"].(string)
	}
	if !ok {
		return r, fmt.Errorf("mask entry is a %T, neither a path nor an object with a path", x)
	}
	if !strings.HasPrefix(path, "/") {
		return r, fmt.Errorf("mask path %q does not begin with a slash", path)
	}
	r.parts = strings.Split(path[1:], "/")
	if p := r.parts[0]; p != "input" && p != "result" && p != "nd_builtin_cache" {
		return r, fmt.Errorf("mask path %q begins with neither /input nor /result", path)
	}
	for i, p := range r.parts {
		plain, err := url.PathUnescape(p)
		if err != nil {
			return r, fmt.Errorf("mask path %q: %w", path, err)
		}
		r.path += "/" + url.PathEscape(plain)
		r.parts[i] = plain
	}
	return r, nil
}

// newMask reads the value of a mask rule.
func newMask(x any) ([]maskRule, error) {
	if x == nil {
		return nil, nil
	}
	entries, ok := x.([]any)
	if !ok {
		return nil, fmt.Errorf("mask is a %T, not a set", x)
	}
	if len(entries) > MaxMasks {
		return nil, fmt.Errorf("mask of more than %d entries", MaxMasks)
	}
	rules := make([]maskRule, len(entries))
	for i, entry := range entries {
		var err error
		if rules[i], err = newMaskRule(entry); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// apply changes an event. As in OPA, what isn't there is left alone without an error.
func (m maskRule) apply(w *wire) {
	var doc **any
	switch m.parts[0] {
	case "input":
		doc = &w.Input
	case "result":
		doc = &w.Result
	}
	if doc == nil || *doc == nil {
		return
	}
	rest := m.parts[1:]
	switch {
	case len(rest) == 0 && m.upsert:
		*doc = &m.value
	case len(rest) == 0:
		*doc = nil
	case m.upsert:
		if !upsert(**doc, rest, m.value) {
			return
		}
	default:
		changed, ok := remove(**doc, rest)
		if !ok {
			return
		}
		*doc = &changed
	}
	if m.upsert {
		w.Masked = append(w.Masked, m.path)
	} else {
		w.Erased = append(w.Erased, m.path)
	}
}

// remove answers x without what is at path, and whether that was there.
func remove(x any, path []string) (any, bool) {
	switch v := x.(type) {
	case map[string]any:
		child, ok := v[path[0]]
		if !ok {
			return x, false
		}
		if len(path) == 1 {
			delete(v, path[0])
			return v, true
		}
		v[path[0]], ok = remove(child, path[1:])
		return v, ok
	case []any:
		i, ok := index(v, path[0])
		if !ok {
			return x, false
		}
		if len(path) == 1 {
			return slices.Delete(v, i, i+1), true
		}
		v[i], ok = remove(v[i], path[1:])
		return v, ok
	}
	return x, false
}

// upsert puts value at path in x, which gets the objects that are missing on the way, and answers whether it did. Lists
// don't grow.
func upsert(x any, path []string, value any) bool {
	switch v := x.(type) {
	case map[string]any:
		if len(path) == 1 {
			v[path[0]] = value
			return true
		}
		child, ok := v[path[0]]
		if !ok {
			child = map[string]any{}
			v[path[0]] = child
		}
		return upsert(child, path[1:], value)
	case []any:
		i, ok := index(v, path[0])
		if !ok {
			return false
		}
		if len(path) == 1 {
			v[i] = value
			return true
		}
		return upsert(v[i], path[1:], value)
	}
	return false
}

func index(list []any, text string) (int, bool) {
	i, err := strconv.Atoi(text)
	return i, err == nil && i >= 0 && i < len(list)
}
