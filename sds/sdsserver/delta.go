package sdsserver

import (
	"log/slog"
	"maps"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/sds"
)

// deltaStream is one incremental conversation: each answer holds what changed since the client last heard of it.
type deltaStream struct {
	log  *slog.Logger
	send func(*discoveryv3.DeltaDiscoveryResponse) error

	node    string
	started bool
	want    subscription
	// By name: the version the client has or was sent; the version it refused; whether it was told there is none.
	sent, refused map[string]string
	gone          map[string]bool
	// Of the latest answer: its nonce and the versions in it.
	nonce   string
	pending map[string]string
}

func newDeltaStream(log *slog.Logger, send func(*discoveryv3.DeltaDiscoveryResponse) error) *deltaStream {
	return &deltaStream{log: log, send: send, sent: map[string]string{}, refused: map[string]string{}, gone: map[string]bool{}}
}

func (d *deltaStream) request(req *discoveryv3.DeltaDiscoveryRequest, set *sds.Set) error {
	subscribe, unsubscribe := req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe()
	if err := checkRequest(req.GetTypeUrl(), subscribe, unsubscribe); err != nil {
		return err
	}
	d.node = nodeName(req.GetNode(), d.node)
	d.acknowledge(req)
	if !d.started {
		if len(req.GetInitialResourceVersions()) > MaxNames {
			return status.Errorf(codes.InvalidArgument, "%d initial resource versions, the limit is %d", len(req.GetInitialResourceVersions()), MaxNames)
		}
		d.started = true
		d.want = newSubscription(subscribe)
		for name, version := range req.GetInitialResourceVersions() {
			if d.want.all || d.want.names[name] {
				d.sent[name] = version
			}
		}
	} else {
		d.add(subscribe)
	}
	d.drop(unsubscribe)
	if len(d.want.names) > MaxNames {
		return status.Errorf(codes.InvalidArgument, "%d resource names on one stream, the limit is %d", len(d.want.names), MaxNames)
	}
	return d.changed(set)
}

// acknowledge takes an ACK or NACK in. That of an older answer is ignored; the names of its request are not, since they
// are a change and are said only once.
func (d *deltaStream) acknowledge(req *discoveryv3.DeltaDiscoveryRequest) {
	if req.GetResponseNonce() == "" {
		return
	}
	if req.GetResponseNonce() != d.nonce {
		d.log.Debug("SDS acknowledgement with a stale nonce is ignored", "node", d.node)
		return
	}
	if nack := req.GetErrorDetail(); nack != nil {
		d.log.Warn("SDS client refused secrets", "node", d.node, "names", slices.Sorted(maps.Keys(d.pending)), "error", clip(nack.GetMessage()))
		maps.Copy(d.refused, d.pending)
	}
	d.pending = nil
}

// add subscribes. A name that was subscribed already is sent anew, as the protocol asks, unless its version was refused.
func (d *deltaStream) add(names []string) {
	for _, n := range names {
		if n == wildcard {
			d.want.all = true
			continue
		}
		d.want.names[n] = true
		delete(d.sent, n)
		delete(d.gone, n)
	}
}

func (d *deltaStream) drop(names []string) {
	for _, n := range names {
		if n == wildcard {
			d.want.all = false
			maps.DeleteFunc(d.sent, func(name, _ string) bool { return !d.want.names[name] })
			continue
		}
		delete(d.want.names, n)
		delete(d.gone, n)
		if !d.want.all {
			delete(d.sent, n)
			delete(d.refused, n)
		}
	}
}

// changed sends what is new or gone, if anything is.
func (d *deltaStream) changed(set *sds.Set) error {
	if set == nil || !d.started {
		return nil
	}
	secrets, unknown := d.want.resolve(set)
	response := &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: sds.Version(secrets), TypeUrl: secretType}
	pending := map[string]string{}
	for _, s := range secrets {
		if d.sent[s.Name] == s.Version || d.refused[s.Name] == s.Version {
			continue
		}
		body, err := encode(s)
		if err != nil {
			return err
		}
		response.Resources = append(response.Resources, &discoveryv3.Resource{Name: s.Name, Version: s.Version, Resource: body})
		pending[s.Name] = s.Version
	}
	response.RemovedResources = d.removed(set, unknown)
	if len(response.Resources) == 0 && len(response.RemovedResources) == 0 {
		return nil
	}
	maps.Copy(d.sent, pending)
	for name := range pending {
		delete(d.refused, name)
		delete(d.gone, name)
	}
	response.Nonce = newNonce()
	d.nonce, d.pending = response.GetNonce(), pending
	return d.send(response)
}

// removed names what the client has or wants and doesn't exist, each once until it asks again.
func (d *deltaStream) removed(set *sds.Set, unknown []string) []string {
	var out []string
	for _, n := range unknown {
		if !d.gone[n] {
			d.gone[n] = true
			out = append(out, n)
		}
		delete(d.sent, n)
	}
	for n := range d.sent {
		if _, ok := set.Get(n); !ok {
			delete(d.sent, n)
			out = append(out, n)
		}
	}
	slices.Sort(out)
	if len(out) > 0 {
		d.log.Warn("SDS client wants secrets that don't exist", "node", d.node, "names", out)
	}
	return out
}
