package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	yamlnode "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// applyJSON applies a patch to a JSON value.
func applyJSON(text []byte, ops []Operation, indent string) ([]byte, error) {
	v, err := patched(text, ops)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err = enc.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

func patched(text []byte, ops []Operation) (any, error) {
	v, err := generic(json.RawMessage(text))
	if err != nil {
		return nil, err
	}
	for _, o := range ops {
		if v, err = set(v, o.Tokens(), o); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// set applies one operation below v, making the mappings on the way.
func set(v any, tokens []string, o Operation) (any, error) {
	if len(tokens) == 0 {
		return o.Value, nil
	}
	switch at := v.(type) {
	case nil:
		return set(map[string]any{}, tokens, o)
	case map[string]any:
		if len(tokens) == 1 && o.Op == "remove" {
			delete(at, tokens[0])
			return at, nil
		}
		below, err := set(at[tokens[0]], tokens[1:], o)
		at[tokens[0]] = below
		return at, err
	case []any:
		i, err := strconv.Atoi(tokens[0])
		if err != nil || i < 0 || i > len(at) || i == len(at) && (len(tokens) > 1 || o.Op != "add") {
			break
		}
		if len(tokens) == 1 && o.Op == "add" {
			return slices.Insert(at, i, o.Value), nil
		}
		at[i], err = set(at[i], tokens[1:], o)
		return at, err
	}
	return nil, fmt.Errorf("patching %s: nothing is there", o.Path)
}

// rewriteYAML applies a patch to a YAML document and keeps its order and comments. Where that does not give the patched object (a
// document with aliases), the whole document is written anew.
func rewriteYAML(raw, asJSON []byte, ops []Operation) ([]byte, error) {
	want, err := patched(asJSON, ops)
	if err != nil {
		return nil, err
	}
	var head, tail []byte
	if first, _, _ := bytes.Cut(raw, []byte("\n")); marker.Match(raw) {
		head = []byte("---\n")
		if c := bytes.TrimSpace(bytes.TrimPrefix(first, []byte("---"))); len(c) > 0 && c[0] == '#' {
			head = append(bytes.Clone(first), '\n')
			raw = raw[min(len(raw), len(first)+1):]
		}
	}
	if lines := bytes.Split(bytes.TrimRight(raw, "\r\n"), []byte("\n")); end.Match(lines[len(lines)-1]) {
		tail = []byte("...\n")
	}
	body, err := rewriteNode(raw, ops)
	if err != nil || !means(body, want) {
		text, err := json.Marshal(want)
		if err != nil {
			return nil, err
		}
		if body, err = yaml.JSONToYAML(text); err != nil {
			return nil, fmt.Errorf("writing YAML: %w", err)
		}
	}
	return slices.Concat(head, body, tail), nil
}

// means reports whether a YAML text is this value.
func means(text []byte, want any) bool {
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return false
	}
	got, err := generic(json.RawMessage(asJSON))
	return err == nil && reflect.DeepEqual(got, want)
}

func rewriteNode(raw []byte, ops []Operation) ([]byte, error) {
	var doc yamlnode.Node
	if err := yamlnode.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 {
		return nil, fmt.Errorf("no document")
	}
	for _, o := range ops {
		if err := setNode(doc.Content[0], o.Tokens(), o); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	enc := yamlnode.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	err := enc.Close()
	return out.Bytes(), err
}

// setNode applies one operation below a mapping or a list.
func setNode(n *yamlnode.Node, tokens []string, o Operation) error {
	key := tokens[0]
	if n.Kind == yamlnode.ScalarNode && n.ShortTag() == "!!null" {
		*n = yamlnode.Node{Kind: yamlnode.MappingNode, Tag: "!!map", HeadComment: n.HeadComment, LineComment: n.LineComment, FootComment: n.FootComment}
	}
	switch n.Kind {
	case yamlnode.MappingNode:
		return setKey(n, key, tokens, o)
	case yamlnode.SequenceNode:
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i > len(n.Content) || i == len(n.Content) && (len(tokens) > 1 || o.Op != "add") {
			break
		}
		if len(tokens) > 1 {
			return setNode(n.Content[i], tokens[1:], o)
		}
		v, err := node(o.Value)
		if err != nil {
			return err
		}
		if o.Op == "add" {
			n.Content = slices.Insert(n.Content, i, v)
		} else {
			n.Content[i] = v
		}
		return nil
	}
	return fmt.Errorf("patching %s: nothing is there", o.Path)
}

func setKey(n *yamlnode.Node, key string, tokens []string, o Operation) error {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != key {
			continue
		}
		if len(tokens) > 1 {
			return setNode(n.Content[i+1], tokens[1:], o)
		}
		if o.Op == "remove" {
			n.Content = slices.Delete(n.Content, i, i+2)
			return nil
		}
		v, err := node(o.Value)
		if err == nil {
			v.LineComment = n.Content[i+1].LineComment
			n.Content[i+1] = v
		}
		return err
	}
	below := &yamlnode.Node{Kind: yamlnode.MappingNode, Tag: "!!map"}
	if len(tokens) > 1 {
		if err := setNode(below, tokens[1:], o); err != nil {
			return err
		}
	} else {
		v, err := node(o.Value)
		if err != nil {
			return err
		}
		below = v
	}
	n.Content = append(n.Content, &yamlnode.Node{Kind: yamlnode.ScalarNode, Tag: "!!str", Value: key}, below)
	return nil
}

// node is a JSON value as YAML, its keys in order; name comes first, as people write it.
func node(v any) (*yamlnode.Node, error) {
	switch v := v.(type) {
	case map[string]any:
		n := &yamlnode.Node{Kind: yamlnode.MappingNode, Tag: "!!map"}
		keys := slices.Sorted(maps.Keys(v))
		if i := slices.Index(keys, "name"); i > 0 {
			keys = slices.Insert(slices.Delete(keys, i, i+1), 0, "name")
		}
		for _, k := range keys {
			below, err := node(v[k])
			if err != nil {
				return nil, err
			}
			kn := &yamlnode.Node{}
			kn.SetString(k)
			n.Content = append(n.Content, kn, below)
		}
		return n, nil
	case []any:
		n := &yamlnode.Node{Kind: yamlnode.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			below, err := node(item)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, below)
		}
		return n, nil
	case json.Number:
		return &yamlnode.Node{Kind: yamlnode.ScalarNode, Value: v.String()}, nil
	}
	n := &yamlnode.Node{}
	err := n.Encode(v)
	return n, err
}
