package forward

import (
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
)

// Untouched is the field by which an inbound sidecar tells the calling one that its program is not there and did not see the
// request: it may be sent to another endpoint whatever its method, as one that HTTP/2 refuses may (RFC 9113 section 8.7). Only
// sidecars say it to each other: it is taken off what a program answers, and off what a program's caller gets.
const Untouched = "x-signet-untouched"

// untouched reports whether a failure is to be answered so: the program could not be connected to, and the caller is a
// workload of the mesh. A program that ended may have seen what was written to a connection that it left behind, or did not
// answer any more; that counts where it does no harm (RFC 9110 section 9.2.2).
func (x *Exchange) untouched(f *proxy.Failure) bool {
	if x.Rec.Side != proxy.DestinationSide || !x.Auth.Peer.Proven() {
		return false
	}
	again := route.IdempotentMethod(x.Req.Method)
	return f.Code == proxy.UpstreamConnect && (again || !x.reached) || f.Code == proxy.UpstreamReset && again
}

// refusedBySidecar reports whether a response says so, and comes from somebody who may.
func refusedBySidecar(res *result, resp *proxy.Head) bool {
	return res.fail == nil && resp.Status == proxy.UpstreamConnect.Answer().Status && res.held != nil && res.held.Peer().Proven() &&
		resp.Get(Untouched) != ""
}
