package adswire

import (
	"fmt"

	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/signet-mesh/signet/mesh"
)

// encodeAnswer makes the resource that says what a name means.
func encodeAnswer(name string, a mesh.Answer) (Resource, error) {
	fields := map[string]*structpb.Value{}
	if a.Host != "" {
		fields["host"] = structpb.NewStringValue(a.Host)
	}
	if a.Workload != "" {
		fields["workload"] = structpb.NewStringValue(a.Workload)
	}
	if a.Plain != "" {
		fields["plain"] = structpb.NewStringValue(string(a.Plain))
	}
	return seal(HostType, name, &structpb.Struct{Fields: fields})
}

// decodeAnswer reads the body of a resource of HostType.
func decodeAnswer(name string, body *anypb.Any) (mesh.Answer, error) {
	var s structpb.Struct
	if err := unmarshalStrict(body, &s); err != nil {
		return mesh.Answer{}, err
	}
	if n, ok := mesh.Name(name); !ok || n != name {
		return mesh.Answer{}, fmt.Errorf("name %q is neither a host in lower case nor an IP address", name)
	}
	a := mesh.Answer{Host: s.GetFields()["host"].GetStringValue(), Workload: s.GetFields()["workload"].GetStringValue()}
	var err error
	if a.Plain, err = mesh.ParsePlain(s.GetFields()["plain"].GetStringValue()); err != nil {
		return mesh.Answer{}, fmt.Errorf("plain: %w", err)
	}
	known := 0
	for _, v := range []string{a.Host, a.Workload, string(a.Plain)} {
		if v != "" {
			known++
		}
	}
	if known != len(s.GetFields()) {
		return mesh.Answer{}, fmt.Errorf("the answer says something that this version does not know")
	}
	return a, nil
}
