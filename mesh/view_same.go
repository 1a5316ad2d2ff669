package mesh

import (
	"maps"
	"slices"
)

// Same reports whether another view of the same workload is made of the very same objects, services and answers, so that it
// says the same. It compares pointers: false may be said of equal views, true never of different ones. Builds with
// BuildOptions.Previous keep the pointers of what did not change.
func (v *View) Same(other *View) bool {
	return v.TrustDomain == other.TrustDomain && v.ClusterDomain == other.ClusterDomain && v.Self == other.Self &&
		slices.Equal(v.Objects, other.Objects) && slices.Equal(v.Services, other.Services) && slices.Equal(v.Served, other.Served) &&
		maps.Equal(v.Authorizers, other.Authorizers) && (v.Asked == nil) == (other.Asked == nil) && maps.Equal(v.Asked, other.Asked)
}
