// Package caserver is the CA's door: istio.v1.auth.IstioCertificateService over gRPC and TLS, as Istio's agent and
// ztunnel speak it.
package caserver

import (
	"cmp"
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity/turn"
)

// Limits of the door.
const (
	// MaxMessageBytes bounds a request's message. A longer one is ResourceExhausted where ServerOptions are used; with
	// a more liberal gRPC server the certificate request in it is InvalidArgument (ca.MaxCSRBytes).
	MaxMessageBytes = 64 << 10
	// MaxStreams bounds the calls at once on one connection.
	MaxStreams = 256
	// maxHeaderBytes bounds the headers of a call: a token of 16 KiB, and what comes with it.
	maxHeaderBytes = 32 << 10
	// handshakeTimeout is how long a connection may take until it can be used.
	handshakeTimeout = 10 * time.Second
	// idleTimeout closes a connection without a call.
	idleTimeout = time.Minute
	// Bounds of the queue where Options set none.
	defaultQueuePerIdentity = 1024 // a Deployment's pods start together
	defaultQueue            = 4096
)

// errBusy is what a caller beyond the door's bounds is told.
var errBusy = errors.New("too many certificate requests are waiting, try again later")

// MetadataWorkload is the key in the request's Struct metadata that says which workload a renewal is for: NS/WORKLOAD.
const MetadataWorkload = "WorkloadName"

// unauthenticated is all that a caller learns of why it was not let in; Istio's words.
const unauthenticated = "request authenticate failure"

// Options are what New needs. CA and Attestor are required.
type Options struct {
	CA       *ca.CA
	Attestor *attest.Attestor
	// QueuePerIdentity bounds the calls that wait for one identity; zero means 1,024.
	QueuePerIdentity int
	// Queue bounds the calls that wait in all; zero means 4096.
	Queue int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server answers CreateCertificate. It is a prometheus.Collector as well. Safe for concurrent use.
type Server struct {
	securityv1.UnimplementedIstioCertificateServiceServer
	opts  Options
	queue *turn.Queue
	// reading bounds the calls whose request has not arrived yet, by source address.
	reading *turn.Share
	stats   *stats
	chains  chains
}

// New builds a Server.
func New(opts Options) (*Server, error) {
	if opts.CA == nil || opts.Attestor == nil {
		return nil, errors.New("building CA server: CA and attestor must be given")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Server{
		opts:    opts,
		queue:   turn.NewQueue(runtime.GOMAXPROCS(0), cmp.Or(opts.Queue, defaultQueue), cmp.Or(opts.QueuePerIdentity, defaultQueuePerIdentity)),
		reading: turn.NewShare(maxReading, maxReadingPerSource),
		stats:   newStats(opts.CA, opts.Now),
	}, nil
}

// ServerOptions bound what a gRPC server takes that serves nothing but this service. Clients may ping every 10 s.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
}

// CreateCertificate is the one call. Its steps are numbered in docs/architecture.md. What it does not need of the request is
// dropped.
func (s *Server) CreateCertificate(ctx context.Context, in *securityv1.IstioCertificateRequest) (*securityv1.IstioCertificateResponse, error) {
	s.stats.requests.Inc()
	// 1. Who asks.
	workload := in.GetMetadata().GetFields()[MetadataWorkload].GetStringValue()
	in.Metadata = nil // decoded it may be many times what it was on the wire, and the call may wait
	candidate, err := s.identify(ctx, workload)
	if err != nil {
		return nil, s.refuse(ca.Caller{From: remote(ctx)}, err)
	}
	// 2. A turn, fair per identity.
	done, err := s.queue.Enter(ctx, candidate.ID().String())
	if err != nil {
		return nil, s.refuse(candidate.Caller(), err)
	}
	defer done()
	// 3. Judge, bind, prepare, issue.
	cert, err := s.issue(candidate, in)
	if err != nil {
		return nil, s.refuse(candidate.Caller(), err)
	}
	s.stats.issued.Inc()
	return &securityv1.IstioCertificateResponse{CertChain: s.chains.strings(cert)}, nil
}

// identityError marks what is answered with nothing but Unauthenticated.
type identityError struct{ error }

func (e identityError) Unwrap() error { return e.error }

func (s *Server) issue(candidate *attest.Candidate, in *securityv1.IstioCertificateRequest) (*ca.Certificate, error) {
	req, err := s.opts.CA.Judge([]byte(in.GetCsr()), duration(in.GetValidityDuration()))
	if err != nil {
		return nil, err
	}
	caller, err := candidate.Bind(req.KeyHash())
	if err != nil {
		return nil, identityError{err}
	}
	prepared, err := s.opts.CA.Prepare(caller, req)
	if err != nil {
		return nil, err
	}
	return s.opts.CA.Issue(prepared)
}

// duration turns seconds into a Duration; what does not fit is the longest there is, which Judge refuses.
func duration(seconds int64) time.Duration {
	if seconds > int64(math.MaxInt64/time.Second) {
		return math.MaxInt64
	}
	if seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

func (s *Server) identify(ctx context.Context, workload string) (*attest.Candidate, error) {
	ev := attest.Evidence{From: remote(ctx), Workload: workload}
	token, err := bearer(ctx)
	if err != nil {
		return nil, identityError{err}
	}
	ev.Token = token
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			if ev.Peer, err = certs.PeerOf(info.State); err != nil {
				return nil, identityError{err}
			}
			ev.Leaf = info.State.PeerCertificates[0]
		}
	}
	candidate, err := s.opts.Attestor.Identify(ctx, ev, s.opts.Now())
	if err != nil {
		return nil, identityError{err}
	}
	return candidate, nil
}

// bearer is the token of the authorization header, "" where there is none.
func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", errors.New("more than one authorization header")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errors.New("authorization header is not of the scheme Bearer")
	}
	return token, nil
}

func remote(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

// refuse counts and records a failure and turns it into what the caller is told: the one place where errors become
// gRPC's.
func (s *Server) refuse(caller ca.Caller, err error) error {
	s.opts.CA.Refuse(caller, err)
	var (
		who identityError
		csr *ca.CSRError
		ttl *ca.TTLError
	)
	switch {
	case errors.As(err, &who), errors.Is(err, ca.ErrNotEntitled):
		s.stats.unauthenticated.Inc()
		return status.Error(codes.Unauthenticated, unauthenticated)
	case errors.As(err, &csr):
		s.stats.badCSR.Inc()
		return status.Error(codes.InvalidArgument, csr.Error())
	case errors.As(err, &ttl):
		s.stats.signErrors.WithLabelValues("TTL_ERROR").Inc()
		return status.Error(codes.InvalidArgument, ttl.Error())
	case errors.Is(err, turn.ErrBusy):
		s.stats.signErrors.WithLabelValues("BUSY").Inc()
		return status.Error(codes.ResourceExhausted, errBusy.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		s.stats.signErrors.WithLabelValues("GAVE_UP").Inc()
		return status.FromContextError(err).Err()
	}
	s.stats.signErrors.WithLabelValues("CERT_GEN_ERROR").Inc()
	return status.Error(codes.Internal, "certificate could not be made")
}
