package mesh

import (
	"fmt"
	"net/netip"
	"regexp"
	"sort"
	"strings"

	networking "istio.io/api/networking/v1"
)

func (j *judge) virtualService(v *networking.VirtualService) {
	if len(v.GetHosts()) == 0 {
		j.refuse("hosts", "must name at least one host")
	}
	for i, h := range v.GetHosts() {
		if _, err := netip.ParseAddr(h); err == nil {
			continue
		}
		if err := checkHost(h, true); err != nil {
			j.refuse(fmt.Sprintf("hosts[%d]", i), "%v", err)
		}
	}
	j.gateways("gateways", v.GetGateways())
	j.exportTo(v.GetExportTo())
	if len(v.GetHttp()) == 0 && len(v.GetTcp()) == 0 && len(v.GetTls()) == 0 {
		j.refuse("http", "or tcp must hold at least one route")
	}
	for i, r := range v.GetHttp() {
		j.httpRoute(fmt.Sprintf("http[%d].", i), r)
	}
	for i, r := range v.GetTcp() {
		f := fmt.Sprintf("tcp[%d].", i)
		for k, m := range r.GetMatch() {
			at := fmt.Sprintf("%smatch[%d].", f, k)
			j.gateways(at+"gateways", m.GetGateways())
			if m.GetPort() != 0 {
				j.port(at+"port", m.GetPort())
			}
		}
		if len(r.GetRoute()) == 0 {
			j.refuse(f+"route", "must name at least one destination")
		}
		weights := make([]int32, len(r.GetRoute()))
		for k, d := range r.GetRoute() {
			j.destination(fmt.Sprintf("%sroute[%d].destination", f, k), d.GetDestination())
			weights[k] = d.GetWeight()
		}
		j.weights(f+"route", weights)
	}
}

// gateways takes only the sidecars' own, mesh.
func (j *judge) gateways(field string, names []string) {
	for i, g := range names {
		if g != "mesh" {
			j.refuse(fmt.Sprintf("%s[%d]", field, i), "%q is not honoured: there are no gateways yet, only mesh", clip(g))
		}
	}
}

func (j *judge) destination(field string, d *networking.Destination) {
	if d == nil || d.GetHost() == "" {
		j.refuse(field+".host", "must be set")
		return
	}
	if err := checkHost(d.GetHost(), false); err != nil || strings.HasPrefix(d.GetHost(), "*") {
		j.refuse(field+".host", "%q is no host to send to", clip(d.GetHost()))
	}
	if d.GetPort() != nil {
		j.port(field+".port.number", d.GetPort().GetNumber())
	}
}

// weights judges the shares of several destinations: none negative, not all 0. One destination needs no weight.
func (j *judge) weights(field string, weights []int32) {
	var sum int64
	for i, w := range weights {
		if w < 0 {
			j.refuse(fmt.Sprintf("%s[%d].weight", field, i), "%d is negative", w)
		}
		sum += int64(w)
	}
	if len(weights) > 1 && sum == 0 {
		j.refuse(field, "the weights of several destinations must not all be 0")
	}
	if sum > 1<<31-1 {
		j.refuse(field, "the weights add up to %d, more than %d", sum, 1<<31-1)
	}
}

func (j *judge) httpRoute(f string, r *networking.HTTPRoute) {
	for i, m := range r.GetMatch() {
		j.httpMatch(fmt.Sprintf("%smatch[%d].", f, i), m)
	}
	ways := 0
	if len(r.GetRoute()) > 0 {
		ways++
	}
	if r.GetRedirect() != nil {
		ways++
		j.redirect(f+"redirect.", r.GetRedirect())
	}
	if r.GetDirectResponse() != nil {
		ways++
		j.directResponse(f+"directResponse.", r.GetDirectResponse())
	}
	if ways != 1 && r.GetDelegate() == nil {
		j.refuse(strings.TrimSuffix(f, "."), "must have exactly one of route, redirect and directResponse")
	}
	weights := make([]int32, len(r.GetRoute()))
	for i, d := range r.GetRoute() {
		at := fmt.Sprintf("%sroute[%d].", f, i)
		j.destination(at+"destination", d.GetDestination())
		j.headers(at+"headers", d.GetHeaders())
		weights[i] = d.GetWeight()
	}
	j.weights(f+"route", weights)
	if w := r.GetRewrite(); w != nil {
		j.rewrite(f+"rewrite.", r, w)
	}
	j.duration(f+"timeout", r.GetTimeout(), true)
	j.retries(f+"retries.", r.GetRetries())
	j.headers(f+"headers", r.GetHeaders())
}

func (j *judge) httpMatch(f string, m *networking.HTTPMatchRequest) {
	j.gateways(f+"gateways", m.GetGateways())
	if m.GetPort() != 0 {
		j.port(f+"port", m.GetPort())
	}
	j.stringMatch(f+"uri", m.GetUri(), false)
	j.stringMatch(f+"scheme", m.GetScheme(), false)
	j.stringMatch(f+"method", m.GetMethod(), false)
	j.stringMatch(f+"authority", m.GetAuthority(), false)
	j.matchMap(f+"headers", m.GetHeaders(), true)
	j.matchMap(f+"withoutHeaders", m.GetWithoutHeaders(), true)
	j.matchMap(f+"queryParams", m.GetQueryParams(), false)
	j.selectorLabels(f+"sourceLabels", m.GetSourceLabels())
	if ns := m.GetSourceNamespace(); ns != "" {
		if err := checkLabel(ns); err != nil {
			j.refuse(f+"sourceNamespace", "%v", err)
		}
	}
}

func (j *judge) matchMap(f string, m map[string]*networking.StringMatch, header bool) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		at := fmt.Sprintf("%s[%s]", f, name)
		if header {
			if err := checkToken(name); err != nil {
				j.refuse(at, "%v", err)
			}
		} else if name == "" {
			j.refuse(at, "a query parameter must have a name")
		}
		j.stringMatch(at, m[name], true)
	}
}

// stringMatch judges exact, prefix and regex; an empty one means presence, where presence is allowed.
func (j *judge) stringMatch(f string, m *networking.StringMatch, presence bool) {
	if m == nil {
		return
	}
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
	case *networking.StringMatch_Prefix:
		if t.Prefix == "" {
			j.refuse(f+".prefix", "must not be empty: it would match everything")
		}
	case *networking.StringMatch_Regex:
		j.regex(f+".regex", t.Regex)
	default:
		if !presence {
			j.refuse(f, "must have one of exact, prefix and regex")
		}
	}
}

func (j *judge) regex(f, expr string) {
	if expr == "" || len(expr) > MaxRegexBytes {
		j.refuse(f, "must have 1 to %d bytes", MaxRegexBytes)
	} else if _, err := regexp.Compile(expr); err != nil {
		j.refuse(f, "%q is no RE2 expression: %v", clip(expr), err)
	}
}
