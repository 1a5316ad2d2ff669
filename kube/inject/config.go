// Package inject gives a pod its sidecar. It is pure, but for words of chance in the paths of lifecycle hooks: the webhook and
// `signet inject` are this same code, so that both give the same pod.
package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/proxy/capture"
)

// ConfigKey is the key of the ConfigMap ConfigMapName (in the system namespace) that holds a Config as YAML.
const (
	ConfigMapName = "signet"
	ConfigKey     = "injection"
)

// minHookKey is the shortest hookKey, in bytes.
const minHookKey = 16

// MaxConfigBytes is the longest text that ParseConfig reads.
const MaxConfigBytes = 256 << 10

// Config says what is injected. `signet install` and the chart write it as YAML into the ConfigMap signet, key injection, of the
// system namespace; the control plane follows it. An unknown key refuses the whole text. Every key may be left out:
//
//	hub: registry.local/signet          # images are HUB/proxy:TAG
//	tag: "0.5.0"
//	image: ""                           # the sidecar's image as a whole, instead of hub and tag
//	captureImage: ""                    # the init container's; empty: the sidecar's
//	imagePullPolicy: IfNotPresent       # empty: what Kubernetes does
//	imagePullSecrets: [name]            # added to pods
//	revision: signet                    # what istio.io/rev must say
//	defaultRevision: true               # also takes istio-injection=enabled and sidecar.istio.io/inject=true (false beside an Istio)
//	systemNamespace: signet-system
//	ignoredNamespaces: []               # beside kube-system, kube-public, kube-node-lease, local-path-storage and systemNamespace
//	controlAddress: ""                  # empty: signetd.SYSTEM-NAMESPACE.svc:15012
//	trustDomain: cluster.local
//	clusterDomain: cluster.local
//	bundleConfigMap: signet-ca-root-cert
//	native: true                        # native sidecars (Kubernetes 1.29); false: ordinary containers; left out: by the API server's version
//	dns: false                          # capture DNS
//	logLevel: info                      # debug, info, warn, error
//	rewriteProbes: true                 # kubelet's probes go through the sidecar
//	hookKey: ""                         # a secret by which signet inject gives the same file the same words for its hooks' paths; empty: made of the cluster, offline of chance
//	mergePrometheus: true               # prometheus.io/* annotations point to the sidecar, which merges the program's metrics
//	resources:                          # of the sidecar and of the init container
//	  requests: {cpu: 10m, memory: 48Mi}
//	  limits: {memory: 512Mi}
//	capture:                            # where a pod's annotation traffic.sidecar.istio.io/* of that name is absent
//	  includeOutboundPorts: ""
//	  excludeOutboundPorts: ""
//	  includeOutboundIPRanges: "*"
//	  excludeOutboundIPRanges: ""
//	  includeInboundPorts: "*"
//	  excludeInboundPorts: ""
//	proxyConfig: {}                     # Istio's ProxyConfig (MeshConfig.defaultConfig), honoured fields only
//
// A Config is immutable once it is in use.
type Config struct {
	Hub               string                      `json:"hub,omitempty"`
	Tag               string                      `json:"tag,omitempty"`
	Image             string                      `json:"image,omitempty"`
	CaptureImage      string                      `json:"captureImage,omitempty"`
	ImagePullPolicy   corev1.PullPolicy           `json:"imagePullPolicy,omitempty"`
	ImagePullSecrets  []string                    `json:"imagePullSecrets,omitempty"`
	Revision          string                      `json:"revision,omitempty"`
	DefaultRevision   bool                        `json:"defaultRevision"`
	SystemNamespace   string                      `json:"systemNamespace,omitempty"`
	IgnoredNamespaces []string                    `json:"ignoredNamespaces,omitempty"`
	ControlAddress    string                      `json:"controlAddress,omitempty"`
	TrustDomain       string                      `json:"trustDomain,omitempty"`
	ClusterDomain     string                      `json:"clusterDomain,omitempty"`
	BundleConfigMap   string                      `json:"bundleConfigMap,omitempty"`
	Native            *bool                       `json:"native,omitempty"`
	DNS               bool                        `json:"dns,omitempty"`
	LogLevel          string                      `json:"logLevel,omitempty"`
	RewriteProbes     bool                        `json:"rewriteProbes"`
	HookKey           string                      `json:"hookKey,omitempty"`
	MergePrometheus   bool                        `json:"mergePrometheus"`
	Resources         corev1.ResourceRequirements `json:"resources"`
	Capture           Capture                     `json:"capture"`
	// ProxyConfig is Istio's, as JSON; read is what was understood of it.
	ProxyConfig json.RawMessage `json:"proxyConfig,omitempty"`

	read *meshconfig.ProxyConfig
}

// Capture is which of a pod's traffic is led through its sidecar: comma lists in Istio's form. A nil list is not said.
type Capture struct {
	IncludeOutboundPorts    *string `json:"includeOutboundPorts,omitempty"`
	ExcludeOutboundPorts    *string `json:"excludeOutboundPorts,omitempty"`
	IncludeOutboundIPRanges *string `json:"includeOutboundIPRanges,omitempty"`
	ExcludeOutboundIPRanges *string `json:"excludeOutboundIPRanges,omitempty"`
	IncludeInboundPorts     *string `json:"includeInboundPorts,omitempty"`
	ExcludeInboundPorts     *string `json:"excludeInboundPorts,omitempty"`
}

// DefaultHub and DefaultTag are those of images built by `make images`.
const (
	DefaultHub = "registry.local/signet"
	DefaultTag = "0.5.0"
)

// DefaultConfig is what holds for keys that are left out.
func DefaultConfig() *Config {
	return &Config{
		Hub: DefaultHub, Tag: DefaultTag, Revision: kube.DefaultRevision, DefaultRevision: true,
		SystemNamespace: kube.SystemNamespace, TrustDomain: "cluster.local", ClusterDomain: "cluster.local",
		BundleConfigMap: kube.BundleConfigMap, LogLevel: "info", RewriteProbes: true, MergePrometheus: true,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("48Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
		},
		read: &meshconfig.ProxyConfig{},
	}
}

// ParseConfig reads a Config strictly: an unknown or doubled key, or a value that no pod could carry, is an error that names it.
// Empty text is DefaultConfig.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > MaxConfigBytes {
		return nil, fmt.Errorf("reading the injection settings: %d bytes, more than %d", len(data), MaxConfigBytes)
	}
	c := DefaultConfig()
	given := &struct {
		Resources *corev1.ResourceRequirements `json:"resources"`
		Tag       any                          `json:"tag"`
	}{}
	if err := yaml.Unmarshal(data, given); err != nil {
		return nil, fmt.Errorf("reading the injection settings: %w", err)
	}
	if _, text := given.Tag.(string); !text && given.Tag != nil {
		return nil, fmt.Errorf("reading the injection settings: tag: want a text, found %v: quote it", given.Tag) // 1.0 would be read as 1
	}
	if given.Resources != nil { // replaced as a whole: a limit that is left out is no limit
		c.Resources = corev1.ResourceRequirements{}
	}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, fmt.Errorf("reading the injection settings: %w", err)
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("reading the injection settings: %w", err)
	}
	return c, nil
}

// complete judges the values and reads the ProxyConfig.
func (c *Config) complete() error {
	for _, f := range []struct{ key, value string }{{"revision", c.Revision}, {"systemNamespace", c.SystemNamespace}} {
		if f.value == "" || len(validation.IsDNS1123Label(f.value)) > 0 {
			return fmt.Errorf("%s: %q is no DNS label", f.key, f.value)
		}
	}
	for _, f := range []struct{ key, value string }{{"trustDomain", c.TrustDomain}, {"clusterDomain", c.ClusterDomain}, {"bundleConfigMap", c.BundleConfigMap}} {
		if f.value == "" || len(validation.IsDNS1123Subdomain(f.value)) > 0 {
			return fmt.Errorf("%s: %q is no DNS name", f.key, f.value)
		}
	}
	if c.image() == "" || strings.ContainsAny(c.image()+c.captureImage(), " \t\n") {
		return fmt.Errorf("image: %q is no image: set hub and tag, or image", c.image())
	}
	if !slices.Contains([]corev1.PullPolicy{"", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever}, c.ImagePullPolicy) {
		return fmt.Errorf("imagePullPolicy: %q: want Always, IfNotPresent or Never", c.ImagePullPolicy)
	}
	if _, ok := logLevel(c.LogLevel); !ok {
		return fmt.Errorf("logLevel: %q: want debug, info, warn or error", c.LogLevel)
	}
	if n := len(c.HookKey); n > 0 && n < minHookKey {
		return fmt.Errorf("hookKey: %d bytes: want a secret of at least %d", n, minHookKey)
	}
	if err := c.Capture.check(func(name string) string { return "capture." + name }); err != nil {
		return err
	}
	read := &meshconfig.ProxyConfig{}
	if len(c.ProxyConfig) > 0 && string(c.ProxyConfig) != "null" {
		if _, err := readProxyConfig(c.ProxyConfig, read); err != nil {
			return fmt.Errorf("proxyConfig: %w", err)
		}
	}
	c.read = read
	return nil
}

func (c *Config) image() string {
	if c.Image != "" {
		return c.Image
	}
	return c.Hub + "/proxy:" + c.Tag
}

func (c *Config) captureImage() string {
	if c.CaptureImage != "" {
		return c.CaptureImage
	}
	return c.image()
}

func (c *Config) controlAddress() string {
	if c.ControlAddress != "" {
		return c.ControlAddress
	}
	return kube.ControlPlane + "." + c.SystemNamespace + ".svc:15012"
}

// WithNative is the same Config where Native is said: native holds if the text left it to the API server's version.
func (c *Config) WithNative(native bool) *Config {
	if c.Native != nil {
		return c
	}
	said := *c
	said.Native = &native
	return &said
}

// uid is the sidecar's user and group.
const uid = int64(capture.UID)

// HasNative reports whether an API server of the version runs native sidecars by default (1.29, KEP-753).
func HasNative(v *version.Version) bool { return v.AtLeast(version.MajorMinor(1, 29)) }
