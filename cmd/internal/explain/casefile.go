package explain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/signet-mesh/signet/mesh"
)

// Limits on cases.
const (
	// MaxCases is how many cases one run has.
	MaxCases = 10000
	// CaseDir is the subdirectory of a directory of objects that holds cases: what reads objects does not look into it.
	CaseDir = "tests"
)

// Case is one request with what is expected of it.
type Case struct {
	Name     string
	Position mesh.Position
	Question Question
	Claims   map[string]any // nil: no token
	Expect   Expect
}

// Expect is what a case wants; what is not given is not looked at.
type Expect struct {
	Decision string // Allow or Deny
	// By is KIND/NAMESPACE/NAME, with [RULE] or without.
	By     string
	Status int
	// Path is the canonical path, Route the name of the route on the caller's side.
	Path, Route string
}

// CaseError is a fault in a file of cases.
type CaseError struct {
	Position mesh.Position
	Message  string
}

// Error is FILE:LINE:COLUMN: message.
func (e *CaseError) Error() string { return e.Position.String() + ": " + e.Message }

// CaseFiles are the files of cases of a directory: those of its subdirectory CaseDir.
func CaseFiles(dir string) ([]string, error) {
	var out []string
	entries, err := os.ReadDir(filepath.Join(dir, CaseDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml" || ext == ".json") {
			out = append(out, filepath.Join(dir, CaseDir, e.Name()))
		}
	}
	return out, nil
}

// ReadCases reads a file of cases: documents that are a case, a list of cases, or a mapping with the list cases.
func ReadCases(path string) ([]Case, error) {
	data, err := ReadFile(path, mesh.MaxFileBytes)
	if err != nil {
		return nil, err
	}
	return parseCases(path, data)
}

func parseCases(path string, data []byte) (out []Case, err error) {
	defer func() { // the YAML library panics in places over what it can't read
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: broken YAML: %v", path, r)
		}
	}()
	p := caseParser{file: path}
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return p.cases, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: broken YAML: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if len(doc.Content) != 1 || doc.Content[0].ShortTag() == "!!null" {
			continue
		}
		if err := p.document(doc.Content[0]); err != nil {
			return nil, err
		}
	}
}

// isCases reports whether the first document of a file is of cases, and not an object.
func isCases(data []byte) bool {
	var doc yaml.Node
	if yaml.NewDecoder(bytes.NewReader(data)).Decode(&doc) != nil || len(doc.Content) != 1 {
		return false
	}
	n := doc.Content[0]
	if n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	return member(n, "apiVersion") == nil && (member(n, "request") != nil || member(n, "cases") != nil)
}

func member(n *yaml.Node, name string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// caseParser is the state of reading one file.
type caseParser struct {
	file  string
	cases []Case
}

// take reads the value of one field.
type take func(*yaml.Node) error

func (p *caseParser) fail(n *yaml.Node, format string, args ...any) error {
	return &CaseError{mesh.Position{File: p.file, Line: n.Line, Column: n.Column}, fmt.Sprintf(format, args...)}
}

// fields reads a mapping strictly.
func (p *caseParser) fields(n *yaml.Node, what string, known map[string]take) error {
	if n.Kind != yaml.MappingNode {
		return p.fail(n, "%s: want a mapping", what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		read, ok := known[k.Value]
		switch {
		case !ok:
			return p.fail(k, "%s: unknown field %q", what, k.Value)
		case seen[k.Value]:
			return p.fail(k, "%s: field %q is given twice", what, k.Value)
		}
		seen[k.Value] = true
		if err := read(v); err != nil {
			return err
		}
	}
	return nil
}

func (p *caseParser) document(n *yaml.Node) error {
	if n.Kind == yaml.MappingNode && member(n, "cases") != nil {
		return p.fields(n, "file", map[string]take{"cases": p.list})
	}
	if n.Kind == yaml.SequenceNode {
		return p.list(n)
	}
	return p.one(n)
}

func (p *caseParser) list(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return p.fail(n, "cases: want a list")
	}
	for _, c := range n.Content {
		if err := p.one(c); err != nil {
			return err
		}
	}
	return nil
}

func (p *caseParser) one(n *yaml.Node) error {
	if len(p.cases) >= MaxCases {
		return p.fail(n, "more than %d cases", MaxCases)
	}
	c := Case{Position: mesh.Position{File: p.file, Line: n.Line, Column: n.Column}}
	err := p.fields(n, "case", map[string]take{
		"name":    p.text(&c.Name),
		"request": func(n *yaml.Node) error { return p.request(n, &c) },
		"expect":  func(n *yaml.Node) error { return p.expect(n, &c.Expect) },
	})
	switch {
	case err != nil:
		return err
	case c.Question.From == "" || c.Question.To == "":
		return p.fail(n, "case: request.from and request.to must be given")
	case c.Expect.Decision == "":
		return p.fail(n, "case: expect.decision must be given: %s or %s", Allow, Deny)
	}
	if c.Name == "" {
		q := &c.Question
		c.Name = strings.TrimSpace(fmt.Sprintf("%s %s from %s to %s", q.Method, q.Path, q.From, q.To))
	}
	p.cases = append(p.cases, c)
	return nil
}

func (p *caseParser) request(n *yaml.Node, c *Case) error {
	q := &c.Question
	var content, token string
	err := p.fields(n, "request", map[string]take{
		"from": p.text(&q.From), "to": p.text(&q.To), "host": p.text(&q.Host), "method": p.text(&q.Method), "path": p.text(&q.Path),
		"sourceIP": p.text(&q.SourceIP), "body": p.text(&content), "token": p.text(&token),
		"headers": func(n *yaml.Node) error { return p.headers(n, q) },
		"claims": func(n *yaml.Node) error {
			if n.Kind != yaml.MappingNode || n.Decode(&c.Claims) != nil || c.Claims == nil {
				return p.fail(n, "request.claims: want a mapping")
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if q.Body = []byte(content); token != "" {
		if c.Claims != nil {
			return p.fail(n, "request: token and claims exclude each other")
		}
		q.Headers = append(q.Headers, Header{"authorization", "Bearer " + token})
	}
	if q.Method == "" {
		q.Method = "GET"
	}
	if q.Path == "" {
		q.Path = "/"
	}
	return nil
}

// headers reads NAME: VALUE or NAME: [VALUE...].
func (p *caseParser) headers(n *yaml.Node, q *Question) error {
	if n.Kind != yaml.MappingNode {
		return p.fail(n, "request.headers: want a mapping")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, v := n.Content[i].Value, n.Content[i+1]
		values := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			values = v.Content
		}
		for _, one := range values {
			if one.Kind != yaml.ScalarNode {
				return p.fail(one, "request.headers[%s]: want a string or a list of strings", name)
			}
			q.Headers = append(q.Headers, Header{name, one.Value})
		}
	}
	return nil
}

func (p *caseParser) expect(n *yaml.Node, e *Expect) error {
	return p.fields(n, "expect", map[string]take{
		"decision": func(n *yaml.Node) error {
			if e.Decision = n.Value; e.Decision != Allow && e.Decision != Deny {
				return p.fail(n, "expect.decision: %q is not %s or %s", n.Value, Allow, Deny)
			}
			return nil
		},
		"by": func(n *yaml.Node) error { return p.by(n, e) },
		"status": func(n *yaml.Node) error {
			v, err := strconv.Atoi(n.Value)
			if e.Status = v; err != nil || v < 100 || v > 599 {
				return p.fail(n, "expect.status: %q is not 100 to 599", n.Value)
			}
			return nil
		},
		"path": p.text(&e.Path), "route": p.text(&e.Route),
	})
}

// kinds are those that may decide.
var kinds = [...]string{"AuthorizationPolicy", "RegoPolicy", "RequestAuthentication", "RateLimitPolicy", "PeerAuthentication",
	"ExtensionProvider", "TrustDomain"}

// by reads KIND/NAMESPACE/NAME[RULE], or a mapping of kind, namespace, name and rule.
func (p *caseParser) by(n *yaml.Node, e *Expect) error {
	if n.Kind == yaml.ScalarNode {
		e.By = n.Value
		if kind, _, ok := strings.Cut(e.By, "/"); !ok || !slices.Contains(kinds[:], kind) {
			return p.fail(n, "expect.by: %q: want KIND/NAMESPACE/NAME or KIND/NAMESPACE/NAME[RULE]", n.Value)
		}
		return nil
	}
	r := Ref{Rule: -1}
	err := p.fields(n, "expect.by", map[string]take{"kind": p.text(&r.Kind), "namespace": p.text(&r.Namespace), "name": p.text(&r.Name),
		"rule": func(n *yaml.Node) error {
			v, err := strconv.Atoi(n.Value)
			if r.Rule = v; err != nil || v < -1 {
				return p.fail(n, "expect.by.rule: %q is not a number from 0", n.Value)
			}
			return nil
		}})
	if r.Kind == "" {
		r.Kind = mesh.KindAuthorizationPolicy
	}
	if err == nil && (r.Name == "" || !slices.Contains(kinds[:], r.Kind)) {
		return p.fail(n, "expect.by: want kind, namespace, name and perhaps rule")
	}
	e.By = r.String()
	return err
}

func (p *caseParser) text(into *string) take {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
			return p.fail(n, "want a string")
		}
		*into = n.Value
		return nil
	}
}
