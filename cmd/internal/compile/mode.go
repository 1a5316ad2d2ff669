package compile

import (
	security "istio.io/api/security/v1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh"
)

// strictBy names the PeerAuthentication that makes a port STRICT; nil if the port is not, or none says so. Policies come
// most specific first, and the first that speaks decides: so it is the one whose absence makes the difference.
func strictBy(v *mesh.View, port uint16) *authz.RuleRef {
	some := *v
	for i, p := range v.PeerAuthentication {
		some.PeerAuthentication = v.PeerAuthentication[:i+1]
		if some.MTLSMode(uint32(port)) == security.PeerAuthentication_MutualTLS_STRICT {
			return authz.NewRef(p.Kind, p.Namespace, p.Name, -1)
		}
	}
	return nil
}
