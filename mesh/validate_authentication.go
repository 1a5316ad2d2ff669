package mesh

import (
	"fmt"
	"strings"

	meshconfig "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/identity"
)

func (j *judge) peerAuthentication(p *security.PeerAuthentication) {
	labels := p.GetSelector().GetMatchLabels()
	j.selectorLabels("selector.matchLabels", labels)
	if len(p.GetPortLevelMtls()) > 0 && len(labels) == 0 {
		j.refuse("portLevelMtls", "needs a selector: ports are a workload's")
	}
	for port := range p.GetPortLevelMtls() {
		j.port(peerField(port), port)
	}
}

func (j *judge) meshConfig(c *meshconfig.MeshConfig) {
	switch c.GetAccessLogFile() {
	case "", "/dev/stdout", "/dev/stderr":
	default:
		j.refuse("accessLogFile", "%q: want /dev/stdout, /dev/stderr or \"\" (none); it is written to standard error", clip(c.GetAccessLogFile()))
	}
	if t := c.GetProtocolDetectionTimeout(); t != nil && t.AsDuration() == 0 {
		j.warn("protocolDetectionTimeout", "0s means 5s here: no connection may wait for ever")
	}
	j.duration("protocolDetectionTimeout", c.GetProtocolDetectionTimeout(), true)
	j.duration("connectTimeout", c.GetConnectTimeout(), false)
	if m := c.GetOutboundTrafficPolicy(); m != nil && m.GetMode() != meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY &&
		m.GetMode() != meshconfig.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY {
		j.refuse("outboundTrafficPolicy.mode", "%s is not supported: want ALLOW_ANY or REGISTRY_ONLY", m.GetMode())
	}
	if v := c.GetEnableAutoMtls(); v != nil && !v.GetValue() {
		j.refuse("enableAutoMtls", "false is not supported: mTLS is chosen by each endpoint, switch it off by DestinationRule")
	}
	if ns := c.GetRootNamespace(); ns != "" {
		if err := checkLabel(ns); err != nil {
			j.refuse("rootNamespace", "%v", err)
		}
	}
	if td := c.GetTrustDomain(); td != "" && j.trustDomain != "" && td != j.trustDomain {
		j.refuse("trustDomain", "%q is not the trust domain in use, %q", clip(td), j.trustDomain)
	}
	for i, td := range c.GetTrustDomainAliases() {
		if _, err := identity.Parse("spiffe://" + td + "/x"); err != nil || strings.Contains(td, "/") {
			j.refuse(fmt.Sprintf("trustDomainAliases[%d]", i), "%q is no trust domain", clip(td))
		}
	}
	if n := c.GetDefaultConfig().GetGatewayTopology().GetNumTrustedProxies(); n > 100 {
		j.refuse("defaultConfig.gatewayTopology.numTrustedProxies", "%d is more than 100", n)
	}
	j.providers(c.GetExtensionProviders())
	j.exportDefault("defaultServiceExportTo", c.GetDefaultServiceExportTo())
	j.exportDefault("defaultVirtualServiceExportTo", c.GetDefaultVirtualServiceExportTo())
	j.exportDefault("defaultDestinationRuleExportTo", c.GetDefaultDestinationRuleExportTo())
}

// exportDefault takes only the default, visible everywhere.
func (j *judge) exportDefault(field string, values []string) {
	if len(values) > 1 || len(values) == 1 && values[0] != "*" {
		j.refuse(field, "only [\"*\"] is supported: write exportTo into each object")
	}
}
