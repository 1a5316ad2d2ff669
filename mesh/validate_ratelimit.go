package mesh

import (
	"fmt"
	"strings"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh/policy"
)

func (j *judge) rateLimitPolicy(p *policy.RateLimitPolicy) {
	j.selectorLabels("selector.matchLabels", p.GetSelector().GetMatchLabels())
	if p.GetSelector() != nil && len(p.GetTargetRefs()) > 0 {
		j.refuse("targetRefs", "and selector exclude each other")
	}
	j.targetRefs(p.GetTargetRefs())
	if j.object.Quarantined() {
		return // it refuses everything
	}
	if p.GetLocal() == nil && p.GetGlobal() == nil {
		j.refuse("local", "or global must hold at least one rule")
	}
	j.rateLimit("local", p.GetLocal())
	j.rateLimit("global", p.GetGlobal())
}

// targetRefs judges what a policy is attached to, by GEP-713: objects of its own namespace.
func (j *judge) targetRefs(refs []*policy.TargetRef) {
	j.atMost("targetRefs", len(refs), maxTargetRefs)
	seen := make(map[string]bool)
	for i, r := range refs {
		at := fmt.Sprintf("targetRefs[%d].", i)
		want := GroupNetworking
		switch r.GetKind() {
		case "Service":
			want = GroupCore
		case KindServiceEntry, KindWorkloadEntry, KindVirtualService:
		default:
			j.refuse(at+"kind", "%q: want Service, ServiceEntry, WorkloadEntry or VirtualService", clip(r.GetKind()))
			continue
		}
		if g := r.GetGroup(); g != want && (want != GroupCore || g != "core") {
			j.refuse(at+"group", "%q is not the group of %s, %q", clip(g), r.GetKind(), want)
		}
		if err := checkSubdomain(r.GetName()); err != nil {
			j.refuse(at+"name", "%v", err)
		}
		if r.GetSectionName() != "" {
			j.word(at+"sectionName", r.GetSectionName(), maxNameLength)
			if r.GetKind() != KindVirtualService {
				j.refuse(at+"sectionName", "names an http route, and only a VirtualService has them")
			}
		}
		name := r.GetKind() + "/" + r.GetName() + "/" + r.GetSectionName()
		if seen[name] {
			j.refuse(strings.TrimSuffix(at, "."), "is given twice")
		}
		seen[name] = true
	}
}

func (j *judge) rateLimit(f string, l *policy.RateLimit) {
	if l == nil {
		return
	}
	if len(l.GetRules()) == 0 {
		j.refuse(f+".rules", "must hold at least one rule")
	}
	if !j.atMost(f+".rules", len(l.GetRules()), MaxLimitRules) {
		return
	}
	for i, r := range l.GetRules() {
		at := fmt.Sprintf("%s.rules[%d].", f, i)
		j.limit(at+"limit", r.GetLimit())
		j.atMost(at+"clientSelectors", len(r.GetClientSelectors()), maxSelectors)
		for k, s := range r.GetClientSelectors() {
			j.clientSelector(fmt.Sprintf("%sclientSelectors[%d]", at, k), s)
		}
	}
}

func (j *judge) limit(f string, l *policy.Limit) {
	if l == nil {
		j.refuse(f, "must be set")
		return
	}
	switch l.GetUnit() {
	case policy.Limit_Second, policy.Limit_Minute, policy.Limit_Hour:
	case policy.Limit_Day, policy.Limit_Month:
		if l.Burst != nil {
			j.refuse(f+".burst", "is not for quotas: all requests of a %s may come at once", strings.ToLower(l.GetUnit().String()))
		}
	default:
		j.refuse(f+".unit", "must be one of Second, Minute, Hour, Day and Month")
	}
	switch {
	case l.Burst == nil:
	case l.GetRequests() == 0:
		j.refuse(f+".burst", "means nothing: 0 requests are allowed")
	case l.GetBurst() == 0:
		j.refuse(f+".burst", "must be at least 1, or nothing would ever pass")
	}
}

func (j *judge) clientSelector(f string, s *policy.ClientSelector) {
	n := len(s.GetHeaders()) + len(s.GetMethods()) + len(s.GetQueryParams())
	j.atMost(f+".headers", len(s.GetHeaders()), maxSelectorFields)
	j.atMost(f+".methods", len(s.GetMethods()), maxSelectorFields)
	j.atMost(f+".queryParams", len(s.GetQueryParams()), maxSelectorFields)
	for i, h := range s.GetHeaders() {
		at := fmt.Sprintf("%s.headers[%d]", f, i)
		if err := checkToken(h.GetName()); err != nil && h.GetName() != ":authority" {
			j.refuse(at+".name", "%v", err)
		}
		j.matchValue(at, h.GetType().String(), h.GetValue(), h.GetInvert(), j.plainValue)
	}
	for i, m := range s.GetMethods() {
		at := fmt.Sprintf("%s.methods[%d].value", f, i)
		if m.GetValue() == "" {
			j.refuse(at, "must be set")
		} else if why := deadMethod(literal{m.GetValue(), true, true}); why != "" || len(m.GetValue()) > 256 {
			j.refuse(at, "%q would never match: %s", clip(m.GetValue()), why)
		}
	}
	for i, q := range s.GetQueryParams() {
		at := fmt.Sprintf("%s.queryParams[%d]", f, i)
		if q.GetName() == "" || len(q.GetName()) > maxSelectorValue {
			j.refuse(at+".name", "must have 1 to %d bytes", maxSelectorValue)
		}
		j.matchValue(at, q.GetType().String(), q.GetValue(), q.GetInvert(), j.plainValue)
	}
	if p := s.GetPath(); p != nil {
		n++
		j.matchValue(f+".path", p.GetType().String(), p.GetValue(), p.GetInvert(), func(at, v string) { // a prefix is one of whole segments
			if why := deadPath(literal{v, true, true}); why != "" {
				j.refuse(at, "%q would never match: %s", clip(v), why)
			}
		})
	}
	if c := s.GetSourceCidr(); c != nil {
		n++
		kind := c.GetType().String()
		if kind == "Distinct" && c.GetValue() != "" { // each address of the block by itself, as in Envoy Gateway
			j.block(f+".sourceCIDR.value", c.GetValue())
			j.matchValue(f+".sourceCIDR", kind, "", c.GetInvert(), nil)
		} else {
			j.matchValue(f+".sourceCIDR", kind, c.GetValue(), c.GetInvert(), j.block)
		}
	}
	if id := s.GetIdentity(); id != nil {
		n++
		j.matchValue(f+".identity", id.GetType().String(), id.GetValue(), id.GetInvert(), func(at, v string) {
			if _, err := identity.Parse(v); err != nil {
				j.refuse(at, "%q would never match: want a SPIFFE ID such as spiffe://cluster.local/ns/default/sa/web", clip(v))
			}
		})
	}
	if n == 0 {
		j.refuse(f, "must say at least one thing: an empty selector would match everything")
	}
}

// matchValue judges the value of a match by the word of its type: none for Distinct, an expression, or what check wants.
func (j *judge) matchValue(f, kind, v string, invert bool, check func(field, v string)) {
	switch {
	case kind == "Distinct" && v != "":
		j.refuse(f+".value", "means nothing: type Distinct counts every value by itself")
	case kind == "Distinct" && invert:
		j.refuse(f+".invert", "means nothing: type Distinct matches every value")
	case kind == "Distinct":
	case v == "":
		j.refuse(f+".value", "must be set")
	case len(v) > maxSelectorValue:
		j.refuse(f+".value", "has %d bytes, more than %d", len(v), maxSelectorValue)
	case kind == "RegularExpression":
		j.regex(f+".value", v)
	default:
		check(f+".value", v)
	}
}

// plainValue takes every text that a field or a parameter can hold.
func (j *judge) plainValue(field, v string) { j.headerValue(field, v, true) }
