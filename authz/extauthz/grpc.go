package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
)

// overGRPC asks envoy.service.auth.v3.Authorization.
type overGRPC struct {
	service   string // its host, the :authority of checks
	principal func() identity.ID
	packed    bool
	door      *door
	mu        sync.Mutex // guards what follows
	conn      *grpc.ClientConn
	closed    bool
}

func newGRPC(p *meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider, principal func() identity.ID, d *door) *overGRPC {
	if principal == nil {
		principal = func() identity.ID { return identity.ID{} }
	}
	return &overGRPC{service: authority(p), principal: principal, packed: p.GetIncludeRequestBodyInCheck().GetPackAsBytes(), door: d}
}

// client is the connection, made when it is first needed. It connects by itself, and again after pauses of maxBackoff at
// most.
func (g *overGRPC) client() (*grpc.ClientConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errClosed
	}
	if g.conn != nil {
		return g.conn, nil
	}
	pause := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff}
	conn, err := grpc.NewClient("passthrough:///"+g.service,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // mTLS is the dialer's
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.door.connect(ctx) }),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: dialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxAnswerBytes), grpc.MaxCallSendMsgSize(MaxCheckBytes)))
	if err != nil {
		return nil, fmt.Errorf("preparing the connection: %w", err)
	}
	g.conn = conn
	return conn, nil
}

func (g *overGRPC) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.conn != nil {
		g.conn.Close()
	}
}

// ask implements way.
func (g *overGRPC) ask(ctx context.Context, c *authz.Connection, r *authz.Request) (authz.Answer, *fault) {
	request, f := checkRequest(c, r, g.principal().String(), g.packed)
	if f != nil {
		return authz.Answer{}, f
	}
	if n := proto.Size(request); n > MaxCheckBytes {
		return authz.Answer{}, unshown(http.StatusBadRequest, "it takes %d bytes, more than %d", n, MaxCheckBytes)
	}
	conn, err := g.client()
	if err != nil {
		return authz.Answer{}, failure(err)
	}
	response, err := auth.NewAuthorizationClient(conn).Check(ctx, request)
	if err != nil {
		return authz.Answer{}, failure(rpcError(ctx, err))
	}
	return readCheck(response, r)
}

// rpcError is the status of a check that failed. What an authorizer writes into it may hold anything: only the text of
// UNAVAILABLE, which says why there is no connection, is repeated.
func rpcError(ctx context.Context, err error) error {
	s := status.Convert(err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.Code() == codes.DeadlineExceeded: // which the authorizer, told of the deadline, may see first
		return errLate
	case s.Code() == codes.Unavailable:
		return fmt.Errorf("%v: %.256q", s.Code(), s.Message())
	}
	return fmt.Errorf("gRPC status %v", s.Code())
}

var (
	errLate          = errors.New("no answer in time")
	errNoStatus      = errors.New("it has neither a status nor an ok_response")
	errContradiction = errors.New("its status is OK, its response is not")
)

// readCheck reads an answer: status OK allows, anything else denies, an error_response is a failure. A wholly empty answer,
// and an OK with a denied_response or error_response, are none.
func readCheck(response *auth.CheckResponse, r *authz.Request) (authz.Answer, *fault) {
	switch h := response.GetHttpResponse().(type) {
	case *auth.CheckResponse_ErrorResponse:
		if response.GetStatus().GetCode() == int32(codes.OK) {
			return authz.Answer{}, misanswered(errContradiction)
		}
		a, err := readDenied(h.ErrorResponse)
		if err != nil {
			return authz.Answer{}, misanswered(err)
		}
		return a, failure(errors.New("it answered error_response"))
	case *auth.CheckResponse_DeniedResponse:
		if response.GetStatus().GetCode() == int32(codes.OK) {
			return authz.Answer{}, misanswered(errContradiction)
		}
		a, err := readDenied(h.DeniedResponse)
		if err != nil {
			return authz.Answer{}, misanswered(err)
		}
		return a, nil
	}
	switch ok := response.GetOkResponse(); {
	case response.GetStatus() == nil && ok == nil:
		return authz.Answer{}, misanswered(errNoStatus)
	case response.GetStatus().GetCode() != int32(codes.OK):
		return authz.Answer{}, nil
	default:
		a, err := readOK(ok, r)
		if err != nil {
			return authz.Answer{}, misanswered(err)
		}
		return a, nil
	}
}

// authority is service without its namespace.
func authority(s settings) string {
	host := s.GetService()
	for i := range len(host) {
		if host[i] == '/' {
			host = host[i+1:]
			break
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(s.GetPort()))
}
