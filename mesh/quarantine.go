package mesh

import (
	"strconv"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// QuarantineAnnotation is set on objects made by Quarantine; its value is the reason.
const QuarantineAnnotation = "signet.dev/quarantined"

// Quarantine is what stands in for a refused security object that has no last good version: an AuthorizationPolicy that
// denies everything it selects (and still only rehearses that if it was a dry run), a PeerAuthentication that is STRICT, a
// RequestAuthentication, RegoPolicy or RateLimitPolicy that holds nothing and by its mark (Quarantined) refuses everything;
// with the refused object's selector or targets if those could be read, else for its whole namespace (in the root namespace:
// the whole mesh). nil for other kinds and for warnings.
func Quarantine(p Problem) *Object {
	if p.Severity != Refused || !guarded(p.Key.Group) {
		return nil
	}
	// Created stays zero, the oldest there is: among PeerAuthentications of one scope the oldest rules.
	o := &Object{Meta: Meta{Key: p.Key, Version: VersionOf(p.Key.Group), Position: p.Position}}
	if p.partial != nil {
		o.Labels, o.Position = p.partial.Labels, p.partial.Position
	}
	o.Annotations = map[string]string{QuarantineAnnotation: p.Error()}
	if p.partial != nil && p.partial.DryRun() {
		o.Annotations[DryRunAnnotation] = p.partial.Annotations[DryRunAnnotation]
	}
	if checkSubdomain(o.Name) != nil {
		o.Name = "unnamed-" + strconv.Itoa(o.Position.Line)
	}
	if checkLabel(o.Namespace) != nil {
		return nil // there is no namespace to deny
	}
	if o.Spec = quarantined(o.Kind, p.partial); o.Spec == nil {
		return nil
	}
	return o
}

// quarantined is the spec of a quarantine; nil for a kind that has none.
func quarantined(kind string, partial *Object) proto.Message {
	labels, targets := readScope(partial)
	var selector *typev1beta1.WorkloadSelector
	if labels != nil {
		selector = &typev1beta1.WorkloadSelector{MatchLabels: labels}
	}
	switch kind {
	case KindAuthorizationPolicy:
		return &security.AuthorizationPolicy{Selector: selector, Action: security.AuthorizationPolicy_DENY, Rules: []*security.Rule{{}}}
	case KindPeerAuthentication:
		return &security.PeerAuthentication{Selector: selector,
			Mtls: &security.PeerAuthentication_MutualTLS{Mode: security.PeerAuthentication_MutualTLS_STRICT}}
	case KindRequestAuthentication:
		return &security.RequestAuthentication{Selector: selector}
	case KindRegoPolicy:
		return &policy.RegoPolicy{}
	case KindRateLimitPolicy:
		out := &policy.RateLimitPolicy{TargetRefs: targets}
		if labels != nil {
			out.Selector = &policy.WorkloadSelector{MatchLabels: labels}
		}
		return out
	}
	return nil
}

// readScope takes of what could be read the labels that it selects by, and its targets; neither is the whole namespace.
func readScope(o *Object) (labels map[string]string, targets []*policy.TargetRef) {
	if o == nil {
		return nil, nil
	}
	switch spec := o.Spec.(type) {
	case *security.AuthorizationPolicy:
		labels = spec.GetSelector().GetMatchLabels()
	case *security.PeerAuthentication:
		labels = spec.GetSelector().GetMatchLabels()
	case *security.RequestAuthentication:
		labels = spec.GetSelector().GetMatchLabels()
	case *policy.RateLimitPolicy:
		labels, targets = spec.GetSelector().GetMatchLabels(), spec.GetTargetRefs()
	}
	j := &judge{object: &Object{}}
	j.selectorLabels("", labels)
	j.targetRefs(targets)
	if len(j.problems) > 0 || len(labels) > 0 && len(targets) > 0 {
		return nil, nil
	}
	if len(labels) == 0 {
		labels = nil
	}
	return labels, targets
}

// Quarantined reports whether the object was made by Quarantine.
func (m *Meta) Quarantined() bool { return m.Annotations[QuarantineAnnotation] != "" }
