package mesh

import "fmt"

// made reports whether the control plane makes objects of the kind of Kubernetes' own: nobody writes them in a file for us.
func made(group, kind string) bool {
	return group == GroupCore && (kind == KindService || kind == KindPod)
}

// instead says, for a kind that is not read, what to use.
func instead(group, kind string) string {
	var hint string
	switch kind {
	case "EnvoyFilter":
		hint = "the proxy is not Envoy; routes, retries and headers go into VirtualService, access into AuthorizationPolicy"
	case "WasmPlugin", "TrafficExtension":
		hint = "the proxy runs no plugins; access decisions go into AuthorizationPolicy"
	case "Gateway":
		hint = "there is no gateway yet; a Sidecar's ingress listener accepts what comes from other workloads"
	case "Telemetry":
		hint = "metrics are always on and the access log is set by MeshConfig.accessLogFile and accessLogEncoding"
	case "ProxyConfig":
		hint = "what applies of it is read from MeshConfig.defaultConfig"
	case "WorkloadGroup":
		hint = "write one WorkloadEntry for each workload"
	case "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute", "GatewayClass", "ReferenceGrant", "BackendTLSPolicy":
		hint = "Gateway API is not read yet; use VirtualService and DestinationRule"
	case KindRegoPolicy, KindRateLimitPolicy:
		hint = "its apiVersion is " + GroupPolicy + "/" + VersionOf(GroupPolicy)
	case "BackendTrafficPolicy", "HTTPLocalRateLimitPolicy", "MeshRateLimit":
		hint = "rate limits are written as RateLimitPolicy of " + GroupPolicy + "/" + VersionOf(GroupPolicy)
	case "Deployment", "StatefulSet", "DaemonSet", "Pod", "ReplicaSet", "Job", "CronJob":
		hint = "programs are started by you (or by the Procfile); describe each as a WorkloadEntry"
	case "Service", "Endpoints", "EndpointSlice":
		hint = "use ServiceEntry with a workloadSelector"
	case "Namespace":
		hint = "namespaces need no object: an object's metadata.namespace is enough"
	case "ServiceAccount":
		hint = "service accounts need no object: WorkloadEntry.spec.serviceAccount is enough"
	case "Secret":
		hint = "certificates are issued by the CA and never read from objects"
	case "MeshConfig", "IstioOperator":
		hint = "MeshConfig is read from the ConfigMap istio in the root namespace, key mesh"
	case KindWorkloadEntry, KindServiceEntry, KindSidecar, KindVirtualService, KindDestinationRule:
		hint = "its apiVersion is " + GroupNetworking + "/v1"
	case KindAuthorizationPolicy, KindPeerAuthentication, KindRequestAuthentication:
		hint = "its apiVersion is " + GroupSecurity + "/v1"
	case KindConfigMap:
		hint = "its apiVersion is v1"
	default:
		hint = "the kinds that are read are WorkloadEntry, ServiceEntry, Sidecar, VirtualService, DestinationRule, AuthorizationPolicy, PeerAuthentication, RequestAuthentication, RegoPolicy, RateLimitPolicy and the ConfigMap istio"
	}
	if group == "" {
		group = "core"
	}
	return fmt.Sprintf("kind %s of %s is not supported: %s", clip(kind), clip(group), hint)
}
