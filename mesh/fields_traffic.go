package mesh

import "strings"

func virtualServiceFields(path string) (fate, string) {
	switch {
	case path == "hosts", path == "gateways", path == "exportTo", path == "http", path == "tcp":
		return honoured, ""
	case path == "tls":
		return refused, "is not honoured: TLS is carried as TCP, route it by tcp[]"
	}
	if rest, ok := strings.CutPrefix(path, "http."); ok {
		return httpRouteFields(rest)
	}
	switch path {
	case "tcp.match", "tcp.match.port", "tcp.match.gateways", "tcp.route", "tcp.route.weight":
		return honoured, ""
	}
	if rest, ok := strings.CutPrefix(path, "tcp.route.destination"); ok {
		return destinationFields(rest)
	}
	return refused, ""
}

// destinationFields judges what stands below a destination; "" is the destination itself.
func destinationFields(rest string) (fate, string) {
	switch rest {
	case "", ".host", ".subset", ".port", ".port.number":
		return honoured, ""
	}
	return refused, ""
}

func httpRouteFields(path string) (fate, string) {
	switch path {
	case "name", "route", "route.weight", "timeout",
		"match", "match.name", "match.uri", "match.scheme", "match.method", "match.authority", "match.headers", "match.port",
		"match.sourceLabels", "match.gateways", "match.queryParams", "match.ignoreUriCase", "match.withoutHeaders",
		"match.sourceNamespace",
		"redirect", "redirect.uri", "redirect.authority", "redirect.port", "redirect.derivePort", "redirect.scheme",
		"redirect.redirectCode", "redirect.prefixRewrite",
		"directResponse", "directResponse.status", "directResponse.body", "directResponse.body.string", "directResponse.body.bytes",
		"rewrite", "rewrite.uri", "rewrite.authority", "rewrite.uriRegexRewrite", "rewrite.uriRegexRewrite.match",
		"rewrite.uriRegexRewrite.rewrite",
		"retries", "retries.attempts", "retries.perTryTimeout", "retries.retryOn", "retries.backoff":
		return honoured, ""
	case "match.statPrefix":
		return warned, "is dropped: there are no statistics by route"
	case "mirror", "mirrors", "mirrorPercent", "mirrorPercentage":
		return warned, "is dropped: requests are not mirrored"
	case "retries.retryRemoteLocalities":
		return warned, "is dropped: " + "there are no localities"
	case "retries.retryIgnorePreviousHosts":
		return warned, "is dropped: a retry prefers another endpoint wherever there is one"
	case "fault":
		return refused, "is not honoured: faults are not injected yet"
	case "delegate":
		return refused, "is not honoured: write the delegate's routes here"
	case "corsPolicy":
		return refused, "is not honoured: answer CORS in the program"
	}
	if rest, ok := strings.CutPrefix(path, "route.destination"); ok {
		return destinationFields(rest)
	}
	switch strings.TrimPrefix(path, "route.") {
	case "headers", "headers.request", "headers.request.set", "headers.request.add", "headers.request.remove",
		"headers.response", "headers.response.set", "headers.response.add", "headers.response.remove":
		return honoured, ""
	}
	return refused, ""
}

func destinationRuleFields(path string) (fate, string) {
	switch path {
	case "host", "exportTo", "subsets", "subsets.name", "subsets.labels":
		return honoured, ""
	case "workloadSelector":
		return refused, "is not honoured: limit a rule by exportTo or by its namespace"
	}
	path = strings.TrimPrefix(path, "subsets.")
	rest, ok := strings.CutPrefix(path, "trafficPolicy")
	if !ok {
		return refused, ""
	}
	switch rest {
	case "", ".portLevelSettings", ".portLevelSettings.port", ".portLevelSettings.port.number":
		return honoured, ""
	case ".tunnel":
		return refused, "is not honoured: requests are not tunnelled"
	case ".proxyProtocol":
		return refused, "is not honoured: the PROXY protocol is not spoken"
	case ".retryBudget":
		return warned, "is dropped: retries are limited by VirtualService.http.retries.attempts"
	}
	return trafficPolicyFields(strings.TrimPrefix(strings.TrimPrefix(rest, ".portLevelSettings"), "."))
}

// trafficPolicyFields judges what a traffic policy and the settings of one of its ports have in common.
func trafficPolicyFields(path string) (fate, string) {
	switch path {
	case "loadBalancer", "loadBalancer.simple", "connectionPool", "connectionPool.tcp", "connectionPool.tcp.connectTimeout",
		"tls", "tls.mode", "tls.subjectAltNames":
		return honoured, ""
	case "loadBalancer.consistentHash":
		return refused, "is not honoured: use LEAST_REQUEST, ROUND_ROBIN or RANDOM"
	case "loadBalancer.localityLbSetting", "loadBalancer.zoneAwareLbSetting":
		return warned, oneNetwork
	case "loadBalancer.warmup", "loadBalancer.warmupDurationSecs":
		return warned, "is dropped: new endpoints get their full share at once"
	case "outlierDetection":
		return warned, "is dropped: endpoints are not ejected yet"
	}
	switch {
	case strings.HasPrefix(path, "connectionPool."):
		return warned, "is dropped: the proxy's own limits hold"
	case strings.HasPrefix(path, "tls."):
		return refused, "is not honoured: the sidecar's own certificate and bundle are used, and no other"
	}
	return refused, ""
}
