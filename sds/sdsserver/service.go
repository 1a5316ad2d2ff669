package sdsserver

import (
	"context"
	"errors"
	"io"
	"log/slog"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/sds"
)

// service implements the three methods. Each call is a goroutine of gRPC's, each stream has one more that receives.
type service struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	source certs.Source
	log    *slog.Logger
	slots  chan struct{} // one a running call, of all connections
}

// enter takes a slot; leave gives it back.
func (s *service) enter() error {
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, the limit is %d", MaxStreams, MaxStreams)
	}
}

func (s *service) leave() { <-s.slots }

// StreamSecrets is the state of the world.
func (s *service) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return serve(stream, s.source, &worldStream{log: s.log, send: stream.Send})
}

// DeltaSecrets is the incremental form.
func (s *service) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return serve(stream, s.source, newDeltaStream(s.log, stream.Send))
}

// FetchSecrets answers once. Without a certificate yet it is Unavailable, and NotFound when nothing asked for exists.
func (s *service) FetchSecrets(_ context.Context, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := checkRequest(req.GetTypeUrl(), req.GetResourceNames()); err != nil {
		return nil, err
	}
	set, err := sds.NewSet(s.source.Current())
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	secrets, unknown := newSubscription(req.GetResourceNames()).resolve(set)
	if len(unknown) > 0 {
		missing := &sds.UnknownError{Names: unknown}
		s.log.Warn("SDS fetch of unknown secrets", "node", nodeName(req.GetNode(), ""), "error", missing)
		if len(secrets) == 0 {
			return nil, status.Error(codes.NotFound, missing.Error())
		}
	}
	return worldResponse(secrets, sds.Version(secrets), "")
}

// receiver is the half of both stream types that takes requests.
type receiver[Request any] interface {
	Recv() (Request, error)
	Context() context.Context
}

// conversation is what one stream knows of its client. It is used from one goroutine.
type conversation[Request any] interface {
	// request takes a message of the client's in; set is nil before the first certificate.
	request(Request, *sds.Set) error
	// changed tells of a new set; it answers if something the client subscribed to is different.
	changed(*sds.Set) error
}

// serve runs one stream until the client leaves or the server stops.
func serve[Request any](stream receiver[Request], source certs.Source, c conversation[Request]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	requests, ended := make(chan Request), make(chan error, 1)
	go func() { // ends with the stream's context, which gRPC cancels when the handler returns
		for {
			req, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	snapshot, replaced := source.Watch()
	set, err := setOf(snapshot)
	for err == nil {
		select {
		case req := <-requests:
			err = c.request(req, set)
		case <-replaced:
			snapshot, replaced = source.Watch()
			if set, err = setOf(snapshot); err == nil && set != nil {
				err = c.changed(set)
			}
		case err = <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
		case <-ctx.Done():
			err = status.FromContextError(ctx.Err()).Err()
		}
	}
	return err
}

// setOf is nil before the first certificate: the stream waits.
func setOf(snapshot *certs.Snapshot) (*sds.Set, error) {
	set, err := sds.NewSet(snapshot)
	if errors.Is(err, sds.ErrNoCertificate) {
		return nil, nil
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return set, nil
}

// nodeName is for logs: what the client calls itself, cut to a sane length.
func nodeName(node *corev3.Node, before string) string {
	id := node.GetId()
	if id == "" {
		return before
	}
	return id[:min(len(id), 128)]
}
