// Package policy holds the objects of policy.signet.dev/v1alpha1 as protocol buffers, so that they are decoded, judged and
// sent like Istio's own. policy.pb.go is made of policy.proto by protoc with protoc-gen-go.
package policy
