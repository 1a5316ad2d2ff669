package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
)

// What proxyMetadata may hold. Istio hands it to the sidecar's environment; here each key is known by name.
const (
	metaDNS       = "ISTIO_META_DNS_CAPTURE" // "true", "false"
	MetaDiscovery = "SIGNET_DISCOVERY"       // "full": all of the mesh is sent, not only what is used
	metaShort     = "discovery"              // the same
)

// proxyConfigHonoured are the fields of ProxyConfig that are handed to the sidecar.
var proxyConfigHonoured = []string{"concurrency", "drainDuration", "terminationDrainDuration", "holdApplicationUntilProxyStarts",
	"proxyMetadata", "gatewayTopology"}

// proxyConfigRefused are fields that say whom a proxy trusts, where it goes or how it is captured.
var proxyConfigRefused = []string{"caCertificatesPem", "privateKeyProvider", "proxyHeaders", "connectionSettings", "controlPlaneAuthPolicy",
	"sds", "discoveryAddress", "customConfigFile", "proxyBootstrapTemplatePath", "configPath", "binaryPath", "serviceCluster",
	"tracingServiceName", "readinessProbe", "image", "runtimeValues"}

// readProxyConfig reads a ProxyConfig (YAML or JSON) over into, field by field as Istio merges. What only adds statistics or
// configures Envoy is dropped with a warning; what it does not know is refused.
func readProxyConfig(text []byte, into *meshconfig.ProxyConfig) (warnings []string, err error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	read := &meshconfig.ProxyConfig{}
	if err := (protojson.UnmarshalOptions{}).Unmarshal(raw, read); err != nil {
		return nil, fmt.Errorf("want fields of Istio's ProxyConfig: %s", protoMessage(err))
	}
	if warnings, err = judgeProxyConfig(read); err != nil {
		return nil, err
	}
	proto.Merge(into, read)
	return warnings, nil
}

// protoMessage is an error of protojson without its random spacing.
func protoMessage(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return strings.TrimPrefix(s, "proto: ")
}

// judgeProxyConfig clears what is dropped.
func judgeProxyConfig(c *meshconfig.ProxyConfig) (warnings []string, err error) {
	m := c.ProtoReflect()
	var drop []protoreflect.FieldDescriptor
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		switch name := f.JSONName(); {
		case slices.Contains(proxyConfigHonoured, name):
		case slices.Contains(proxyConfigRefused, name):
			err = fmt.Errorf("%s is not honoured: take it out", name)
		case name == "statusPort" && c.StatusPort == 15020, name == "proxyAdminPort" && c.ProxyAdminPort == 15000:
			drop = append(drop, f)
		case name == "statusPort" || name == "proxyAdminPort":
			err = fmt.Errorf("%s is not honoured: the ports are 15020 and 15000", name)
		case name == "interceptionMode" && c.InterceptionMode == meshconfig.ProxyConfig_REDIRECT:
			drop = append(drop, f)
		case name == "interceptionMode":
			err = fmt.Errorf("interceptionMode %q is not honoured: want REDIRECT", c.InterceptionMode)
		default:
			warnings = append(warnings, name+" is dropped: it configures Envoy")
			drop = append(drop, f)
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range drop {
		m.Clear(f)
	}
	slices.Sort(warnings)
	return judgeValues(c, warnings)
}

// judgeValues judges what is inside of the honoured fields.
func judgeValues(c *meshconfig.ProxyConfig, warnings []string) ([]string, error) {
	if n := c.Concurrency; n != nil && (n.Value < 0 || n.Value > 1024) {
		return nil, fmt.Errorf("concurrency %d: want 0 to 1024", n.Value)
	}
	for _, d := range []struct {
		name  string
		value interface {
			GetSeconds() int64
			IsValid() bool
		}
		set bool
	}{{"drainDuration", c.DrainDuration, c.DrainDuration != nil}, {"terminationDrainDuration", c.TerminationDrainDuration, c.TerminationDrainDuration != nil}} {
		if d.set && (!d.value.IsValid() || d.value.GetSeconds() < 0 || d.value.GetSeconds() > 86400) {
			return nil, fmt.Errorf("%s: want 0s to 24h", d.name)
		}
	}
	if t := c.GatewayTopology; t != nil && (t.ForwardClientCertDetails != 0 || t.ProxyProtocol != nil) {
		return nil, fmt.Errorf("gatewayTopology: only numTrustedProxies is honoured: take the others out")
	}
	return judgeMetadata(c, warnings)
}

func judgeMetadata(c *meshconfig.ProxyConfig, warnings []string) ([]string, error) {
	keys := make([]string, 0, len(c.ProxyMetadata))
	for k := range c.ProxyMetadata {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := c.ProxyMetadata[k]
		switch {
		case k == metaDNS && v != "true" && v != "false":
			return nil, fmt.Errorf("proxyMetadata[%s] is %q: want true or false", k, v)
		case (k == MetaDiscovery || k == metaShort) && v != "full" && v != "ondemand":
			return nil, fmt.Errorf("proxyMetadata[%s] is %q: want full or ondemand", k, v)
		case k == metaDNS, k == MetaDiscovery, k == metaShort:
		case strings.HasPrefix(k, "ISTIO_META_"), k == "MINIMUM_DRAIN_DURATION", k == "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", k == "BOOTSTRAP_XDS_AGENT":
			warnings = append(warnings, fmt.Sprintf("proxyMetadata[%s] is dropped: it configures Istio's agent", k))
			delete(c.ProxyMetadata, k)
		default:
			return nil, fmt.Errorf("proxyMetadata[%s] is not honoured: take it out", k)
		}
	}
	return warnings, nil
}

// proxyConfigJSON is the honoured fields, always in the same bytes for the same values.
func proxyConfigJSON(c *meshconfig.ProxyConfig) (string, error) {
	b, err := protojson.Marshal(c)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil { // protojson varies its blanks on purpose
		return "", err
	}
	return out.String(), nil
}
