package mesh

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/signet-mesh/signet/mesh/policy"
)

func (j *judge) regoPolicy(p *policy.RegoPolicy) {
	if j.object.Quarantined() {
		return // it has nothing that could decide
	}
	j.reference("query", p.GetQuery())
	j.regoSource(p)
	if p.GetData() != nil {
		if p.GetBundle() != nil {
			j.refuse("data", "and bundle exclude each other: a bundle brings its own data")
		}
		if n := proto.Size(p.GetData()); n > MaxDataBytes {
			j.refuse("data", "has %d bytes, more than %d", n, MaxDataBytes)
		}
		j.freeStruct("data", p.GetData(), 1)
	}
	j.between("timeout", p.GetTimeout(), 1e6, MaxRegoTimeout)
	if p.GetBundle() != nil {
		j.regoBundle(p.GetBundle())
	}
	if p.GetDecisionLog() != nil {
		j.decisionLog(p.GetDecisionLog())
	}
}

// reference judges a reference to a rule in a package: data.menu.decision.
func (j *judge) reference(field, v string) {
	parts := strings.Split(v, ".")
	good := len(v) <= maxWordBytes && len(parts) >= 3 && parts[0] == "data"
	for _, p := range parts {
		good = good && p != "" && !decimal(p[:1]) && !strings.ContainsFunc(p, func(r rune) bool { return r > 0x7f || !alphanumeric(byte(r)) && r != '_' })
	}
	if !good {
		j.refuse(field, "%q: want the reference of a rule, data.PACKAGE.RULE", clip(v))
	}
}

// regoSource judges where the policy comes from: exactly one of module, modules and bundle.
func (j *judge) regoSource(p *policy.RegoPolicy) {
	ways := 0
	for _, set := range []bool{p.GetModule() != "", len(p.GetModules()) > 0, p.GetBundle() != nil} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		j.refuse("module", "modules and bundle: want exactly one of them, found %d", ways)
	}
	j.moduleText("module", p.GetModule(), true)
	if !j.atMost("modules", len(p.GetModules()), MaxModules) {
		return
	}
	total, seen := 0, make(map[string]bool)
	for i, m := range p.GetModules() {
		at := fmt.Sprintf("modules[%d].", i)
		j.word(at+"name", m.GetName(), maxNameLength)
		if seen[m.GetName()] {
			j.refuse(at+"name", "%q is given twice", clip(m.GetName()))
		}
		seen[m.GetName()] = true
		j.moduleText(at+"source", m.GetSource(), false)
		total += len(m.GetSource())
	}
	if total > MaxModulesBytes {
		j.refuse("modules", "have %d bytes together, more than %d", total, MaxModulesBytes)
	}
}

func (j *judge) moduleText(field, text string, none bool) {
	if len(text) > MaxModuleBytes {
		j.refuse(field, "has %d bytes, more than %d", len(text), MaxModuleBytes)
	} else if strings.TrimSpace(text) == "" && (!none || text != "") {
		j.refuse(field, "must hold a module of Rego")
	}
}

// freeStruct refuses what is no JSON, which only the wire could bring, and what is nested too deep.
func (j *judge) freeStruct(field string, s *structpb.Struct, depth int) {
	if depth > MaxDataDepth {
		j.refuse(field, "is nested deeper than %d", MaxDataDepth)
		return
	}
	for k, v := range s.GetFields() {
		j.freeValue(join(field, clip(k)), v, depth+1)
	}
}

func (j *judge) freeValue(field string, v *structpb.Value, depth int) {
	switch k := v.GetKind().(type) {
	case nil:
		j.refuse(field, "has no value")
	case *structpb.Value_NumberValue:
		if math.IsNaN(k.NumberValue) || math.IsInf(k.NumberValue, 0) {
			j.refuse(field, "%v is no number as JSON writes one", k.NumberValue)
		}
	case *structpb.Value_StructValue:
		j.freeStruct(field, k.StructValue, depth)
	case *structpb.Value_ListValue:
		if depth > MaxDataDepth {
			j.refuse(field, "is nested deeper than %d", MaxDataDepth)
			return
		}
		for i, item := range k.ListValue.GetValues() {
			j.freeValue(fmt.Sprintf("%s[%d]", field, i), item, depth+1)
		}
	}
}

// resource reports whether a path may be added to the URL of a service as it is: no query, no dot segments.
func resource(p string) bool {
	if p == "" || len(p) > maxWordBytes || strings.Contains("/"+p+"/", "/../") || strings.Contains("/"+p+"/", "/./") {
		return false
	}
	return !strings.ContainsFunc(p, func(r rune) bool { return r > 0x7f || !unreserved(byte(r)) && r != '/' })
}

func (j *judge) regoBundle(b *policy.RegoBundle) {
	from := j.service("bundle.url", b.GetUrl())
	if !resource(b.GetPath()) {
		j.refuse("bundle.path", "%q: want the path of the bundle below url, such as bundles/shop.tar.gz", clip(b.GetPath()))
	}
	if plaintext(from) && b.GetSigning() == nil {
		j.warn("bundle.url", "a bundle that is fetched without TLS and not signed can be replaced by anybody on the way")
	}
	j.certificates("bundle.caCertificates", b.GetCaCertificates())
	if b.GetPolling() != nil {
		j.delays("bundle.polling.", b.GetPolling().GetMinDelay(), b.GetPolling().GetMaxDelay())
	}
	s := b.GetSigning()
	if s == nil {
		return
	}
	switch s.GetAlgorithm() {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512":
	default:
		j.refuse("bundle.signing.algorithm", "%q: want RS, PS or ES with 256, 384 or 512", clip(s.GetAlgorithm()))
	}
	if err := publicKey(s.GetPublicKey()); err != nil {
		j.refuse("bundle.signing.publicKey", "%v", err)
	}
	for field, v := range map[string]string{"keyId": s.GetKeyId(), "scope": s.GetScope()} {
		if v != "" {
			j.word("bundle.signing."+field, v, maxWordBytes)
		}
	}
}

// publicKey judges one PEM public key.
func publicKey(text string) error {
	if len(text) > MaxPEMBytes {
		return fmt.Errorf("has %d bytes, more than %d", len(text), MaxPEMBytes)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return fmt.Errorf("want one PEM block PUBLIC KEY")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return fmt.Errorf("can't be read: %w", err)
	}
	return nil
}

func (j *judge) decisionLog(l *policy.DecisionLog) {
	if plaintext(j.service("decisionLog.url", l.GetUrl())) {
		j.warn("decisionLog.url", "decisions that are sent without TLS can be read by anybody on the way")
	}
	if p := l.GetPartition(); p != "" && !resource(p) {
		j.refuse("decisionLog.partition", "%q: want a path of letters, digits, -, ., _, ~ and /", clip(p))
	}
	if l.GetMaskDecision() != "" {
		j.reference("decisionLog.maskDecision", l.GetMaskDecision())
	}
	if l.GetBuffer() > maxDecisions {
		j.refuse("decisionLog.buffer", "%d is more than %d", l.GetBuffer(), maxDecisions)
	}
	j.delays("decisionLog.", l.GetMinDelay(), l.GetMaxDelay())
	j.certificates("decisionLog.caCertificates", l.GetCaCertificates())
}
