package adsclient_test

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/mesh"
)

// newer is the object, and if it is an AuthorizationPolicy, with a field that nobody knows yet.
func newer(o *mesh.Object) *mesh.Object {
	spec, ok := o.Spec.(*security.AuthorizationPolicy)
	if !ok {
		return o
	}
	spec = proto.Clone(spec).(*security.AuthorizationPolicy)
	spec.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1999, protowire.VarintType), 1))
	out := *o
	out.Spec = spec
	return &out
}
