package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podTemplate is the part of a pod that a template has.
type podTemplate struct {
	Metadata *metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec     *corev1.PodSpec    `json:"spec,omitempty"`
}

// template is the patch that injects the pod template of an object.
func (c *Config) template(text []byte, h *head, at string, path []string) (ops []Operation, notes []string, err error) {
	field := strings.Join(path, ".")
	for _, key := range path {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(text, &m); err != nil || len(m[key]) == 0 || string(m[key]) == "null" {
			return nil, nil, fmt.Errorf("%s: is missing", field)
		}
		text, at = m[key], at+"/"+key
	}
	var t podTemplate
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, nil, typeFault(field, err)
	}
	if t.Metadata == nil {
		t.Metadata = &metav1.ObjectMeta{}
	}
	if t.Spec == nil || len(t.Spec.Containers) == 0 {
		return nil, nil, fmt.Errorf("%s: must not be empty", strings.TrimPrefix(field+".spec.containers", "."))
	}
	if c.System(h.Metadata.Namespace) {
		return nil, []string{fmt.Sprintf("no sidecar is injected: namespace %q is left out of the mesh", h.Metadata.Namespace)}, nil
	}
	pod := &corev1.Pod{ObjectMeta: *t.Metadata, Spec: *t.Spec}
	v := c.WantsByHand(pod)
	if v.Decision != Wanted {
		if v.Message != "" {
			notes = []string{v.Message}
		}
		return nil, notes, nil
	}
	before := &podTemplate{t.Metadata.DeepCopy(), t.Spec.DeepCopy()}
	workload := ""
	if len(path) > 0 {
		workload = WorkloadName(h.Kind, h.Metadata.Name)
	}
	if notes, err = c.inject(pod, workload, c.hookWords(h.Metadata.Namespace, h.Metadata.Name)); err != nil {
		return nil, nil, err
	}
	if ops, err = Diff(before, &podTemplate{&pod.ObjectMeta, &pod.Spec}); err != nil {
		return nil, nil, err
	}
	for i := range ops {
		ops[i].Path = at + ops[i].Path
	}
	return ops, notes, nil
}

// typeFault names the field of a value that Kubernetes would not read.
func typeFault(field string, err error) error {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) && t.Field != "" {
		return fmt.Errorf("%s: want %s, found %s", strings.TrimPrefix(field+"."+t.Field, "."), t.Type, t.Value)
	}
	if field == "" {
		field = "spec"
	}
	return fmt.Errorf("%s: %w", field, err)
}
