package compile

import (
	"testing"

	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/signet-mesh/signet/mesh"
)

// A policy decoded anew is the same exactly if nothing differs that a translation reads.
func TestSameContent(t *testing.T) {
	base := parse(t, "shop", "p", `{action: CUSTOM, provider: {name: x}, rules: [
		{from: [{source: {principals: [a], notNamespaces: [b]}}], to: [{operation: {paths: [/c], notMethods: [GET]}}], when: [{key: source.ip, values: [10.0.0.1], notValues: [10.0.0.2]}]},
		{from: [{source: {requestPrincipals: ["*"]}}]}]}`)
	rule := func(s *security.AuthorizationPolicy) *security.Rule { return s.Rules[0] }
	for name, change := range map[string]func(s *security.AuthorizationPolicy){
		"action":   func(s *security.AuthorizationPolicy) { s.Action = security.AuthorizationPolicy_AUDIT },
		"provider": func(s *security.AuthorizationPolicy) { s.GetProvider().Name = "y" },
		"targetRef": func(s *security.AuthorizationPolicy) {
			s.TargetRef = &typev1beta1.PolicyTargetReference{Kind: "Service", Name: "x"}
		},
		"rules": func(s *security.AuthorizationPolicy) { s.Rules = s.Rules[:1] },
		"order": func(s *security.AuthorizationPolicy) { s.Rules[0], s.Rules[1] = s.Rules[1], s.Rules[0] },
		"from":  func(s *security.AuthorizationPolicy) { rule(s).From = nil },
		"to":    func(s *security.AuthorizationPolicy) { rule(s).To = append(rule(s).To, rule(s).To[0]) },
		"when":  func(s *security.AuthorizationPolicy) { rule(s).When = nil },
		"want":  func(s *security.AuthorizationPolicy) { rule(s).From[0].Source.Principals = []string{"z"} },
		"bad":   func(s *security.AuthorizationPolicy) { rule(s).From[0].Source.NotNamespaces = []string{"z"} },
		"member": func(s *security.AuthorizationPolicy) {
			o := rule(s).To[0].Operation
			o.Paths, o.Hosts = nil, o.Paths
		},
		"negation": func(s *security.AuthorizationPolicy) {
			o := rule(s).To[0].Operation
			o.NotMethods, o.Methods = nil, o.NotMethods
		},
		"key":       func(s *security.AuthorizationPolicy) { rule(s).When[0].Key = "remote.ip" },
		"values":    func(s *security.AuthorizationPolicy) { rule(s).When[0].Values = []string{"10.0.0.3"} },
		"notValues": func(s *security.AuthorizationPolicy) { rule(s).When[0].NotValues = nil },
	} {
		other := proto.CloneOf(base.Spec)
		if !sameSpec(other, base.Spec) {
			t.Fatal("a copy is another policy")
		}
		if change(other); sameSpec(other, base.Spec) {
			t.Errorf("%s changed, and the policy is taken for the same", name)
		}
	}
}

func TestSameAction(t *testing.T) {
	allow, deny := parse(t, "shop", "p", `{rules: [{}]}`), parse(t, "shop", "p", `{action: DENY, rules: [{}]}`)
	if sameSpec(deny.Spec, allow.Spec) || sameSpec(allow.Spec, deny.Spec) {
		t.Error("DENY is taken for ALLOW")
	}
}

func TestSameAnnotations(t *testing.T) {
	cache := NewCache()
	seen := func(annotations map[string]string) *translated {
		t.Helper()
		p := parse(t, "shop", "p", `{action: DENY, rules: [{}]}`)
		p.Annotations = annotations
		e, err := cache.compile([]*policy{p}, options)
		if err != nil {
			t.Fatal(err)
		}
		return append(e.judged[1], e.shadows...)[0]
	}
	plain := seen(nil)
	if seen(map[string]string{"other": "x", dryRun: "false"}) != plain {
		t.Error("an annotation that does not count makes another policy")
	}
	if p := seen(map[string]string{mesh.QuarantineAnnotation: "why"}); p == plain || p.quarantined != "why" {
		t.Errorf("a quarantine is taken for the policy: %+v", p)
	}
	if p := seen(map[string]string{mesh.QuarantineAnnotation: "why else"}); p.quarantined != "why else" {
		t.Errorf("the reason of a quarantine is an old one: %+v", p)
	}
	if p := seen(map[string]string{dryRun: "true"}); !p.dryRun {
		t.Errorf("a dry run is not seen: %+v", p)
	}
}
