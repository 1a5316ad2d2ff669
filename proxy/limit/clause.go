package limit

import (
	"fmt"
	"net/netip"
	"net/url"
	slashpath "path"
	"regexp"
	"strconv"
	"strings"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
)

// compileSelector reads one entry of clientSelectors; one without conditions matches everything.
func compileSelector(s *policy.ClientSelector, at string) ([]clause, error) {
	var out []clause
	add := func(k clause, err error) error {
		out = append(out, k)
		return err
	}
	for i, h := range s.GetHeaders() {
		if err := add(compileHeader(h, at+".headers["+strconv.Itoa(i)+"]")); err != nil {
			return nil, err
		}
	}
	if len(s.GetMethods()) > 0 {
		if err := add(compileMethods(s.GetMethods(), at+".methods")); err != nil {
			return nil, err
		}
	}
	if s.GetPath() != nil {
		if err := add(compilePath(s.GetPath(), at+".path")); err != nil {
			return nil, err
		}
	}
	if s.GetSourceCidr() != nil {
		if err := add(compileSource(s.GetSourceCidr(), at+".sourceCIDR")); err != nil {
			return nil, err
		}
	}
	for i, q := range s.GetQueryParams() {
		if err := add(compileQuery(q, at+".queryParams["+strconv.Itoa(i)+"]")); err != nil {
			return nil, err
		}
	}
	if s.GetIdentity() != nil {
		if err := add(compileIdentity(s.GetIdentity(), at+".identity")); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// plainDistinct wants a Distinct match to say nothing else.
func plainDistinct(value string, invert bool, at string) error {
	switch {
	case value != "":
		return wrong(at+".value", "%q: a Distinct match has no value", value)
	case invert:
		return wrong(at+".invert", "a Distinct match can't be inverted")
	}
	return nil
}

// compileExpression reads a regular expression (RE2) that must match the whole value.
func compileExpression(text, at string) (*regexp.Regexp, error) {
	if len(text) > mesh.MaxRegexBytes {
		return nil, wrong(at+".value", "has %d bytes; a regular expression may have %d", len(text), mesh.MaxRegexBytes)
	}
	if _, err := regexp.Compile(text); err != nil {
		return nil, wrong(at+".value", "%q: %v", text, err)
	}
	re, err := regexp.Compile(`\A(?:` + text + `)\z`)
	if err != nil {
		return nil, wrong(at+".value", "%q: %v", text, err)
	}
	return re, nil
}

func compileHeader(h *policy.HeaderMatch, at string) (clause, error) {
	k := clause{attribute: byHeader, invert: h.GetInvert(), text: h.GetValue(), field: at}
	var err error
	if k.name, err = headerName(h.GetName()); err != nil {
		return k, wrong(at+".name", "%v", err)
	}
	switch h.GetType() {
	case policy.HeaderMatch_Type_Unset, policy.HeaderMatch_Exact:
		if k.name == authorityHeader {
			k.text = plainHost(k.text)
		}
	case policy.HeaderMatch_RegularExpression:
		k.expression, err = compileExpression(h.GetValue(), at)
	case policy.HeaderMatch_Distinct:
		k.distinct, err = true, plainDistinct(h.GetValue(), h.GetInvert(), at)
	default:
		err = wrong(at+".type", "%v is not supported", h.GetType())
	}
	return k, err
}

// headerName is a name as requests are asked for it. What never reaches a policy as a header is refused: framing and
// hop-by-hop fields, and pseudo-headers that have selectors of their own.
func headerName(name string) (string, error) {
	switch name = strings.ToLower(name); name {
	case "":
		return "", fmt.Errorf("names no header")
	case "host", authorityHeader:
		return authorityHeader, nil
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
		"transfer-encoding", "upgrade", "content-length", "expect":
		return "", fmt.Errorf("%q belongs to the connection or the framing", name)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return "", fmt.Errorf("%q is not the name of a header", name)
		}
	}
	return name, nil
}

func compileMethods(list []*policy.MethodMatch, at string) (clause, error) {
	k := clause{attribute: byMethod, field: at}
	for i, m := range list {
		if m.GetValue() == "" {
			return k, wrong(at+"["+strconv.Itoa(i)+"].value", "is empty")
		}
		k.methods = append(k.methods, methodMatch{m.GetValue(), m.GetInvert()})
	}
	return k, nil
}

func compilePath(p *policy.PathMatch, at string) (clause, error) {
	k := clause{attribute: byPath, invert: p.GetInvert(), text: p.GetValue(), field: at}
	switch p.GetType() {
	case policy.PathMatch_RegularExpression:
		var err error
		k.expression, err = compileExpression(p.GetValue(), at)
		return k, err
	case policy.PathMatch_Type_Unset, policy.PathMatch_PathPrefix:
		k.prefix = true
		if k.text == "" {
			k.text = "/"
		}
	case policy.PathMatch_Exact:
	default:
		return k, wrong(at+".type", "%v is not supported", p.GetType())
	}
	if !strings.HasPrefix(k.text, "/") {
		return k, wrong(at+".value", "%q must begin with '/'", k.text)
	}
	k.decoded = decodedPath(k.text)
	if k.prefix {
		k.text, k.decoded = strings.TrimSuffix(k.text, "/"), strings.TrimSuffix(k.decoded, "/")
	}
	return k, nil
}

// decodedPath is a path as the decoded reading of a request has it: every escape decoded once, '\' is '/', slashes merged
// and dot segments resolved.
func decodedPath(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		s = plain
	}
	s = strings.ReplaceAll(s, `\`, "/")
	out := slashpath.Clean(s)
	if out != "/" && strings.HasSuffix(s, "/") {
		out += "/"
	}
	return out
}

func compileSource(s *policy.SourceMatch, at string) (clause, error) {
	k := clause{attribute: bySource, invert: s.GetInvert(), field: at}
	switch s.GetType() {
	case policy.SourceMatch_Type_Unset, policy.SourceMatch_Exact:
	case policy.SourceMatch_Distinct:
		k.distinct = true
		if k.invert {
			return k, wrong(at+".invert", "a Distinct match can't be inverted")
		}
		if s.GetValue() == "" {
			return k, nil
		}
	default:
		return k, wrong(at+".type", "%v is not supported", s.GetType())
	}
	var ok bool
	if k.network, ok = parseNetwork(s.GetValue()); !ok {
		return k, wrong(at+".value", "%q is not an IP address or CIDR block", s.GetValue())
	}
	return k, nil
}

func parseNetwork(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if a := n.Addr(); a.Is4In6() {
		if n.Bits() < 96 {
			return netip.Prefix{}, false
		}
		n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
	}
	return n.Masked(), true
}

func compileQuery(q *policy.QueryParamMatch, at string) (clause, error) {
	k := clause{attribute: byQuery, name: q.GetName(), invert: q.GetInvert(), text: q.GetValue(), field: at}
	if k.name == "" {
		return k, wrong(at+".name", "is empty")
	}
	var err error
	switch q.GetType() {
	case policy.QueryParamMatch_Type_Unset, policy.QueryParamMatch_Exact:
	case policy.QueryParamMatch_RegularExpression:
		k.expression, err = compileExpression(q.GetValue(), at)
	case policy.QueryParamMatch_Distinct:
		k.distinct, err = true, plainDistinct(q.GetValue(), q.GetInvert(), at)
	default:
		err = wrong(at+".type", "%v is not supported", q.GetType())
	}
	return k, err
}

func compileIdentity(m *policy.IdentityMatch, at string) (clause, error) {
	k := clause{attribute: byIdentity, invert: m.GetInvert(), field: at}
	var err error
	switch m.GetType() {
	case policy.IdentityMatch_Type_Unset, policy.IdentityMatch_Exact:
		if k.id, err = identity.Parse(m.GetValue()); err != nil {
			err = wrong(at+".value", "%w", err)
		}
	case policy.IdentityMatch_Distinct:
		k.distinct, err = true, plainDistinct(m.GetValue(), m.GetInvert(), at)
	default:
		err = wrong(at+".type", "%v is not supported", m.GetType())
	}
	return k, err
}
