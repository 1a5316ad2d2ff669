package forward

import "github.com/signet-mesh/signet/proxy"

// Untouched is the field by which an inbound sidecar tells the calling one that nothing of a request reached its program: such
// a request may be sent to another endpoint whatever its method, as one that HTTP/2 refuses may (RFC 9113 section 8.7). Only
// sidecars say it to each other: it is taken off what a program answers, and off what a program's caller gets.
const Untouched = "x-signet-untouched"

// untouched reports whether a failure is to be answered so: the program could not be connected to, and the caller is a
// workload of the mesh.
func (x *Exchange) untouched(f *proxy.Failure) bool {
	return f.Code == proxy.UpstreamConnect && !x.reached && x.Rec.Side == proxy.DestinationSide && x.Auth.Peer.Proven()
}

// refusedBySidecar reports whether a response says so, and comes from somebody who may.
func refusedBySidecar(res *result, resp *proxy.Head) bool {
	return res.fail == nil && resp.Status == proxy.UpstreamConnect.Answer().Status && res.held != nil && res.held.Peer().Proven() &&
		resp.Get(Untouched) != ""
}
