package mesh

import "strings"

const (
	oneNetwork = "is dropped: there is one network and no locality-aware balancing yet"
)

func workloadEntryFields(path string) (fate, string) {
	switch path {
	case "address", "ports", "labels", "weight", "serviceAccount":
		return honoured, ""
	case "network", "locality":
		return warned, oneNetwork
	}
	return refused, ""
}

func serviceEntryFields(path string) (fate, string) {
	if rest, ok := strings.CutPrefix(path, "endpoints."); ok {
		return workloadEntryFields(rest)
	}
	switch path {
	case "hosts", "ports", "ports.number", "ports.protocol", "ports.name", "ports.targetPort", "location", "resolution",
		"endpoints", "addresses", "workloadSelector", "workloadSelector.labels", "exportTo", "subjectAltNames":
		return honoured, ""
	}
	return refused, ""
}

func sidecarFields(path string) (fate, string) {
	switch path {
	case "workloadSelector", "workloadSelector.labels",
		"ingress", "ingress.port", "ingress.port.number", "ingress.port.protocol", "ingress.port.name", "ingress.bind",
		"ingress.captureMode", "ingress.defaultEndpoint",
		"egress", "egress.port", "egress.port.number", "egress.port.protocol", "egress.port.name", "egress.bind",
		"egress.captureMode", "egress.hosts",
		"outboundTrafficPolicy", "outboundTrafficPolicy.mode":
		return honoured, ""
	case "ingress.port.targetPort", "egress.port.targetPort":
		return refused, "is not honoured: defaultEndpoint names the program's port"
	case "ingress.tls":
		return refused, "is not honoured: what an ingress listener accepts is said by PeerAuthentication"
	case "ingress.connectionPool", "inboundConnectionPool":
		return refused, "is not honoured: inbound connections are limited by the proxy's own limits"
	case "outboundTrafficPolicy.egressProxy":
		return refused, "is not honoured: name the egress proxy in the programs, or route to it by a VirtualService"
	}
	return refused, ""
}

func peerAuthenticationFields(path string) (fate, string) {
	switch path {
	case "selector", "selector.matchLabels", "mtls", "mtls.mode", "portLevelMtls", "portLevelMtls.mode":
		return honoured, ""
	}
	return refused, ""
}

func authorizationPolicyFields(path string) (fate, string) {
	switch path {
	case "selector", "selector.matchLabels", "rules", "action", "rules.from", "rules.from.source", "rules.to",
		"rules.to.operation", "rules.when", "rules.when.key", "rules.when.values", "rules.when.notValues",
		"provider", "provider.name":
		return honoured, ""
	case "targetRef", "targetRefs":
		return refused, "is not honoured: sidecars are selected by selector.matchLabels"
	}
	if field, ok := strings.CutPrefix(path, "rules.from.source."); ok {
		switch field {
		case "principals", "notPrincipals", "namespaces", "notNamespaces", "serviceAccounts", "notServiceAccounts", "ipBlocks",
			"notIpBlocks", "trustDomains", "notTrustDomains", "requestPrincipals", "notRequestPrincipals":
			return honoured, ""
		case "remoteIpBlocks", "notRemoteIpBlocks":
			return honoured, "warned of: " + remoteMeans
		}
	}
	switch strings.TrimPrefix(path, "rules.to.operation.") {
	case "hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths":
		return honoured, ""
	}
	return refused, ""
}
