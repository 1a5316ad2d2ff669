package mesh

import (
	"fmt"

	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1"
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh/policy"
)

// Validate judges the structure of one object by itself: field by field, without looking at any other object. The table
// of what is honoured, warned of and refused is docs/compatibility.md. trustDomain may be "".
func Validate(o *Object, trustDomain string) []Problem {
	j := &judge{object: o, trustDomain: trustDomain}
	j.fields(fieldTables(o.Kind))
	j.dryRun()
	switch spec := o.Spec.(type) {
	case *networking.WorkloadEntry:
		j.workloadEntry(spec)
	case *networking.ServiceEntry:
		j.serviceEntry(spec)
	case *networking.Sidecar:
		j.sidecar(spec)
	case *networking.VirtualService:
		j.virtualService(spec)
	case *networking.DestinationRule:
		j.destinationRule(spec)
	case *security.AuthorizationPolicy:
		j.authorizationPolicy(spec)
	case *security.PeerAuthentication:
		j.peerAuthentication(spec)
	case *security.RequestAuthentication:
		j.requestAuthentication(spec)
	case *policy.RegoPolicy:
		j.regoPolicy(spec)
	case *policy.RateLimitPolicy:
		j.rateLimitPolicy(spec)
	case *policy.ControlSettings:
		j.controlSettings(spec)
	case *meshconfig.MeshConfig:
		j.meshConfig(spec)
	default:
		j.refuse("", "kind %s is not supported", o.Kind)
	}
	return j.problems
}

// Revalidate judges an object that came over the wire: its kind, the type of its spec, fields that this version does
// not know (unknown to the protocol buffer schema), its names, and everything Validate does.
func Revalidate(o *Object, trustDomain string) []Problem {
	one := func(field, message string) []Problem {
		return []Problem{{Position: o.Position, Key: o.Key, Field: field, Message: message}}
	}
	if !sameSpecType(o) {
		return one("", fmt.Sprintf("a spec of type %T is not one of kind %s of group %q", o.Spec, o.Kind, o.Group))
	}
	if err := checkSubdomain(o.Name); err != nil {
		return one("metadata.name", err.Error())
	}
	if err := checkLabel(o.Namespace); err != nil {
		return one("metadata.namespace", err.Error())
	}
	if field, unknown := unknownFields(o.Spec.ProtoReflect(), "spec"); unknown {
		return one(field, "holds a field that this version does not know")
	}
	return Validate(o, trustDomain)
}
