package route

import (
	"time"

	"github.com/signet-mesh/signet/proxy"
)

// Action is what a route does with a request.
type Action uint8

// The actions.
const (
	Forward  Action = iota // to one of Destinations
	Redirect               // answered here with Route.Redirect
	Direct                 // answered here with Route.Direct
)

// Route is one way through a virtual host: one match of an HTTPRoute of a VirtualService, or the default route of a
// service. Immutable once it is in a Table.
type Route struct {
	// Name is what the access log shows: ROUTE, ROUTE.MATCH, or "default".
	Name         string
	Condition    Condition
	Action       Action
	Destinations []Weighted   // Forward: never empty
	Rewrite      *Rewrite     // Forward only; nil for none
	Redirect     *Redirection // Redirect only
	Direct       *Response    // Direct only
	// Timeout is from the request's end to the response's end; 0 is none.
	Timeout time.Duration
	Retry   Retry
	Headers HeaderOps
}

// Weighted is one destination of a route.
type Weighted struct {
	// Cluster is Istio's name: outbound|PORT|SUBSET|HOST.
	Cluster string
	// Weight is its share of the sum of all; a single destination may have 0.
	Weight  uint32
	Headers HeaderOps
}

// Response is the answer of a direct response.
type Response struct {
	Status int
	Body   []byte
}

// Request is what a virtual host matches.
type Request struct {
	// Head is the request's; its Path is canonical already.
	Head *proxy.Head
}

// Match is the first route whose condition holds, or nil. It allocates nothing, save for a regular expression over a field
// that comes several times and a match on content-length.
func (v *VirtualHost) Match(m *Request) *Route {
	if !v.HTTP {
		return nil
	}
	for _, r := range v.Routes {
		if r.Condition.Matches(m.Head) {
			return r
		}
	}
	return nil
}

// Pick takes one destination by weight; random is uniform over uint64. Nil when there is none, or none with a weight.
func (r *Route) Pick(random uint64) *Weighted { return PickWeighted(r.Destinations, random) }

// PickWeighted takes one of several by weight; random is uniform over uint64. One alone is taken whatever its weight.
func PickWeighted(ds []Weighted, random uint64) *Weighted {
	if len(ds) == 1 {
		return &ds[0]
	}
	var total uint64
	for i := range ds {
		total += uint64(ds[i].Weight)
	}
	if total == 0 {
		return nil
	}
	at := random % total
	for i := range ds {
		w := uint64(ds[i].Weight)
		if at < w {
			return &ds[i]
		}
		at -= w
	}
	return nil
}

// ApplyRequest makes the request what its destination is to see: the header operations of the destination, then those of
// the route (Envoy's order: the more specific first), then path and authority. An authority set by the destination's
// headers wins over rewrite.authority, and that over one set by the route's headers.
func (r *Route) ApplyRequest(h *proxy.Head, w *Weighted) {
	if w != nil {
		w.Headers.ApplyRequest(h)
	}
	r.Headers.ApplyRequest(h)
	r.ApplyRewrite(h)
	if w != nil && w.Headers.Request.Authority != "" {
		h.Authority = w.Headers.Request.Authority
	}
}

// ApplyResponse applies the response header operations of the destination (nil when the proxy answers itself), then
// those of the route.
func (r *Route) ApplyResponse(h *proxy.Head, w *Weighted) {
	if w != nil {
		w.Headers.ApplyResponse(h)
	}
	r.Headers.ApplyResponse(h)
}
