package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Limits of what Text reads.
const (
	MaxTextBytes = 16 << 20
	maxDocuments = 10000
	maxNesting   = 16 // Lists in Lists
)

// Text injects every pod and pod template of a YAML or JSON text that WantsByHand. What has none, or has a sidecar, comes out byte
// for byte as it went in; what is changed keeps its order and its comments, save in documents with aliases, and in JSON. notes say
// which objects stay without a sidecar and what was dropped. An error names the document (from 1), the object and the field.
func (c *Config) Text(in []byte) (out []byte, notes []string, err error) {
	if len(in) > MaxTextBytes {
		return nil, nil, fmt.Errorf("%d bytes, more than %d", len(in), MaxTextBytes)
	}
	documents, ok := splitJSON(in)
	if !ok {
		documents = splitYAML(in)
	}
	if len(documents) > maxDocuments {
		return nil, nil, fmt.Errorf("more than %d documents", maxDocuments)
	}
	var all bytes.Buffer
	count := 0
	for _, d := range documents {
		if d.blank() {
			all.Write(d.raw)
			continue
		}
		count++
		text, told, err := c.document(d)
		if err != nil {
			return nil, nil, fmt.Errorf("document %d: %w", count, err)
		}
		for _, n := range told {
			notes = append(notes, fmt.Sprintf("document %d: %s", count, n))
		}
		all.Write(text)
	}
	return all.Bytes(), notes, nil
}

// document is a part of a text: one YAML document with the marker before it, or one JSON value.
type document struct {
	raw  []byte
	json bool
}

// blank reports whether there are only comments, directives and markers.
func (d document) blank() bool {
	for line := range bytes.Lines(d.raw) {
		line = bytes.TrimPrefix(bytes.TrimSpace(line), []byte("\ufeff"))
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok {
			line = bytes.TrimSpace(rest)
		}
		if len(line) > 0 && line[0] != '#' && line[0] != '%' && string(line) != "..." {
			return false
		}
	}
	return true
}

// splitJSON splits values that follow each other; it is false for a text that is not JSON all through.
func splitJSON(in []byte) ([]document, bool) {
	if t := bytes.TrimSpace(in); len(t) == 0 || t[0] != '{' {
		return nil, false
	}
	var out []document
	dec := json.NewDecoder(bytes.NewReader(in))
	for from := int64(0); ; {
		var v json.RawMessage
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return append(out, document{in[from:], true}), true
		}
		if err != nil {
			return nil, false
		}
		out = append(out, document{in[from:dec.InputOffset()], true})
		from = dec.InputOffset()
	}
}

// marker begins a document (YAML 1.2, 9.1.2), end ends one.
var (
	marker = regexp.MustCompile(`^---([ \t\r\n]|$)`)
	end    = regexp.MustCompile(`^\.\.\.([ \t\r\n]|$)`)
)

func splitYAML(in []byte) []document {
	var out []document
	var raw []byte
	cut := func() {
		if len(raw) > 0 {
			out = append(out, document{raw: raw})
		}
		raw = nil
	}
	for line := range bytes.Lines(in) {
		if marker.Match(line) {
			cut()
		}
		raw = append(raw, line...)
		if end.Match(line) {
			cut()
		}
	}
	cut()
	return out
}

// head is what says what an object is.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
		Namespace    string `json:"namespace"`
	} `json:"metadata"`
}

// String is KIND NAMESPACE/NAME.
func (h *head) String() string {
	name := h.Metadata.Name
	if name == "" {
		name = h.Metadata.GenerateName
	}
	if h.Metadata.Namespace != "" {
		name = h.Metadata.Namespace + "/" + name
	}
	return strings.TrimSpace(h.Kind + " " + name)
}

func (c *Config) document(d document) (text []byte, notes []string, err error) {
	asJSON := bytes.TrimSpace(d.raw)
	if !d.json {
		if asJSON, err = yaml.YAMLToJSON(d.raw); err != nil {
			return nil, nil, fmt.Errorf("broken YAML: %w", err)
		}
	}
	ops, notes, err := c.object(asJSON, "", 0)
	if err != nil || len(ops) == 0 {
		return d.raw, notes, err
	}
	if d.json {
		text, err = applyJSON(asJSON, ops, "    ")
		if i := bytes.IndexByte(d.raw, '{'); i > 0 {
			text = append(bytes.Clone(d.raw[:i]), text...)
		}
		return text, notes, err
	}
	if _, err := yaml.YAMLToJSONStrict(d.raw); err != nil {
		return nil, nil, fmt.Errorf("broken YAML: %w", err)
	}
	text, err = rewriteYAML(d.raw, asJSON, ops)
	return text, notes, err
}

// object is the patch that injects an object, or the items of a List, at a path of the document.
func (c *Config) object(text []byte, at string, depth int) (ops []Operation, notes []string, err error) {
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		if depth == 0 && !bytes.HasPrefix(text, []byte("{")) {
			return nil, nil, nil // no object: somebody else's business
		}
		return nil, nil, typeFault("", err)
	}
	if isList(h.Kind) && depth < maxNesting {
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, nil, fmt.Errorf("%s: items: want a list: %w", h.Kind, err)
		}
		for i, item := range list.Items {
			o, n, err := c.object(item, fmt.Sprintf("%s/items/%d", at, i), depth+1)
			if err != nil {
				return nil, nil, fmt.Errorf("items[%d]: %w", i, err)
			}
			ops, notes = append(ops, o...), append(notes, n...)
		}
		return ops, notes, nil
	}
	path, ok := templatePath(h.APIVersion, h.Kind)
	if !ok {
		return nil, nil, nil
	}
	ops, notes, err = c.template(text, &h, at, path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", &h, err)
	}
	for i := range notes {
		notes[i] = h.String() + ": " + notes[i]
	}
	return ops, notes, nil
}

// isList reports whether a kind is List, or a list of one kind that is injected (PodList, DeploymentList).
func isList(kind string) bool {
	of, is := strings.CutSuffix(kind, "List")
	return is && (of == "" || slices.ContainsFunc([]string{"v1", "apps/v1", "batch/v1"}, func(v string) bool {
		_, ok := templatePath(v, of)
		return ok
	}))
}

// templatePath is where an object holds its pod; it is false for what holds none.
func templatePath(apiVersion, kind string) ([]string, bool) {
	group, _, versioned := strings.Cut(apiVersion, "/")
	if !versioned {
		group = ""
	}
	switch group + "/" + kind {
	case "/Pod":
		return nil, true
	case "/PodTemplate":
		return []string{"template"}, true
	case "/ReplicationController", "apps/Deployment", "apps/StatefulSet", "apps/DaemonSet", "apps/ReplicaSet",
		"extensions/Deployment", "extensions/DaemonSet", "extensions/ReplicaSet", "batch/Job":
		return []string{"spec", "template"}, true
	case "batch/CronJob":
		return []string{"spec", "jobTemplate", "spec", "template"}, true
	}
	return nil, false
}
