package adsserver

import (
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// stream is one proxy's stream. The goroutine of serve owns everything but the channels.
type stream struct {
	srv     *Server
	g       discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	log     *slog.Logger
	id      identity.ID
	expires time.Time

	requests chan *discovery.DeltaDiscoveryRequest
	// responses holds one for each type, so that serve never blocks on a proxy that does not read.
	responses chan *discovery.DeltaDiscoveryResponse
	// broken gets the error of the transport, from receive and from send.
	broken chan error
	// replaced is closed by the roster when a newer stream of the node came.
	replaced chan struct{}

	node, namespace, name string
	// changed is closed when the configuration is not the one that view is of.
	changed <-chan struct{}
	// views is the configuration, nil before the first.
	views Views
	view  *mesh.View
	// asked is nil while the proxy takes all that it may see.
	asked *asked
	// noted are the hosts that Used was last told of.
	noted []string
	// said is the size of what the proxy said that it holds, of all types.
	said int
	// roots are those of Config.Roots as a marker has them; rooted is closed when there are others.
	roots  []string
	rooted <-chan struct{}
	// dirty: view, or roots, was not pushed yet.
	dirty bool
	push  push
	// deadline is when the oldest unanswered response must be answered; zero without one.
	deadline time.Time
}

func newStream(s *Server, g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer, id identity.ID, expires time.Time) *stream {
	return &stream{
		srv: s, g: g, log: s.cfg.Log.With("id", id.String()), id: id, expires: expires,
		requests:  make(chan *discovery.DeltaDiscoveryRequest),
		responses: make(chan *discovery.DeltaDiscoveryResponse, len(adswire.Types())+2),
		broken:    make(chan error, 2),
		replaced:  make(chan struct{}),
		push:      newPush(),
	}
}

// receive hands requests to serve until the stream ends.
func (st *stream) receive() {
	for {
		r, err := st.g.Recv()
		if err != nil {
			st.broken <- err
			return
		}
		select {
		case st.requests <- r:
		case <-st.g.Context().Done():
			return
		}
	}
}

// send sends what serve has queued until the stream ends.
func (st *stream) send() {
	for {
		select {
		case r := <-st.responses:
			if err := st.g.Send(r); err != nil {
				st.broken <- err
				return
			}
		case <-st.g.Context().Done():
			return
		}
	}
}

// serve is the loop.
func (st *stream) serve() error {
	var expired <-chan time.Time
	if !st.expires.IsZero() {
		t := time.NewTimer(time.Until(st.expires))
		defer t.Stop()
		expired = t.C
	}
	slow := time.NewTimer(firstRequestTimeout)
	defer slow.Stop()
	gone := false
	defer func() { st.srv.roster.rise(st, gone) }()
	for {
		requests, later := st.pace()
		select {
		case r := <-requests:
			if err := st.request(r); err != nil {
				return err
			}
		case <-st.changed:
			if err := st.refresh(); err != nil {
				gone = true
				return status.Error(status.Code(err), "the workload was removed or is another one now: "+status.Convert(err).Message())
			}
		case <-later:
		case <-st.rooted:
			st.root()
		case <-st.replaced:
			return status.Errorf(codes.Aborted, "a newer stream of %s replaced this one", st.node)
		case <-expired:
			return errExpired(st.expires)
		case <-slow.C:
			return status.Error(codes.DeadlineExceeded, "the proxy did not answer in time")
		case err := <-st.broken:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-st.srv.stopped:
			return status.Error(codes.Unavailable, "the control plane is stopping")
		}
		if err := st.advance(); err != nil {
			return err
		}
		st.arm(slow)
	}
}

// arm sets the timer for answers: the deadline of what waits for one, if something does.
func (st *stream) arm(slow *time.Timer) {
	switch {
	case st.node == "":
	case len(st.push.unanswered) == 0:
		st.deadline = time.Time{}
		slow.Stop()
	case st.deadline.IsZero():
		st.deadline = time.Now().Add(st.srv.cfg.AckTimeout)
		slow.Reset(st.srv.cfg.AckTimeout)
	}
}

// request reads one request: a first one of the stream or of a type, an acknowledgement or a refusal.
func (st *stream) request(r *discovery.DeltaDiscoveryRequest) error {
	if st.node == "" {
		if err := st.open(r.GetNode().GetId()); err != nil {
			return err
		}
	}
	typ := r.GetTypeUrl()
	if typ == adswire.HostType {
		if err := st.ask(r); err != nil {
			return err
		}
	}
	if !st.push.subscribed[typ] {
		return st.subscribe(r)
	}
	if r.GetResponseNonce() == "" {
		return nil
	}
	if detail := r.GetErrorDetail(); detail != nil {
		st.deadline = time.Time{}
		if st.push.nack(typ, r.GetResponseNonce()) {
			st.refused(typ, detail.GetMessage())
		}
		return nil
	}
	if st.push.ack(typ, r.GetResponseNonce()) {
		st.deadline = time.Time{}
		st.noteAcked()
	}
	return nil
}

// open admits the node that the first request names.
func (st *stream) open(node string) error {
	namespace, name, err := parseNode(node)
	if err != nil {
		st.srv.metrics.refused.WithLabelValues("node").Inc()
		return err
	}
	st.namespace, st.name = namespace, name
	if err := st.refresh(); err != nil {
		st.srv.metrics.refused.WithLabelValues("permission").Inc()
		st.log.Warn("ADS caller refused", "node", node, "error", err)
		return err
	}
	if !st.srv.roster.enter(st.srv.cfg.MaxStreams) {
		st.srv.metrics.refused.WithLabelValues("streams").Inc()
		return status.Errorf(codes.ResourceExhausted, "%d streams are served already", st.srv.cfg.MaxStreams)
	}
	st.srv.unnamed.Give(st.id.String(), 1)
	st.node = node
	st.log = st.log.With("node", node)
	st.srv.roster.sit(st, remote(st.g.Context()))
	st.root()
	st.log.Debug("ADS stream opened")
	// The header tells the proxy that it was admitted, even if there is nothing that it lacks.
	return st.g.SendHeader(metadata.MD{})
}

// subscribe notes a type and what the proxy holds of it. Only the whole of a type can be asked for, save of HostType. The
// marker is subscribed to last: now it is known which view is wanted.
func (st *stream) subscribe(r *discovery.DeltaDiscoveryRequest) error {
	for _, n := range r.GetResourceNamesSubscribe() {
		if n != "*" && r.GetTypeUrl() != adswire.HostType {
			return status.Errorf(codes.InvalidArgument, "subscribing to %q by name: only all of a type can be subscribed to", r.GetTypeUrl())
		}
	}
	if !adswire.KnownType(r.GetTypeUrl()) {
		// A newer proxy asks for what we have none of.
		return nil
	}
	for name, version := range r.GetInitialResourceVersions() {
		st.said += adswire.VersionBytes(name, version)
	}
	if st.said > adswire.MaxRequestBytes {
		return status.Errorf(codes.ResourceExhausted, "more than %d bytes of initial_resource_versions on the stream", adswire.MaxRequestBytes)
	}
	st.push.subscribe(r.GetTypeUrl(), r.GetInitialResourceVersions())
	if r.GetTypeUrl() == adswire.GenerationType {
		return st.look()
	}
	return nil
}

// refresh takes the configuration as it is now. Its error ends the stream.
func (st *stream) refresh() error {
	views, changed := st.srv.cfg.Source.Watch()
	st.changed = changed
	if views == nil {
		if st.view == nil && st.node == "" {
			return status.Error(codes.Unavailable, "the control plane has no configuration yet")
		}
		return nil
	}
	st.views = views
	return st.look()
}

// root takes the roots as they are now.
func (st *stream) root() {
	if st.srv.cfg.Roots == nil {
		return
	}
	certs, changed := st.srv.cfg.Roots()
	st.roots, st.rooted = make([]string, len(certs)), changed
	for i, c := range certs {
		st.roots[i] = base64.StdEncoding.EncodeToString(c.Raw)
	}
	st.dirty = st.view != nil
}

// look computes the view. Its error ends the stream. A view that is made of what the one before was made of is not pushed.
func (st *stream) look() error {
	if st.views == nil {
		return nil
	}
	var names []string
	if st.asked != nil {
		names = st.asked.all()
	}
	begun := st.push.subscribed[adswire.GenerationType]
	find := st.views.View
	if st.asked != nil || !begun { // before it has begun it only matters who the proxy is
		find = func(namespace, name string) (*mesh.View, bool) { return st.views.Demand(namespace, name, names) }
	}
	v, err := viewOf(find, st.namespace, st.name, st.id)
	if err != nil || !begun {
		return err
	}
	if st.view == nil || !v.Same(st.view) {
		if st.asked != nil {
			st.note(v)
		}
		st.view, st.dirty = v, true
	}
	return nil
}

// advance begins the next generation when the one before was answered, and sends what may be sent.
func (st *stream) advance() error {
	if err := st.answer(); err != nil {
		return err
	}
	if st.dirty && st.push.idle() {
		st.dirty = false
		set, marker, err := st.srv.encoder.Encode(st.view)
		if err != nil {
			st.log.Error("computing the configuration of a proxy", "error", err)
			return nil
		}
		marker.Roots = st.roots
		held, err := st.push.begin(set, marker)
		if err != nil {
			st.log.Error("computing the configuration of a proxy", "error", err)
			return nil
		}
		if held {
			st.log.Debug("configuration held back: it still has what the proxy refused", "generation", marker.Generation())
		}
		st.srv.roster.want(st, marker.Generation(), set)
		st.noteAcked()
	}
	for {
		step, nonce, ok := st.push.next()
		if !ok {
			return nil
		}
		st.responses <- response(step, nonce)
		st.srv.metrics.pushes.WithLabelValues(step.Type).Inc()
		st.srv.metrics.bytes.WithLabelValues(step.Type).Add(float64(step.Bytes()))
	}
}

func response(s adswire.Step, nonce string) *discovery.DeltaDiscoveryResponse {
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: s.Type, Nonce: nonce, RemovedResources: s.Removed}
	for _, r := range s.Changed {
		out.Resources = append(out.Resources, r.Wire())
	}
	return out
}

func (st *stream) noteAcked() {
	st.srv.roster.ack(st, st.push.acked)
}

const maxDetailBytes = 4096

// refused records a NACK. It is logged unless it says what the one before said.
func (st *stream) refused(typ, detail string) {
	if len(detail) > maxDetailBytes {
		detail = detail[:maxDetailBytes]
	}
	st.srv.metrics.nacks.WithLabelValues(typ).Inc()
	again := false
	st.srv.roster.note(st, func(p *ProxyStatus) {
		again = p.LastNACK != nil && p.LastNACK.Type == typ && p.LastNACK.Detail == detail
		p.LastNACK = &NACK{Time: time.Now(), Type: typ, Detail: detail}
	})
	if !again {
		st.log.Warn("proxy refused its configuration and keeps what it has", "type", typ, "detail", detail)
	}
}
