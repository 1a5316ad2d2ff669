package certtest

import "github.com/signet-mesh/signet/certs"

// Source is a certs.Source that a test sets.
type Source struct {
	certs.Cell
}

// NewSource holds an SVID (nil for none yet) and bundles.
func NewSource(svid *certs.SVID, bundles ...*certs.Bundle) *Source {
	s := &Source{}
	s.Replace(svid, bundles...)
	return s
}

// Replace sets both and wakes the watchers.
func (s *Source) Replace(svid *certs.SVID, bundles ...*certs.Bundle) *certs.Snapshot {
	m := make(map[string]*certs.Bundle, len(bundles))
	for _, b := range bundles {
		m[b.TrustDomain()] = b
	}
	return s.Set(svid, m)
}
