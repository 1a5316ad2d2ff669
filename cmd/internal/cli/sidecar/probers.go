package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/signet-mesh/signet/cmd/internal/node"
)

// hookTimeout bounds a lifecycle hook. Hooks have no timeout of their own: kubelet waits for postStart as long as the pod is there, and
// for preStop as long as the grace period.
const hookTimeout = time.Hour

// portNumber is a port as JSON writes an IntOrString or an annotation: 80 or "80".
type portNumber uint16

// UnmarshalJSON implements json.Unmarshaler.
func (p *portNumber) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseUint(strings.Trim(string(b), `"`), 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %s: want a number from 1 to 65535", b)
	}
	*p = portNumber(n)
	return nil
}

// written is a probe in the form of Istio's ISTIO_KUBE_APP_PROBERS.
type written struct {
	HTTPGet *struct {
		Host, Path, Scheme string
		Port               portNumber
		HTTPHeaders        []struct{ Name, Value string }
	}
	TCPSocket *struct {
		Host string
		Port portNumber
	}
	GRPC *struct {
		Port    portNumber
		Service *string
	}
	TimeoutSeconds uint32
}

// parseProbes reads SIGNET_PROBERS, a JSON object of probes by path.
func parseProbes(text string) (map[string]node.Probe, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > maxEnvironment {
		return nil, fmt.Errorf("%d bytes: the limit is %d", len(text), maxEnvironment)
	}
	var all map[string]written
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("want a JSON object of probes: %w", err)
	}
	out := make(map[string]node.Probe, len(all))
	for path, w := range all {
		p, err := w.probe()
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		if strings.HasPrefix(path, "/app-lifecycle/") && w.TimeoutSeconds == 0 {
			p.Timeout = hookTimeout
		}
		out[path] = p
	}
	return out, nil
}

func (w *written) probe() (node.Probe, error) {
	p := node.Probe{Timeout: time.Duration(max(w.TimeoutSeconds, 1)) * time.Second}
	kinds := 0
	if h := w.HTTPGet; h != nil {
		kinds++
		p.HTTPGet = &node.HTTPProbe{Host: h.Host, Path: h.Path, Scheme: h.Scheme, Port: uint16(h.Port)}
		if !strings.HasPrefix(h.Path, "/") {
			p.HTTPGet.Path = "/" + h.Path
		}
		for _, kv := range h.HTTPHeaders {
			p.HTTPGet.Headers = append(p.HTTPGet.Headers, [2]string{kv.Name, kv.Value})
		}
	}
	if t := w.TCPSocket; t != nil {
		kinds++
		p.TCPSocket = &node.TCPProbe{Host: t.Host, Port: uint16(t.Port)}
	}
	if g := w.GRPC; g != nil {
		kinds++
		p.GRPC = &node.GRPCProbe{Port: uint16(g.Port)}
		if g.Service != nil {
			p.GRPC.Service = *g.Service
		}
	}
	if kinds != 1 {
		return p, errors.New("want exactly one of httpGet, tcpSocket and grpc")
	}
	return p, nil
}

// parseExporter reads SIGNET_PROMETHEUS: {"port", "path", "scheme"}.
func parseExporter(text string) (*node.Exporter, error) {
	if text == "" {
		return nil, nil
	}
	var w struct {
		Port         portNumber
		Path, Scheme string
	}
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, fmt.Errorf("want {\"port\", \"path\", \"scheme\"}: %w", err)
	}
	if w.Port == 0 {
		return nil, errors.New("its port is missing")
	}
	if w.Path == "" {
		w.Path = "/metrics"
	}
	if !strings.HasPrefix(w.Path, "/") {
		w.Path = "/" + w.Path
	}
	switch w.Scheme = strings.ToLower(w.Scheme); w.Scheme {
	case "":
		w.Scheme = "http"
	case "http", "https":
	default:
		return nil, fmt.Errorf("scheme %q: want http or https", w.Scheme)
	}
	return &node.Exporter{Scheme: w.Scheme, Path: w.Path, Port: uint16(w.Port)}, nil
}
