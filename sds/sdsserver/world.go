package sdsserver

import (
	"log/slog"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/signet-mesh/signet/sds"
)

// worldStream is one state-of-the-world conversation: each answer holds everything wanted that exists. It answers when
// the names change and when a content changes, and never repeats a version that the client refused.
type worldStream struct {
	log  *slog.Logger
	send func(*discoveryv3.DiscoveryResponse) error

	node    string
	started bool
	named   bool // names were given once: from then on an empty list means nothing, not everything
	want    subscription
	// nonce and version are those of the latest answer, "" before it; rejected is the version the client refused.
	nonce, version, rejected string
	unknown                  []string // as logged last
}

func (w *worldStream) request(req *discoveryv3.DiscoveryRequest, set *sds.Set) error {
	if err := checkRequest(req.GetTypeUrl(), req.GetResourceNames()); err != nil {
		return err
	}
	w.node = nodeName(req.GetNode(), w.node)
	if w.started && req.GetResponseNonce() != w.nonce {
		w.log.Debug("SDS request with a stale nonce is ignored", "node", w.node)
		return nil
	}
	if nack := req.GetErrorDetail(); nack != nil && w.nonce != "" {
		w.rejected = w.version
		w.log.Warn("SDS client refused secrets", "node", w.node, "version", w.version, "error", clip(nack.GetMessage()))
	}
	want := w.read(req.GetResourceNames())
	if w.started && want.equal(w.want) {
		return nil
	}
	w.log.Debug("SDS subscription", "node", w.node, "names", req.GetResourceNames())
	w.started, w.want = true, want
	return w.answer(set, true)
}

func (w *worldStream) read(names []string) subscription {
	if len(names) > 0 {
		w.named = true
	} else if w.named {
		return subscription{}
	}
	return newSubscription(names)
}

func (w *worldStream) changed(set *sds.Set) error { return w.answer(set, false) }

// answer sends what is wanted if there is something to say.
func (w *worldStream) answer(set *sds.Set, asked bool) error {
	if set == nil {
		return nil
	}
	secrets, unknown := w.want.resolve(set)
	if !slices.Equal(unknown, w.unknown) && len(unknown) > 0 {
		w.log.Warn("SDS client wants secrets that don't exist", "node", w.node, "error", &sds.UnknownError{Names: unknown})
	}
	w.unknown = unknown
	if len(secrets) == 0 {
		return nil
	}
	version := sds.Version(secrets)
	if version == w.rejected || version == w.version && !asked {
		return nil
	}
	response, err := worldResponse(secrets, version, newNonce())
	if err != nil {
		return err
	}
	w.nonce, w.version, w.rejected = response.GetNonce(), version, ""
	return w.send(response)
}

// clip bounds what a client writes into our log, bytes.
func clip(s string) string { return s[:min(len(s), 512)] }
