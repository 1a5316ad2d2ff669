// Package webhook is the door that the API server knocks at: it gives pods their sidecars and judges objects before they are
// stored. Its keeper puts the CA's roots into the webhook configurations.
package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/signet-mesh/signet/certs"
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
)

// Events is told of pods that stay without a sidecar; record.EventRecorder is one.
type Events interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

// Config is what a Server needs. Funcs are called from many goroutines and must answer from memory.
type Config struct {
	// Listener is where it serves, closed by Run; nil listens on Port.
	Listener net.Listener
	// Source is the server's certificate. While it has none, handshakes fail and the API server refuses pods.
	Source certs.Source
	// Injection is the settings in force; never nil.
	Injection func() *inject.Config
	// Namespace gives a namespace's labels. An error refuses the pod: whether it wants a sidecar can't be known.
	// fresh asks the API server itself: a cache that lags must not leave a pod without its sidecar.
	Namespace func(ctx context.Context, name string, fresh bool) (map[string]string, error)
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
	slots     chan struct{} // one for each request that is being answered
	injection *prometheus.CounterVec
	validated *prometheus.CounterVec
}

// New builds a Server; it serves once Run is called.
func New(cfg Config) (*Server, error) {
	s := &Server{
		cfg:   cfg,
		slots: make(chan struct{}, MaxConcurrent),
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
	server := &http.Server{
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

var errBusy = errors.New("too many requests at once")
