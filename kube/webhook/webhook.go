// Package webhook is the door that the API server knocks at: it gives pods their sidecars and judges objects before they are
// stored. Its keeper puts the CA's roots into the webhook configurations.
package webhook

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/identity/turn"
	"github.com/signet-mesh/signet/kube/inject"
	"github.com/signet-mesh/signet/mesh"
)

// Paths and port of the webhooks.
const (
	Port         = 15017
	InjectPath   = "/inject"
	ValidatePath = "/validate"
)

// Limits of a request. etcd takes objects up to 1.5 MiB, and the review of an update carries two.
const (
	MaxBodyBytes  = 3 << 20
	MaxConcurrent = 64
	timeout       = 10 * time.Second
	// readTimeout is how long the body of a request may take.
	readTimeout = 2 * time.Second
)

// Limits of what is held for one address, and in all. An API server is one address; it dials once for each of the requests that
// come before its first connection is there.
const (
	maxConnections, maxConnectionsPerSource = 1024, 256
	maxBytes, maxBytesPerSource             = 64 << 20, 16 << 20
	maxWaiting, maxWaitingPerSource         = 4096, 512
	// maxStreams bounds the requests at once on one connection, and the buffers what is read ahead.
	maxStreams       = 64
	connectionBuffer = 64 << 10
	streamBuffer     = 64 << 10
)

// Events is told of pods that stay without a sidecar; record.EventRecorder is one.
type Events interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

// Config is what a Server needs. Funcs are called from many goroutines and, save Ask, must answer from memory.
type Config struct {
	// Listener is where it serves, closed by Run; nil listens on Port.
	Listener net.Listener
	// Source is the server's certificate. While it has none, handshakes fail and the API server refuses pods.
	Source certs.Source
	// Injection is the settings in force; never nil.
	Injection func() *inject.Config
	// Namespace gives a namespace's labels as the cache has them; false if it has none.
	Namespace func(name string) (map[string]string, bool)
	// Ask gives the labels as the API server has them now: a cache that lags must not leave a pod without its sidecar. It may
	// wait. An error refuses the pod: whether it wants a sidecar can't be known.
	Ask func(ctx context.Context, name string) (map[string]string, error)
	// TrustDomain, RootNamespace and Judge are what objects are judged with (mesh.ParseOptions).
	TrustDomain   string
	RootNamespace string
	Judge         func(*mesh.Object) []mesh.Problem
	// Objects are those of the mesh now: what a new one refers to and is not there is a warning. nil warns of nothing.
	Objects func() []*mesh.Object
	// Events may be nil.
	Events Events
	// Metrics may be nil.
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Server is the webhooks. Build it with New.
type Server struct {
	cfg       Config
	queue     *turn.Queue // of turns to be answered
	bytes     *turn.Share // of bodies
	asks      *asks
	told      pace
	injection *prometheus.CounterVec
	validated *prometheus.CounterVec
}

// New builds a Server; it serves once Run is called.
func New(cfg Config) (*Server, error) {
	s := &Server{
		cfg:   cfg,
		queue: turn.NewQueue(MaxConcurrent, maxWaiting, maxWaitingPerSource),
		bytes: turn.NewShare(maxBytes, maxBytesPerSource),
		asks:  newAsks(cfg.Ask),
		injection: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "signet_injection_total",
			Help: "Pods that the injection webhook was asked about, by result."}, []string{"result"}),
		validated: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "signet_validation_total",
			Help: "Objects that the validation webhook was asked about, by result."}, []string{"result"}),
	}
	if cfg.Metrics != nil {
		for _, c := range []prometheus.Collector{s.injection, s.validated} {
			if err := cfg.Metrics.Register(c); err != nil {
				return nil, fmt.Errorf("registering the webhooks' metrics: %w", err)
			}
		}
	}
	return s, nil
}

// Run serves until ctx ends; requests that are being answered get a few seconds then.
func (s *Server) Run(ctx context.Context) error {
	l := s.cfg.Listener
	if l == nil {
		var err error
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", Port)); err != nil {
			return fmt.Errorf("listening for webhooks: %w", err)
		}
	}
	l = &turn.Listener{Listener: l, Share: turn.NewShare(maxConnections, maxConnectionsPerSource)}
	server := &http.Server{
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams,
			MaxReceiveBufferPerConnection: connectionBuffer, MaxReceiveBufferPerStream: streamBuffer},
		Handler:           s.Handler(),
		ReadHeaderTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout + time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig:      &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate},
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serving webhooks: %w", err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		_ = server.Close()
	}
	<-done
	return nil
}

func (s *Server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if svid := s.cfg.Source.Current().SVID; svid != nil {
		return svid.TLS(), nil
	}
	return nil, certs.ErrNoSVID
}

// Handler is the HTTP side of Run, for tests and for a server that somebody else runs.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+InjectPath, s.door(s.inject))
	mux.Handle("POST "+ValidatePath, s.door(s.validate))
	return mux
}

// podReference is who an Event about a pod that is only being created is about.
func podReference(namespace string, pod *corev1.Pod) *corev1.ObjectReference {
	for _, o := range pod.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			return &corev1.ObjectReference{APIVersion: o.APIVersion, Kind: o.Kind, Namespace: namespace, Name: o.Name, UID: o.UID}
		}
	}
	name := pod.Name
	if name == "" {
		name = pod.GenerateName
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name}
}
