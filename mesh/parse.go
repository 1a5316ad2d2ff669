package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ParseOptions says what a file is judged against.
type ParseOptions struct {
	// TrustDomain is the one in use; "" skips the judgements that need it.
	TrustDomain string
	// RootNamespace is where the ConfigMap istio is looked for; "" is DefaultRootNamespace.
	RootNamespace string
	// Now is Meta.Created of objects without metadata.creationTimestamp.
	Now time.Time
	// Judge is asked about each object that Validate found nothing to refuse in: what can't be run is refused here too. It
	// answers with Fault. nil asks nobody.
	Judge func(*Object) []Problem
}

// Parse reads every document of a file and judges each object by itself (Validate). Objects that were refused are not
// among those returned; each has at least one Problem of severity Refused. A problem with the zero Key (WholeFile) says
// that the file as such could not be read, and then no objects are returned. JSON is read as the YAML it is.
func Parse(file string, data []byte, opts ParseOptions) ([]*Object, []Problem) {
	p := &parser{file: file, opts: opts, lines: bytes.Split(data, []byte("\n"))}
	if p.opts.RootNamespace == "" {
		p.opts.RootNamespace = DefaultRootNamespace
	}
	if len(data) > MaxFileBytes {
		return nil, []Problem{{Position: Position{File: file}, Message: fmt.Sprintf("the file has %d bytes, more than %d", len(data), MaxFileBytes)}}
	}
	if p.documents(data); p.broken {
		return nil, Refusals(p.problems)
	}
	return p.objects, p.problems
}

// parser is the state of one Parse.
type parser struct {
	file     string
	opts     ParseOptions
	lines    [][]byte
	count    int
	objects  []*Object
	problems []Problem
	broken   bool // the file as such can't be judged
}

func (p *parser) place(line, column int) Position { return Position{p.file, line, column} }

// fail records a problem of the whole file.
func (p *parser) fail(line, column int, format string, args ...any) {
	p.broken = true
	p.problems = append(p.problems, Problem{Position: p.place(line, column), Message: fmt.Sprintf(format, args...)})
}

func (p *parser) documents(data []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for !p.broken {
		var doc yaml.Node
		err := decodeNode(dec, &doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			line, message := syntaxError(err)
			p.fail(line, 0, "broken YAML: %s", message)
			return
		}
		if len(doc.Content) == 1 {
			p.document(doc.Content[0])
		}
	}
}

// decodeNode reads the next document. The YAML library reports what it can't read by panics of its own kind in places; a
// broken file must never end the process.
func decodeNode(dec *yaml.Decoder, into *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	return dec.Decode(into)
}

// syntaxError takes the line out of the library's message; 0 if it names none.
func syntaxError(err error) (int, string) {
	s := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(s, "line "); ok {
		if num, message, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(num); err == nil {
				return line, message
			}
		}
	}
	return 0, s
}

// document judges one document: an object, or a List of them. An empty one (comments, a lone ---) is none.
func (p *parser) document(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n.Line, n.Column, "want an object with apiVersion and kind, found %s", describe(n))
		return
	}
	if !p.bounded(n, 1) || !p.unique(n) {
		return
	}
	if kind := child(n, "kind"); kind != nil && kind.Value == "List" {
		p.list(n)
		return
	}
	p.object(n)
}

// list unfolds `kind: List`.
func (p *parser) list(n *yaml.Node) {
	items := child(n, "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		p.fail(n.Line, n.Column, "a List must have items")
		return
	}
	for _, item := range items.Content {
		if kind := child(item, "kind"); item.Kind != yaml.MappingNode || kind != nil && kind.Value == "List" {
			p.fail(item.Line, item.Column, "an item of a List must be an object that is not a List, found %s", describe(item))
			return
		}
		if !p.unique(item) {
			return
		}
		p.object(item)
	}
}

func (p *parser) object(n *yaml.Node) {
	if p.count++; p.count > MaxDocuments {
		p.fail(n.Line, n.Column, "more than %d objects in one file", MaxDocuments)
		return
	}
	o, problems := p.read(n)
	p.problems = append(p.problems, problems...)
	if o != nil && len(Refusals(problems)) == 0 {
		p.objects = append(p.objects, o)
	}
}

// bounded refuses nesting beyond MaxDepth before anything recurses into it.
func (p *parser) bounded(n *yaml.Node, depth int) bool {
	if depth > MaxDepth {
		p.fail(n.Line, n.Column, "nested deeper than %d", MaxDepth)
		return false
	}
	for _, c := range n.Content {
		if !p.bounded(c, depth+1) {
			return false
		}
	}
	return true
}

// unique refuses a mapping that names one of its own keys twice.
func (p *parser) unique(n *yaml.Node) bool {
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if first, dup := seen[k.Value]; dup {
			p.fail(k.Line, k.Column, "%q is given twice, first at line %d", clip(k.Value), first)
			return false
		}
		seen[k.Value] = k.Line
	}
	return true
}

// child is the value of a key of a mapping, nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
