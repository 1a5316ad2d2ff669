package mesh

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// read makes one object of one mapping: kind, metadata, spec, judgement. The object is nil when its kind is not read.
func (p *parser) read(n *yaml.Node) (*Object, []Problem) {
	at := p.place(n.Line, n.Column)
	apiVersion, kind := child(n, "apiVersion"), child(n, "kind")
	if text(apiVersion) == "" || text(kind) == "" {
		p.fail(n.Line, n.Column, "want an object with apiVersion and kind")
		return nil, nil
	}
	group, version, ok := strings.Cut(apiVersion.Value, "/")
	if !ok {
		group, version = "", apiVersion.Value
	}
	key := Key{Group: group, Kind: kind.Value, Namespace: DefaultNamespace, Name: text(child(child(n, "metadata"), "name"))}
	if ns := text(child(child(n, "metadata"), "namespace")); ns != "" {
		key.Namespace = ns
	}
	if group == GroupInternal {
		return nil, []Problem{{Position: p.place(kind.Line, kind.Column), Key: key, Field: "kind", Message: "is made by the control plane of its own command line, and never read from a file"}}
	}
	spec, known := NewSpec(group, kind.Value)
	if !known || made(group, kind.Value) {
		return nil, []Problem{{Position: p.place(kind.Line, kind.Column), Key: key, Field: "kind", Message: instead(group, kind.Value)}}
	}
	o := &Object{Meta: Meta{Key: key, Version: version, Position: at, Created: p.opts.Now}, Spec: spec}
	d := &decoder{place: p.place, key: key, at: make(map[string]Position), noEmptyLists: guarded(group)}
	if !servedVersion(group, version) {
		d.refuse(apiVersion, "apiVersion", "version %q of %s is not served: use %s", version, o.Kind, VersionOf(group))
	}
	d.envelope(n, o)
	o.at = d.at
	if o.Quarantined() {
		d.refuse(n, "metadata.annotations["+QuarantineAnnotation+"]", "is set by the control plane, and by nobody else")
		delete(o.Annotations, QuarantineAnnotation)
	}
	if o.Kind == KindConfigMap {
		return p.configMap(n, d, o)
	}
	if s := child(n, "spec"); s != nil && s.ShortTag() != "!!null" {
		d.decodeSpec(s, spec, "spec")
	}
	problems := d.problems
	if len(problems) == 0 {
		problems = Validate(o, p.opts.TrustDomain)
	}
	if p.opts.Judge != nil && len(Refusals(problems)) == 0 {
		problems = append(problems, p.opts.Judge(o)...)
	}
	return o, keepPartial(o, problems)
}

// servedVersion reports whether Istio's CRDs serve the version.
func servedVersion(group, version string) bool {
	if group == GroupPolicy {
		return version == VersionOf(group)
	}
	switch version {
	case "v1":
		return true
	case "v1beta1":
		return group != GroupCore
	case "v1alpha3":
		return group == GroupNetworking
	}
	return false
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return ""
	}
	return n.Value
}

// envelope judges what stands around the spec.
func (d *decoder) envelope(n *yaml.Node, o *Object) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch k.Value {
		case "apiVersion", "kind":
		case "status": // what a control plane wrote: no part of what is authored
		case "metadata":
			d.metadata(v, o)
		case "spec":
			d.mark("spec", k, v)
			if o.Kind == KindConfigMap {
				d.refuse(k, "spec", "unknown field %q", "spec")
			}
		case "data", "binaryData", "immutable":
			if o.Kind != KindConfigMap {
				d.refuse(k, k.Value, "unknown field %q", k.Value)
			}
		default:
			d.refuse(k, clip(k.Value), "unknown field %q", clip(k.Value))
		}
	}
	if o.Name == "" {
		d.refuse(n, "metadata.name", "must be set")
	} else if err := checkSubdomain(o.Name); err != nil {
		d.refuse(n, "metadata.name", "%v", err)
	}
	if err := checkLabel(o.Namespace); err != nil {
		d.refuse(n, "metadata.namespace", "%v", err)
	}
}

// metadata reads names, labels, annotations and the creation time; what the API server adds is passed over.
func (d *decoder) metadata(n *yaml.Node, o *Object) {
	if n.Kind != yaml.MappingNode {
		d.refuse(n, "metadata", "want a mapping, found %s", describe(n))
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		field := "metadata." + clip(k.Value)
		if seen[k.Value] {
			d.refuse(k, field, "is given twice")
			continue
		}
		seen[k.Value] = true
		d.mark(field, k, v)
		switch k.Value {
		case "name", "namespace":
			if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" && v.ShortTag() != "!!null" {
				d.refuse(v, field, "want a string, found %s: quote it", describe(v))
			}
		case "labels":
			o.Labels = d.stringMap(v, field)
		case "annotations":
			o.Annotations = d.stringMap(v, field)
		case "creationTimestamp":
			if v.ShortTag() == "!!null" {
				continue
			}
			t, err := time.Parse(time.RFC3339, v.Value)
			if err != nil {
				d.refuse(v, field, "want an RFC 3339 time, found %s", describe(v))
				continue
			}
			o.Created = t
		case "uid", "resourceVersion", "generation", "managedFields", "ownerReferences", "finalizers", "generateName",
			"selfLink", "deletionTimestamp", "deletionGracePeriodSeconds":
		default:
			d.refuse(k, field, "unknown field %q", clip(k.Value))
		}
	}
}

// stringMap reads labels or annotations.
func (d *decoder) stringMap(n *yaml.Node, field string) map[string]string {
	if n.ShortTag() == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.refuse(n, field, "want a mapping, found %s", describe(n))
		return nil
	}
	out := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := fmt.Sprintf("%s[%s]", field, clip(k.Value))
		d.mark(at, k, v)
		if _, dup := out[k.Value]; dup {
			d.refuse(k, at, "is given twice")
			continue
		}
		if v.Kind != yaml.ScalarNode {
			d.refuse(v, at, "want a string, found %s", describe(v))
			continue
		}
		if s, ok := d.text(v, at); ok {
			out[k.Value] = s
		}
	}
	return out
}

// keepPartial hangs what could be read of a refused security object on its problems, for Quarantine.
func keepPartial(o *Object, problems []Problem) []Problem {
	if !guarded(o.Group) || len(Refusals(problems)) == 0 {
		return problems
	}
	for i := range problems {
		if len(problems) >= MaxProblems || strings.HasPrefix(problems[i].Field, "spec.selector") || strings.HasPrefix(problems[i].Field, "spec.targetRef") {
			o = &Object{Meta: o.Meta}
			break
		}
	}
	for i := range problems {
		if problems[i].Severity == Refused {
			problems[i].partial = o
		}
	}
	return problems
}
