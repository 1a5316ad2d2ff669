package mesh

import "strings"

func requestAuthenticationFields(path string) (fate, string) {
	switch path {
	case "selector", "selector.matchLabels", "jwtRules", "jwtRules.issuer", "jwtRules.audiences", "jwtRules.jwksUri",
		"jwtRules.jwks", "jwtRules.fromHeaders", "jwtRules.fromHeaders.name", "jwtRules.fromHeaders.prefix",
		"jwtRules.fromParams", "jwtRules.fromCookies", "jwtRules.outputPayloadToHeader", "jwtRules.forwardOriginalToken",
		"jwtRules.outputClaimToHeaders", "jwtRules.outputClaimToHeaders.header", "jwtRules.outputClaimToHeaders.claim",
		"jwtRules.timeout":
		return honoured, ""
	case "targetRef", "targetRefs":
		return refused, "is not honoured: sidecars are selected by selector.matchLabels"
	case "jwtRules.spaceDelimitedClaims":
		return refused, "is not honoured: the claims scope and permission are split at spaces, and no other"
	}
	return refused, ""
}

func regoPolicyFields(path string) (fate, string) {
	switch path {
	case "query", "module", "modules", "modules.name", "modules.source", "data", "timeout",
		"bundle", "bundle.url", "bundle.path", "bundle.caCertificates", "bundle.signing", "bundle.signing.keyId",
		"bundle.signing.algorithm", "bundle.signing.publicKey", "bundle.signing.scope", "bundle.polling",
		"bundle.polling.minDelay", "bundle.polling.maxDelay",
		"decisionLog", "decisionLog.url", "decisionLog.partition", "decisionLog.maskDecision", "decisionLog.minDelay",
		"decisionLog.maxDelay", "decisionLog.buffer", "decisionLog.caCertificates":
		return honoured, ""
	}
	return refused, ""
}

func rateLimitPolicyFields(path string) (fate, string) {
	switch path {
	case "selector", "selector.matchLabels", "targetRefs", "targetRefs.group", "targetRefs.kind", "targetRefs.name",
		"targetRefs.sectionName", "local", "global":
		return honoured, ""
	case "local.rules.onStoreFailure":
		return refused, "means nothing: local limits need no store"
	}
	rest, ok := strings.CutPrefix(path, "local.")
	if !ok {
		rest, ok = strings.CutPrefix(path, "global.")
	}
	if !ok {
		return refused, ""
	}
	switch rest {
	case "rules", "rules.limit", "rules.limit.requests", "rules.limit.unit", "rules.limit.burst", "rules.shadowMode",
		"rules.onStoreFailure", "rules.clientSelectors":
		return honoured, ""
	}
	switch strings.TrimPrefix(rest, "rules.clientSelectors.") {
	case "headers", "headers.name", "headers.type", "headers.value", "headers.invert", "methods", "methods.value", "methods.invert",
		"path", "path.type", "path.value", "path.invert", "sourceCIDR", "sourceCIDR.type", "sourceCIDR.value", "sourceCIDR.invert",
		"queryParams", "queryParams.name", "queryParams.type", "queryParams.value", "queryParams.invert",
		"identity", "identity.type", "identity.value", "identity.invert":
		return honoured, ""
	}
	return refused, ""
}

func controlSettingsFields(path string) (fate, string) {
	switch path {
	case "regoBuiltins", "rateLimitStore", "rateLimitStore.url", "rateLimitStore.username", "rateLimitStore.password",
		"rateLimitStore.caCertificates":
		return honoured, ""
	}
	return refused, ""
}

// extensionProviderFields judges what stands below extensionProviders.
func extensionProviderFields(path string) (fate, string) {
	switch path {
	case "name", "envoyExtAuthzHttp", "envoyExtAuthzGrpc":
		return honoured, ""
	case "sds":
		return refused, "is not honoured: certificates come from the mesh's CA alone"
	case "envoyExtAuthzHttp.includeRequestBodyInCheck.packAsBytes":
		return warned, "is dropped: over HTTP a body is what it is"
	case "envoyExtAuthzHttp.pathPrefix", "envoyExtAuthzHttp.includeHeadersInCheck", "envoyExtAuthzHttp.includeRequestHeadersInCheck",
		"envoyExtAuthzHttp.includeAdditionalHeadersInCheck", "envoyExtAuthzHttp.headersToUpstreamOnAllow",
		"envoyExtAuthzHttp.headersToDownstreamOnDeny", "envoyExtAuthzHttp.headersToDownstreamOnAllow":
		return honoured, ""
	}
	rest, ok := strings.CutPrefix(path, "envoyExtAuthzHttp.")
	if !ok {
		rest, ok = strings.CutPrefix(path, "envoyExtAuthzGrpc.")
	}
	switch {
	case !ok && !strings.Contains(path, ".") && tellingProvider(path):
		return warned, noTelemetryProvider
	case !ok:
		return refused, ""
	}
	switch rest {
	case "service", "port", "timeout", "failOpen", "statusOnError", "includeRequestBodyInCheck",
		"includeRequestBodyInCheck.maxRequestBytes", "includeRequestBodyInCheck.allowPartialMessage",
		"includeRequestBodyInCheck.packAsBytes":
		return honoured, ""
	case "clearRouteCache":
		return warned, "is dropped: a workload's own side has one route, whatever an authorizer changes"
	}
	return refused, ""
}

// noTelemetryProvider is why a provider of traces, metrics or logs does nothing.
const noTelemetryProvider = "is dropped: no tracing, metrics or access log provider is called"

// tellingProvider reports whether a provider only tells somebody what happened.
func tellingProvider(name string) bool {
	switch name {
	case "zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "opentelemetry", "prometheus",
		"envoyFileAccessLog", "envoyHttpAls", "envoyTcpAls", "envoyOtelAls":
		return true
	}
	return false
}
