package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RateLimitPolicy limits requests to the workloads that it selects, or on a route.
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=signet,shortName=rlp
// +kubebuilder:subresource:status
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Direct"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[*].name`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Selector",type=string,priority=1,JSONPath=`.spec.selector.matchLabels`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:printcolumn:name="Proxies",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Programmed")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RateLimitPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec RateLimitPolicySpec `json:"spec"`
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// RateLimitPolicySpec is what is limited, and how.
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || !has(self.targetRefs) || size(self.targetRefs) == 0",message="selector and targetRefs exclude each other"
// +kubebuilder:validation:XValidation:rule="has(self.local) || has(self.global)",message="local or global must hold at least one rule"
type RateLimitPolicySpec struct {
	// The workloads of this namespace (of all namespaces, in the root namespace) that are limited.
	// +optional
	Selector *WorkloadSelector `json:"selector,omitempty"`
	// What is limited, objects of the same namespace (GEP-713).
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	// Limits that each proxy counts for itself.
	// +optional
	Local *RateLimit `json:"local,omitempty"`
	// Limits that all proxies share.
	// +optional
	Global *RateLimit `json:"global,omitempty"`
}

// WorkloadSelector selects workloads by their labels.
type WorkloadSelector struct {
	// All of them must be there with these values.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self.all(k, k != '' && !k.contains('*') && !self[k].contains('*'))",message="labels are selected by whole names and values, without wildcards"
	// +kubebuilder:validation:MaxProperties=64
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
}

// LabelValue is the value of a label.
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// TargetRef is GEP-713's reference to an object of the same namespace.
// +kubebuilder:validation:XValidation:rule="self.kind == 'Service' ? (!has(self.group) || (size(self.group) == 0 || self.group == 'core')) : (has(self.group) && self.group == 'networking.istio.io')",message="group must be empty for a Service and networking.istio.io for the other kinds"
// +kubebuilder:validation:XValidation:rule="!has(self.sectionName) || size(self.sectionName) == 0 || self.kind == 'VirtualService'",message="sectionName names an http route, and only a VirtualService has them"
type TargetRef struct {
	// The API group: empty for a Service, networking.istio.io for the other kinds.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
	// The kind.
	// +required
	// +kubebuilder:validation:Enum=Service;ServiceEntry;WorkloadEntry;VirtualService
	Kind string `json:"kind"`
	// The object's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// The name of an http route of a VirtualService.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	SectionName string `json:"sectionName,omitempty"`
}

// RateLimit is a list of rules; all that match count, the strictest refuses.
type RateLimit struct {
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Rules []RateLimitRule `json:"rules"`
}

// RateLimitRule is one limit and whom it counts.
type RateLimitRule struct {
	// All must match; none matches everything.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	ClientSelectors []ClientSelector `json:"clientSelectors,omitempty"`
	// How much may pass.
	// +required
	Limit Limit `json:"limit"`
	// Count and report, and refuse nothing.
	// +optional
	ShadowMode bool `json:"shadowMode,omitempty"`
	// What happens to a global limit when its store is away: a fair share judged by each proxy alone (Local, the default),
	// everything passes (Allow), or nothing (Deny).
	// +optional
	// +kubebuilder:validation:Enum=Local;Allow;Deny
	OnStoreFailure string `json:"onStoreFailure,omitempty"`
}

// ClientSelector says whose requests are counted. At least one field must be set; all that are set must match.
// +kubebuilder:validation:MinProperties=1
type ClientSelector struct {
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Methods []MethodMatch `json:"methods,omitempty"`
	// +optional
	Path *PathMatch `json:"path,omitempty"`
	// +optional
	SourceCIDR *SourceMatch `json:"sourceCIDR,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	QueryParams []QueryParamMatch `json:"queryParams,omitempty"`
	// +optional
	Identity *IdentityMatch `json:"identity,omitempty"`
}

// HeaderMatch matches a header. Distinct counts each value by itself.
// +kubebuilder:validation:XValidation:rule="(has(self.type) && self.type == 'Distinct') != (has(self.value) && size(self.value) > 0)",message="value must be set, save for type Distinct, which counts every value by itself"
type HeaderMatch struct {
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name"`
	// Exact where unset.
	// +optional
	// +kubebuilder:validation:Enum=Exact;RegularExpression;Distinct
	Type string `json:"type,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// MethodMatch matches the request's method.
type MethodMatch struct {
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Value string `json:"value"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// PathMatch matches the request's path.
type PathMatch struct {
	// PathPrefix where unset.
	// +optional
	// +kubebuilder:validation:Enum=Exact;PathPrefix;RegularExpression
	Type string `json:"type,omitempty"`
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// SourceMatch matches the address of the peer. Distinct counts each address, of the block if one is given, by itself.
// +kubebuilder:validation:XValidation:rule="(has(self.type) && self.type == 'Distinct') || (has(self.value) && size(self.value) > 0)",message="value must be set, save for type Distinct"
type SourceMatch struct {
	// Exact where unset.
	// +optional
	// +kubebuilder:validation:Enum=Exact;Distinct
	Type string `json:"type,omitempty"`
	// An address or a block of addresses.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Value string `json:"value,omitempty"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// QueryParamMatch matches a parameter of the query. Distinct counts each value by itself.
// +kubebuilder:validation:XValidation:rule="(has(self.type) && self.type == 'Distinct') != (has(self.value) && size(self.value) > 0)",message="value must be set, save for type Distinct, which counts every value by itself"
type QueryParamMatch struct {
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Name string `json:"name"`
	// Exact where unset.
	// +optional
	// +kubebuilder:validation:Enum=Exact;RegularExpression;Distinct
	Type string `json:"type,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// IdentityMatch matches the peer's SPIFFE ID. Distinct counts each identity by itself.
// +kubebuilder:validation:XValidation:rule="(has(self.type) && self.type == 'Distinct') != (has(self.value) && size(self.value) > 0)",message="value must be set, save for type Distinct, which counts every value by itself"
type IdentityMatch struct {
	// Exact where unset.
	// +optional
	// +kubebuilder:validation:Enum=Exact;Distinct
	Type string `json:"type,omitempty"`
	// A SPIFFE ID such as spiffe://cluster.local/ns/default/sa/web.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
	// +optional
	Invert bool `json:"invert,omitempty"`
}

// Limit is how much may pass.
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || !(self.unit in ['Day', 'Month'])",message="burst is not for quotas: all requests of a day or month may come at once"
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || (has(self.requests) && self.requests > 0)",message="burst means nothing where 0 requests are allowed"
type Limit struct {
	// How many requests may pass in one unit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	Requests int64 `json:"requests,omitempty"`
	// Day and Month are quotas of a calendar day or month in UTC.
	// +required
	// +kubebuilder:validation:Enum=Second;Minute;Hour;Day;Month
	Unit string `json:"unit"`
	// How many requests may come at once; requests where unset. Not with Day and Month.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967295
	Burst *int64 `json:"burst,omitempty"`
}

// +kubebuilder:object:root=true

// RateLimitPolicyList is a list of RateLimitPolicies.
type RateLimitPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RateLimitPolicy `json:"items"`
}
