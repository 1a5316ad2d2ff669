package mesh

import (
	"strings"
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"
)

// The defaults of MeshConfig where Istio's differ or have no bound.
const (
	defaultDetection = 5 * time.Second  // Istio waits for ever
	defaultConnect   = 10 * time.Second // Istio's
)

// readSettings fills in the defaults of a MeshConfig; nil is an absent one.
func readSettings(o *Object) Settings {
	s := Settings{RootNamespace: DefaultRootNamespace, ProtocolDetectionTimeout: defaultDetection, AllowAny: true, AccessLog: true,
		ConnectTimeout: defaultConnect}
	c := configOf(o)
	if c == nil {
		return s
	}
	if ns := c.GetRootNamespace(); ns != "" {
		s.RootNamespace = ns
	}
	if d := c.GetProtocolDetectionTimeout().AsDuration(); d > 0 {
		s.ProtocolDetectionTimeout = d
	}
	if d := c.GetConnectTimeout().AsDuration(); d > 0 {
		s.ConnectTimeout = d
	}
	if p := c.GetOutboundTrafficPolicy(); p != nil {
		s.AllowAny = p.GetMode() == meshconfig.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY
	}
	if c.GetAccessLogFile() == "" && strings.Contains(o.Annotations[PresentAnnotation], "accessLogFile") {
		s.AccessLog = false
	}
	s.AccessLogJSON = c.GetAccessLogEncoding() == meshconfig.MeshConfig_JSON
	s.NumTrustedProxies = int(c.GetDefaultConfig().GetGatewayTopology().GetNumTrustedProxies())
	s.TrustDomainAliases = c.GetTrustDomainAliases()
	s.Providers = readProviders(c)
	switch c.GetPathNormalization().GetNormalization() {
	case meshconfig.MeshConfig_ProxyPathNormalization_NONE:
		s.Normalization = NoNormalization
	case meshconfig.MeshConfig_ProxyPathNormalization_BASE:
		s.Normalization = Base
	case meshconfig.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		s.Normalization = DecodeAndMergeSlashes
	default:
		s.Normalization = MergeSlashes
	}
	return s
}

// configOf is the MeshConfig of an object, nil if it has none.
func configOf(o *Object) *meshconfig.MeshConfig {
	if o == nil {
		return nil
	}
	c, _ := o.Spec.(*meshconfig.MeshConfig)
	return c
}
