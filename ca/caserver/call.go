package caserver

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/identity/turn"
)

// Limits of requests that have not arrived whole. Nobody has proven anything by then.
const (
	// maxReading and maxReadingPerSource bound them, in all and from one address.
	maxReading          = 4096
	maxReadingPerSource = 1024
	// readTimeout is from the headers of a call to the end of its message.
	readTimeout = 5 * time.Second
)

// Register adds the service to a gRPC server. On the wire it is what the generated registration makes. Here the call is a
// stream, since gRPC reads the message of a unary call before anybody can say whether and for how long it shall be waited for.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	unary := securityv1.IstioCertificateService_ServiceDesc
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: unary.ServiceName, HandlerType: unary.HandlerType, Metadata: unary.Metadata,
		Streams: []grpc.StreamDesc{{StreamName: unary.Methods[0].MethodName, ClientStreams: true, Handler: func(_ any, g grpc.ServerStream) error {
			return s.serve(g)
		}}},
	}, s)
}

// serve reads the request of one call, within the bounds above, and answers it.
func (s *Server) serve(g grpc.ServerStream) error {
	in, err := s.read(g)
	if err != nil {
		return err
	}
	out, err := s.CreateCertificate(g.Context(), in)
	if err != nil {
		return err
	}
	return g.SendMsg(out)
}

func (s *Server) read(g grpc.ServerStream) (*securityv1.IstioCertificateRequest, error) {
	who := turn.Source(remote(g.Context()))
	if !s.reading.Take(who, 1) {
		s.stats.signErrors.WithLabelValues("BUSY").Inc()
		return nil, status.Error(codes.ResourceExhausted, errBusy.Error())
	}
	defer s.reading.Give(who, 1)
	ctx, cancel := context.WithTimeout(g.Context(), readTimeout)
	defer cancel()
	in := &securityv1.IstioCertificateRequest{}
	read := make(chan error, 1)
	go func() { read <- g.RecvMsg(in) }() // it ends with the call
	select {
	case err := <-read:
		return in, err
	case <-ctx.Done():
		s.stats.signErrors.WithLabelValues("GAVE_UP").Inc()
		return nil, status.Errorf(codes.DeadlineExceeded, "the request did not arrive within %v", readTimeout)
	}
}
