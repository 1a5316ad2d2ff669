package mesh

import "strings"

func meshConfigFields(path string) (fate, string) {
	switch path {
	case "accessLogFile", "accessLogEncoding", "pathNormalization", "pathNormalization.normalization", "protocolDetectionTimeout",
		"outboundTrafficPolicy", "outboundTrafficPolicy.mode", "rootNamespace", "trustDomain", "trustDomainAliases",
		"connectTimeout", "enableAutoMtls", "defaultServiceExportTo", "defaultVirtualServiceExportTo",
		"defaultDestinationRuleExportTo", "defaultConfig", "defaultConfig.gatewayTopology",
		"defaultConfig.gatewayTopology.numTrustedProxies", "extensionProviders":
		return honoured, ""
	case "accessLogFormat":
		return warned, "is dropped: the format is Istio's default one, as text or JSON"
	case "enableTracing", "defaultProviders", "enableEnvoyAccessLogService", "disableEnvoyListenerLog":
		return warned, noTelemetryProvider
	case "proxyListenPort", "proxyInboundListenPort", "proxyHttpPort":
		return warned, "is dropped: listeners are those of Sidecars"
	case "ingressClass", "ingressService", "ingressControllerMode", "ingressSelector":
		return warned, "is dropped: there is no ingress controller"
	case "inboundClusterStatName", "outboundClusterStatName", "enablePrometheusMerge":
		return warned, "is dropped: it names statistics of Envoy"
	case "tcpKeepalive", "hboneIdleTimeout", "dnsRefreshRate", "h2UpgradePolicy", "defaultTrafficPolicy":
		return warned, "is dropped: the proxy's own settings hold"
	case "localityLbSetting", "zoneAwareLbSetting":
		return warned, oneNetwork
	case "caCertificates", "ca", "certificates", "meshMTLS", "tlsDefaults", "verifyCertificateAtClient", "outboundTrafficPolicy.tls":
		return refused, "is not honoured: trust is what this mesh's CA says, TLS is 1.3 between sidecars"
	case "discoverySelectors", "serviceScopeConfigs", "serviceEntryVisibility", "serviceSettings":
		return refused, "is not honoured: limit what is seen by exportTo and Sidecar.egress"
	case "defaultHttpRetryPolicy":
		return refused, "is not honoured: write retries into each VirtualService"
	case "configSources":
		return refused, "is not honoured: the directory is the only source"
	case "defaultConfig.caCertificatesPem", "defaultConfig.privateKeyProvider", "defaultConfig.proxyHeaders",
		"defaultConfig.gatewayTopology.forwardClientCertDetails", "defaultConfig.gatewayTopology.proxyProtocol",
		"defaultConfig.connectionSettings", "defaultConfig.controlPlaneAuthPolicy", "defaultConfig.sds":
		return refused, "is not honoured: it says whom a proxy trusts or what it forwards"
	}
	if rest, ok := strings.CutPrefix(path, "extensionProviders."); ok {
		return extensionProviderFields(rest)
	}
	if strings.HasPrefix(path, "defaultConfig.") && strings.Count(path, ".") == 1 {
		return warned, "is dropped: it configures Envoy"
	}
	return refused, ""
}
