package source

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// protocol is what a port of a Service declares: appProtocol, else the part of its name before the first hyphen, as Istio
// reads them; "" where neither is known, so that the first bytes of a connection decide.
// https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/
func protocol(p *corev1.ServicePort) string {
	if p.AppProtocol != nil {
		return byAppProtocol(*p.AppProtocol)
	}
	name := strings.ToLower(p.Name)
	if declared := byWord(name); declared != "" { // grpc-web has a hyphen of its own
		return declared
	}
	if strings.HasPrefix(name, "grpc-web") {
		return "GRPC-WEB"
	}
	word, _, _ := strings.Cut(name, "-")
	if declared := byWord(word); declared != "" {
		return declared
	}
	switch p.Port {
	case 25, 53, 3306, 27017: // Istio's list of ports whose servers may speak first
		return "TCP"
	}
	return ""
}

// byAppProtocol reads Kubernetes' standard names (KEP-3726), IANA's of web sockets, and the plain ones.
func byAppProtocol(s string) string {
	switch word := strings.ToLower(s); word {
	case "kubernetes.io/h2c":
		return "HTTP2"
	case "kubernetes.io/ws":
		return "HTTP"
	case "kubernetes.io/wss":
		return "HTTPS"
	default:
		return byWord(word)
	}
}

func byWord(word string) string {
	switch word {
	case "http", "http2", "https", "grpc", "tcp", "tls", "mongo", "mysql", "redis":
		return strings.ToUpper(word)
	case "grpc-web":
		return "GRPC-WEB"
	}
	return ""
}
