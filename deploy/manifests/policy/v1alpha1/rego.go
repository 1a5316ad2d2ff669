package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RegoPolicy is an access policy in Rego, attached by an AuthorizationPolicy of action CUSTOM whose provider.name is its name.
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=signet,shortName=rego
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Query",type=string,JSONPath=`.spec.query`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:printcolumn:name="Proxies",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Programmed")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RegoPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec RegoPolicySpec `json:"spec"`
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// RegoPolicySpec is the policy and how it is decided.
// +kubebuilder:validation:XValidation:rule="[has(self.module), has(self.modules), has(self.bundle)].filter(x, x).size() == 1",message="want exactly one of module, modules and bundle"
// +kubebuilder:validation:XValidation:rule="!has(self.data) || !has(self.bundle)",message="data and bundle exclude each other: a bundle brings its own data"
type RegoPolicySpec struct {
	// The query whose result decides, such as data.menu.decision: a boolean, or an object as opa-envoy-plugin takes it.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^data(\.[A-Za-z_][A-Za-z0-9_]*){2,}$`
	Query string `json:"query"`
	// The policy's text. Exactly one of module, modules and bundle.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=524288
	Module string `json:"module,omitempty"`
	// The policy in several texts.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Modules []RegoModule `json:"modules,omitempty"`
	// The policy, fetched by OPA's bundle API.
	// +optional
	Bundle *RegoBundle `json:"bundle,omitempty"`
	// The base document, merged at the root of data. Not with a bundle.
	// +optional
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Data *runtime.RawExtension `json:"data,omitempty"`
	// How long one decision may take; 100 ms where unset.
	// +optional
	Timeout Duration `json:"timeout,omitempty"`
	// Where decisions are reported, by OPA's decision log API.
	// +optional
	DecisionLog *DecisionLog `json:"decisionLog,omitempty"`
}

// RegoModule is one text of a policy.
type RegoModule struct {
	// The name that messages use.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// The text.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=524288
	Source string `json:"source"`
}

// RegoBundle is fetched by OPA's bundle API (HTTP, ETag, If-None-Match).
type RegoBundle struct {
	// Scheme and authority of the service, with a path before the resource if it has one.
	// +required
	URL URL `json:"url"`
	// The resource, such as bundles/shop.tar.gz.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._~/-]+$`
	Path string `json:"path"`
	// What the bundle's signature is verified with.
	// +optional
	Signing *BundleSigning `json:"signing,omitempty"`
	// How often the bundle is asked for.
	// +optional
	Polling *BundlePolling `json:"polling,omitempty"`
	// PEM certificates the server is verified by; the system's where unset.
	// +optional
	CACertificates string `json:"caCertificates,omitempty"`
}

// BundleSigning is the key of a signed bundle.
type BundleSigning struct {
	// The key's name in the signature; any where unset.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	KeyID string `json:"keyId,omitempty"`
	// The signature's algorithm, as OPA names it.
	// +required
	// +kubebuilder:validation:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512
	Algorithm string `json:"algorithm"`
	// The public key in PEM.
	// +required
	// +kubebuilder:validation:MinLength=1
	PublicKey string `json:"publicKey"`
	// The scope that the signature must have.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Scope string `json:"scope,omitempty"`
}

// BundlePolling is the least and the most time between two requests.
// +kubebuilder:validation:XValidation:rule="has(self.minDelay) == has(self.maxDelay)",message="minDelay and maxDelay are set both or not at all"
// +kubebuilder:validation:XValidation:rule="!has(self.minDelay) || !has(self.maxDelay) || duration(self.minDelay) <= duration(self.maxDelay)",message="minDelay is more than maxDelay"
type BundlePolling struct {
	// The least time between two requests.
	// +optional
	MinDelay Duration `json:"minDelay,omitempty"`
	// The most time between two requests.
	// +optional
	MaxDelay Duration `json:"maxDelay,omitempty"`
}

// DecisionLog is where decisions are reported.
// +kubebuilder:validation:XValidation:rule="has(self.minDelay) == has(self.maxDelay)",message="minDelay and maxDelay are set both or not at all"
// +kubebuilder:validation:XValidation:rule="!has(self.minDelay) || !has(self.maxDelay) || duration(self.minDelay) <= duration(self.maxDelay)",message="minDelay is more than maxDelay"
type DecisionLog struct {
	// Scheme and authority of the service; decisions are POSTed to URL/logs, gzipped JSON arrays.
	// +required
	URL URL `json:"url"`
	// OPA's partition_name: URL/logs/PARTITION.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9._~/-]*$`
	Partition string `json:"partition,omitempty"`
	// Rule whose result masks fields of a logged decision; data.system.log.mask where unset.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(data(\.[A-Za-z_][A-Za-z0-9_]*){2,})?$`
	MaskDecision string `json:"maskDecision,omitempty"`
	// The least time between two reports.
	// +optional
	MinDelay Duration `json:"minDelay,omitempty"`
	// The most time between two reports.
	// +optional
	MaxDelay Duration `json:"maxDelay,omitempty"`
	// How many decisions wait to be sent; more are dropped and counted. 1000 where unset.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	Buffer int64 `json:"buffer,omitempty"`
	// PEM certificates the server is verified by; the system's where unset.
	// +optional
	CACertificates string `json:"caCertificates,omitempty"`
}

// +kubebuilder:object:root=true

// RegoPolicyList is a list of RegoPolicies.
type RegoPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RegoPolicy `json:"items"`
}
