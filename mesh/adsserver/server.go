// Package adsserver gives each sidecar the part of the mesh that it needs, over Envoy's delta ADS
// (envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources), and nobody else's.
//
// A caller is the workload that its node.id (NAMESPACE/WORKLOAD) names, and must prove that workload's SPIFFE ID with its
// client certificate. What is sent and how a change becomes one generation is described in package adswire.
//
// One stream is one loop: it alone owns what the stream's proxy is believed to hold. A change of configuration wakes all
// loops; each computes its own proxy's resources and sends the difference, at most one unanswered response a type, and
// starts on the next generation only when this one was answered. What changes meanwhile is coalesced.
package adsserver

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/signet-mesh/signet/identity"
	"github.com/signet-mesh/signet/identity/turn"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adswire"
)

// Views is the configuration at one moment. *mesh.Snapshot is one. Immutable.
type Views interface {
	// View is what the workload's sidecar runs on; false if there is no such workload.
	View(namespace, name string) (*mesh.View, bool)
	// Demand is View with no more than the names mean.
	Demand(namespace, name string, asked []string) (*mesh.View, bool)
}

// Used remembers the hosts that workloads use. Safe for concurrent use; its methods must not block.
type Used interface {
	// Names are the hosts that the workload used before, the last used first.
	Names(namespace, name string) []string
	// Note is told of hosts (never addresses) that the workload asked for and that are a service's.
	Note(namespace, name string, hosts []string)
}

// Source hands out the current configuration. Safe for concurrent use.
type Source interface {
	// Watch returns the current configuration, nil before the first, and a channel that is closed when it was replaced.
	Watch() (Views, <-chan struct{})
}

// SourceFunc is a function as a Source.
type SourceFunc func() (Views, <-chan struct{})

// Watch calls the function.
func (f SourceFunc) Watch() (Views, <-chan struct{}) { return f() }

const (
	defaultMaxStreams = 10_000
	defaultAckTimeout = 60 * time.Second
	// firstRequestTimeout is how long a caller may take to say which node it is.
	firstRequestTimeout = 10 * time.Second
	// maxUnnamed and maxUnnamedPerIdentity bound the streams that have not said so yet, in all and of one caller. Each may hold
	// most of a message.
	maxUnnamed            = 1024
	maxUnnamedPerIdentity = 64
	// maxStreamsPerConnection bounds the streams and calls of one connection; a sidecar has one or two.
	maxStreamsPerConnection = 256
	// maxHeaderBytes bounds the headers of a call, in which a token of 16 KiB may be.
	maxHeaderBytes = 32 << 10
	// connectionTimeout is how long a connection may take until it can be used.
	connectionTimeout = 10 * time.Second
)

// Config is what a Server needs.
type Config struct {
	Source Source
	// Identify says who calls. Nil: the SPIFFE ID of the verified client certificate.
	Identify func(ctx context.Context) (identity.ID, error)
	Log      *slog.Logger
	// MaxStreams is the number of streams of named nodes served at once; 0 is 10,000. Beyond it: ResourceExhausted.
	MaxStreams int
	// AckTimeout ends a stream that leaves a response unanswered for so long; 0 is 60 s.
	AckTimeout time.Duration
	// Roots are what the trust domain is verified by, sent along with every generation, and a channel that is closed when they were
	// replaced; nil sends none.
	Roots func() ([]*x509.Certificate, <-chan struct{})
	// Used gives a proxy on demand, from the beginning, what it used before. nil remembers nothing.
	Used Used
}

// Server is the ADS service. It is also a prometheus.Collector.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	cfg     Config
	encoder adswire.Encoder
	roster  roster
	unnamed *turn.Share
	metrics metrics
	// stopped is closed when Run ends.
	stopped chan struct{}
	stop    sync.Once
}

// New returns a Server that starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Source == nil || cfg.Log == nil {
		return nil, errors.New("building ADS server: Source and Log must be set")
	}
	if cfg.Identify == nil {
		cfg.Identify = identify
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = defaultMaxStreams
	}
	if cfg.AckTimeout <= 0 {
		cfg.AckTimeout = defaultAckTimeout
	}
	return &Server{cfg: cfg, unnamed: turn.NewShare(maxUnnamed, maxUnnamedPerIdentity), metrics: newMetrics(), stopped: make(chan struct{})}, nil
}

// Register adds the service to a gRPC server, which must have been made with ServerOptions.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// Run blocks until ctx ends and then ends all streams with Unavailable, so that GracefulStop of the gRPC server returns.
// Streams are served before it runs, but none after it ended.
func (s *Server) Run(ctx context.Context) error {
	defer s.stop.Do(func() { close(s.stopped) })
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Status() // which forgets proxies whose workloads are gone
		case <-ctx.Done():
			return nil
		}
	}
}

// DeltaAggregatedResources serves one proxy until it leaves, its certificate expires, a newer stream of the same proxy
// replaces this one, its workload is gone, or the server stops.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	id, expires, err := s.caller(g.Context())
	if err != nil {
		s.metrics.refused.WithLabelValues("identity").Inc()
		return err
	}
	if !s.unnamed.Take(id.String(), 1) {
		s.metrics.refused.WithLabelValues("unnamed").Inc()
		return status.Errorf(codes.ResourceExhausted, "%d streams of %s, or %d in all, have not named their node yet", maxUnnamedPerIdentity, id, maxUnnamed)
	}
	st := newStream(s, g, id, expires)
	defer func() {
		if st.node == "" {
			s.unnamed.Give(id.String(), 1)
		} else {
			s.roster.leave()
		}
	}()
	go st.receive()
	go st.send()
	defer s.metrics.connected.Dec()
	s.metrics.connected.Inc()
	err = st.serve()
	s.cfg.Log.Debug("ADS stream ended", "node", st.node, "id", id.String(), "reason", err)
	return err
}

// connectionBuffer is what gRPC reads ahead of a connection. Its default of 32 KiB would be most of what an idle stream holds.
const connectionBuffer = 4 << 10

// ServerOptions are the options that the gRPC server of the shared control port needs for ADS: sizes of messages and headers, small
// buffers for many idle connections, and a keepalive policy that allows the clients' pings every 30 s.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(adswire.MaxRequestBytes),
		grpc.MaxSendMsgSize(adswire.MaxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxStreamsPerConnection),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.ReadBufferSize(connectionBuffer),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
}
