package source

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/signet-mesh/signet/mesh"
)

// ServiceObject is what a Service alone, without its endpoints, is to the mesh: for 'signet validate', which lists once and
// watches nothing. It is nil for a Service that is nothing to the mesh.
func ServiceObject(v *corev1.Service, clusterDomain string) *mesh.Object {
	return (&Source{cfg: Config{ClusterDomain: clusterDomain}}).serviceObject(v, nil)
}

// PodObject is what a pod is to the mesh; nil for one that is no workload.
func PodObject(p *corev1.Pod) *mesh.Object { return podObject(p) }
