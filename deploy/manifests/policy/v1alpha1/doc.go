// Package v1alpha1 is what controller-gen reads to make the CustomResourceDefinitions of policy.signet.dev. The fields are those
// of mesh/policy/policy.proto under their JSON names, which the tests of this module compare. No program uses these types: the
// product reads the protocol buffers.
// +kubebuilder:object:generate=true
// +groupName=policy.signet.dev
package v1alpha1
