package mesh

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v3"

	meshconfig "istio.io/api/mesh/v1alpha1"
)

// PresentAnnotation lists, on the object of a MeshConfig, the fields that are written though they hold what an absent
// field holds too (accessLogFile: ""), so that the difference survives protocol buffers. Comma-separated.
const PresentAnnotation = "signet.dev/mesh-config-present"

// configMap reads the MeshConfig inside the ConfigMap istio of the root namespace; any other ConfigMap is passed over
// with a warning.
func (p *parser) configMap(n *yaml.Node, d *decoder, o *Object) (*Object, []Problem) {
	if o.Name != "istio" || o.Namespace != p.opts.RootNamespace {
		if len(d.problems) > 0 {
			return o, d.problems
		}
		return nil, []Problem{{Severity: Warning, Position: o.Position, Key: o.Key,
			Message: "not read: the only ConfigMap that is, is istio in namespace " + p.opts.RootNamespace}}
	}
	var mesh *yaml.Node
	data := child(n, "data")
	for i := 0; data != nil && i+1 < len(data.Content); i += 2 {
		k, v := data.Content[i], data.Content[i+1]
		switch k.Value {
		case "mesh":
			d.mark("data.mesh", k, v)
			mesh = v
		case "meshNetworks":
			if s := strings.TrimSpace(v.Value); s != "" && s != "networks: {}" {
				d.refuse(k, "data.meshNetworks", "is not honoured: there is one network")
			}
		default:
			d.refuse(k, "data."+clip(k.Value), "unknown key %q: MeshConfig stands under the key mesh", clip(k.Value))
		}
	}
	if mesh == nil || mesh.Kind != yaml.ScalarNode {
		d.refuse(n, "data.mesh", "must be set: the text of a MeshConfig")
		return o, d.problems
	}
	p.meshConfig(mesh, d, o)
	if len(d.problems) > 0 {
		return o, d.problems
	}
	return o, Validate(o, p.opts.TrustDomain)
}

// meshConfig reads YAML inside a string; positions are those in the file around it.
func (p *parser) meshConfig(n *yaml.Node, d *decoder, o *Object) {
	d.place = p.inner(n)
	d.protoNames = true
	dec := yaml.NewDecoder(strings.NewReader(n.Value))
	var doc yaml.Node
	if err := decodeNode(dec, &doc); err != nil || len(doc.Content) != 1 {
		if strings.TrimSpace(n.Value) == "" || err == nil {
			return // an empty MeshConfig: every default
		}
		line, message := syntaxError(err)
		at := d.place(max(line, 1), 0)
		d.problems = append(d.problems, Problem{Position: at, Key: o.Key, Field: "data.mesh", Message: "broken YAML: " + message})
		return
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" {
		return
	}
	if !p.bounded(root, 1) {
		return
	}
	d.decodeSpec(root, o.Spec, "data.mesh")
	var more yaml.Node
	if decodeNode(dec, &more) == nil {
		d.refuse(&more, "data.mesh", "holds more than one document")
	}
	if c, ok := o.Spec.(*meshconfig.MeshConfig); ok && c.GetAccessLogFile() == "" && (child(root, "accessLogFile") != nil || child(root, "access_log_file") != nil) {
		annotations := map[string]string{PresentAnnotation: "accessLogFile"}
		for k, v := range o.Annotations {
			if k != PresentAnnotation {
				annotations[k] = v
			}
		}
		o.Annotations = annotations
	}
}

// inner maps positions inside a block scalar to the file's; inside any other scalar everything stands where it begins.
func (p *parser) inner(n *yaml.Node) func(line, column int) Position {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		return func(int, int) Position { return p.place(n.Line, n.Column) }
	}
	first, _, _ := strings.Cut(strings.TrimLeft(n.Value, "\n"), "\n")
	indent := 0
	for i := n.Line; i < len(p.lines); i++ { // n.Line counts from 1, so this is the line after it
		if line := p.lines[i]; len(bytes.TrimSpace(line)) > 0 {
			indent = leading(string(line)) - leading(first)
			break
		}
	}
	return func(line, column int) Position {
		if column > 0 {
			column += indent
		}
		return p.place(n.Line+line, column)
	}
}

// leading counts the spaces a line begins with.
func leading(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }
