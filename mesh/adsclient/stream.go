package adsclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh/adswire"
)

// connectTimeout bounds TCP and TLS together.
const connectTimeout = 5 * time.Second

// maxDetailBytes is how much of an error is sent back in a NACK.
const maxDetailBytes = 4096

// errRenewed says that a stream was ended because there is a newer certificate.
var errRenewed = errors.New("the workload's certificate was renewed")

// stream connects and receives until the connection is lost or the certificate that it was made with has a successor.
func (c *Client) stream(ctx context.Context) error {
	snapshot, replaced := c.cfg.Source.Watch()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for used := snapshot.SVID; snapshot.SVID == used; {
			select {
			case <-replaced:
				snapshot, replaced = c.cfg.Source.Watch()
			case <-ended:
				return
			}
		}
		cancel(errRenewed)
	}()
	err := c.follow(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errRenewed) {
		return cause
	}
	return err
}

// follow is stream for one certificate.
func (c *Client) follow(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(c.tls.Clone())),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(adswire.MaxMessageBytes), grpc.MaxCallSendMsgSize(adswire.MaxMessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		return fmt.Errorf("connecting to %q: %w", c.cfg.Addr, err)
	}
	defer conn.Close()
	raw, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return fmt.Errorf("connecting to %q: %w", c.cfg.Addr, err)
	}
	g := &deltaStream{deltaClient: raw}
	c.held.incomplete = false
	if err := c.subscribe(g); err != nil {
		return err
	}
	// The server sends its header when it has admitted us; none means that it has not, and Recv says why.
	if header, err := g.Header(); err == nil && header != nil {
		c.state.connected()
	}
	if c.cfg.OnDemand {
		asking, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.ask(asking, g)
		}()
		defer func() {
			stop()
			_ = conn.Close() // it may hang in Send
			<-done
		}()
	}
	for {
		r, err := g.Recv()
		if err != nil {
			return fmt.Errorf("receiving from %q: %w", c.cfg.Addr, err)
		}
		c.state.received(len(r.GetResources())+len(r.GetRemovedResources()), proto.Size(r))
		if err := c.answer(g, r); err != nil {
			return err
		}
	}
}

type deltaClient = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// deltaStream is a stream that two may send on: who answers, and who asks. One receives.
type deltaStream struct {
	deltaClient
	mu sync.Mutex
}

// Send sends one request.
func (g *deltaStream) Send(r *discovery.DeltaDiscoveryRequest) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deltaClient.Send(r)
}

// subscribe asks for all of each type, on demand also for the names that are needed, and says what is held; the marker last,
// which starts the server.
func (c *Client) subscribe(g *deltaStream) error {
	if !c.held.fits() {
		c.held.set = &adswire.Set{} // what runs goes on
	}
	types := adswire.Types()
	if c.cfg.OnDemand {
		types = append(types, adswire.HostType)
	}
	for i, typ := range append(types, adswire.GenerationType) {
		r := &discovery.DeltaDiscoveryRequest{
			TypeUrl:                 typ,
			ResourceNamesSubscribe:  []string{"*"},
			InitialResourceVersions: c.held.versions(typ),
		}
		if typ == adswire.HostType {
			r.ResourceNamesSubscribe = c.asking.all()
		}
		if i == 0 {
			r.Node = adswire.Node(c.cfg.Namespace, c.cfg.Workload)
		}
		if err := send(g, r); err != nil {
			return fmt.Errorf("subscribing to %q: %w", typ, err)
		}
	}
	return nil
}

// answer takes a response and acknowledges or refuses it. Its error ends the stream.
func (c *Client) answer(g *deltaStream, r *discovery.DeltaDiscoveryResponse) error {
	var refusal error
	if r.GetTypeUrl() == adswire.GenerationType {
		refusal = c.held.mark(r)
	} else {
		refusal = c.held.take(r)
	}
	if errors.Is(refusal, errResync) {
		return refusal
	}
	reply := &discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	switch {
	case refusal != nil:
		detail := refusal.Error()
		reply.ErrorDetail = &spb.Status{Code: int32(codes.InvalidArgument), Message: strings.ToValidUTF8(detail[:min(len(detail), maxDetailBytes)], "")}
		c.state.refused(detail)
		c.cfg.Log.Warn("configuration refused; the last good one goes on", "type", r.GetTypeUrl(), "error", detail)
	case r.GetTypeUrl() == adswire.GenerationType:
		c.keep()
		c.state.applied(c.held.generation)
		c.cfg.Log.Debug("configuration applied", "generation", c.held.generation)
	}
	return send(g, reply)
}

// send turns the io.EOF of a broken stream into what broke it.
func send(g *deltaStream, r *discovery.DeltaDiscoveryRequest) error {
	err := g.Send(r)
	if err == nil {
		return nil
	}
	if _, cause := g.Recv(); cause != nil {
		return cause
	}
	return err
}
