package mesh

import (
	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh/policy"
)

// ControlKey is the key of the only ControlSettings there is.
func ControlKey() Key {
	return Key{Group: GroupInternal, Kind: KindControlSettings, Namespace: "signet-system", Name: "control"}
}

// control is what the command line says, and the objects that tell proxies as much of it as they need. Immutable; the zero
// value says nothing.
type control struct {
	settings *policy.ControlSettings
	// told are the objects by what is needed: bit 0 for the store, bit 1 for Rego's built-in functions. nil where there is
	// nothing to tell.
	told [4]*Object
}

const (
	needStore = 1 << iota
	needBuiltins
)

// newControl takes what an earlier world made of the same settings.
func newControl(s *policy.ControlSettings, prev *world) control {
	if prev != nil && proto.Equal(s, prev.control.settings) {
		return prev.control
	}
	c := control{settings: s}
	for need := range c.told {
		part := &policy.ControlSettings{}
		if need&needStore != 0 {
			part.RateLimitStore = s.GetRateLimitStore()
		}
		if need&needBuiltins != 0 {
			part.RegoBuiltins = s.GetRegoBuiltins()
		}
		if proto.Size(part) > 0 {
			c.told[need] = &Object{Meta: Meta{Key: ControlKey(), Version: VersionOf(GroupInternal)}, Spec: proto.CloneOf(part)}
		}
	}
	return c
}
