package mesh

import (
	"strconv"

	security "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"
)

// QuarantineAnnotation is set on objects made by Quarantine; its value is the reason.
const QuarantineAnnotation = "signet.dev/quarantined"

// Quarantine is what stands in for a refused security object that has no last good version: an AuthorizationPolicy that
// denies everything it selects, a PeerAuthentication that is STRICT; with the refused object's selector if that could be
// read, else for its whole namespace (in the root namespace: the whole mesh). nil for other kinds and for warnings.
func Quarantine(p Problem) *Object {
	if p.Severity != Refused || p.Key.Group != GroupSecurity {
		return nil
	}
	// Created stays zero, the oldest there is: among PeerAuthentications of one scope the oldest rules.
	o := &Object{Meta: Meta{Key: p.Key, Version: "v1", Position: p.Position}}
	if p.partial != nil {
		o.Labels, o.Position = p.partial.Labels, p.partial.Position
	}
	o.Annotations = map[string]string{QuarantineAnnotation: p.Error()}
	if checkSubdomain(o.Name) != nil {
		o.Name = "unnamed-" + strconv.Itoa(o.Position.Line)
	}
	if checkLabel(o.Namespace) != nil {
		return nil // there is no namespace to deny
	}
	selector := readSelector(p.partial)
	switch o.Kind {
	case KindAuthorizationPolicy:
		o.Spec = &security.AuthorizationPolicy{Selector: selector, Action: security.AuthorizationPolicy_DENY, Rules: []*security.Rule{{}}}
	case KindPeerAuthentication:
		o.Spec = &security.PeerAuthentication{Selector: selector,
			Mtls: &security.PeerAuthentication_MutualTLS{Mode: security.PeerAuthentication_MutualTLS_STRICT}}
	default:
		return nil
	}
	return o
}

// readSelector takes the selector of what could be read; nil selects the whole namespace.
func readSelector(o *Object) *typev1beta1.WorkloadSelector {
	if o == nil {
		return nil
	}
	var s *typev1beta1.WorkloadSelector
	switch spec := o.Spec.(type) {
	case *security.AuthorizationPolicy:
		s = spec.GetSelector()
	case *security.PeerAuthentication:
		s = spec.GetSelector()
	}
	j := &judge{object: &Object{}}
	if j.selectorLabels("", s.GetMatchLabels()); len(s.GetMatchLabels()) == 0 || len(j.problems) > 0 {
		return nil
	}
	return &typev1beta1.WorkloadSelector{MatchLabels: s.GetMatchLabels()}
}

// Quarantined reports whether the object was made by Quarantine.
func (m *Meta) Quarantined() bool { return m.Annotations[QuarantineAnnotation] != "" }
