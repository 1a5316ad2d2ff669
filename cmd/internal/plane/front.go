package plane

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/attest"
	"github.com/signet-mesh/signet/ca/caserver"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/adsserver"
)

// streamWorkers are goroutines that serve call after call: a fresh one would first have to grow its stack to what signing takes.
const streamWorkers = 16

// FrontConfig is what NewFront takes.
type FrontConfig struct {
	TrustDomain string
	State       *State
	CA          *ca.CA
	Attestor    *attest.Attestor
	// Own is the control plane's certificate with the bundle that clients are verified by; Roots are sent along with it.
	Own   certs.Source
	Roots func() []*x509.Certificate
	// WatchRoots is adsserver.Config.Roots; nil where roots don't change.
	WatchRoots func() ([]*x509.Certificate, <-chan struct{})
	// Used is adsserver.Config.Used; nil remembers nothing.
	Used adsserver.Used
	// Listener is the control port: CA and ADS over TLS. Run closes it.
	Listener net.Listener
	// Metrics serves /metrics in plaintext; nil serves none. Where Ready is set it also serves /healthz/ready and /status.
	Metrics net.Listener
	// Ready reports whether new clients may come; nil where nobody asks.
	Ready func() bool
	// Standing are the objects that GET /programmed of the metrics port counts proxies for; nil serves none.
	Standing func() []*mesh.Object
	// Collectors are exposed beside the front's own.
	Collectors []prometheus.Collector
	Log        *slog.Logger
}

// Front is where a control plane meets its clients, whatever feeds it: the control port with CA and ADS, the metrics and the
// status.
type Front struct {
	cfg FrontConfig
	ads *adsserver.Server
	// proven serves connections with a client certificate, anonymous those without, which may call the CA only.
	entrance          *entrance
	proven, anonymous *grpc.Server
	registry          *prometheus.Registry
	programmed        programmed
}

// NewFront builds it; nothing is served before Run.
func NewFront(cfg FrontConfig) (*Front, error) {
	ads, err := adsserver.New(adsserver.Config{Source: cfg.State, Log: cfg.Log, Used: cfg.Used, Roots: cfg.WatchRoots})
	if err != nil {
		return nil, err
	}
	door, err := caserver.New(caserver.Options{CA: cfg.CA, Attestor: cfg.Attestor})
	if err != nil {
		return nil, err
	}
	tls := credentials.NewTLS(caserver.TLSConfig(cfg.Own, cfg.Roots))
	both := []grpc.ServerOption{grpc.Creds(shook{tls}), grpc.NumStreamWorkers(streamWorkers)}
	proven := grpc.NewServer(append(append(adsserver.ServerOptions(), grpc.ForceServerCodecV2(newCodec())), both...)...)
	anonymous := grpc.NewServer(append(caserver.ServerOptions(), both...)...)
	door.Register(proven)
	door.Register(anonymous)
	ads.Register(proven)
	registry := prometheus.NewRegistry()
	registry.MustRegister(ads, door, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "signet_quarantined_objects", Help: "Refused security objects without a last good version, which deny what they select.",
	}, cfg.State.quarantined), newProblemMetrics(&cfg.State.findings))
	for _, c := range cfg.Collectors {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return &Front{cfg: cfg, ads: ads, entrance: newEntrance(cfg.Listener, tls), proven: proven, anonymous: anonymous, registry: registry}, nil
}

// ADS is the server of configuration, for who asks which proxies run on what.
func (f *Front) ADS() *adsserver.Server { return f.ads }

// Registry is where further metrics may be registered.
func (f *Front) Registry() *prometheus.Registry { return f.registry }

// Exposed serves the metrics.
func (f *Front) Exposed() http.Handler {
	return promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{})
}

// Run serves until ctx ends. Streams are told to go elsewhere then, and calls that were begun are answered.
func (f *Front) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.ads.Run(ctx) })
	g.Go(func() error { return f.serve(ctx) })
	g.Go(func() error { return f.serveMetrics(ctx) })
	return g.Wait()
}

// serve runs the control port.
func (f *Front) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer context.AfterFunc(ctx, func() { f.cfg.Listener.Close() })()
		return f.entrance.run(ctx)
	})
	g.Go(func() error { return serveGRPC(ctx, f.proven, f.entrance.proven) })
	g.Go(func() error { return serveGRPC(ctx, f.anonymous, f.entrance.anonymous) })
	return g.Wait()
}

// serveGRPC runs one gRPC server; streams get two seconds to end when ctx does.
func serveGRPC(ctx context.Context, server *grpc.Server, l net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		timer := time.AfterFunc(2*time.Second, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	})
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving control port: %w", err)
	}
	return nil
}

func (f *Front) serveMetrics(ctx context.Context) error {
	if f.cfg.Metrics == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", f.Exposed())
	if f.cfg.Ready != nil {
		mux.HandleFunc("GET /healthz/ready", f.ready)
		mux.HandleFunc("GET /status", f.answerStatus)
	}
	if f.cfg.Standing != nil {
		mux.HandleFunc("GET /programmed", f.answerProgrammed)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(f.cfg.Metrics); err != http.ErrServerClosed {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

func (f *Front) ready(w http.ResponseWriter, _ *http.Request) {
	if !f.cfg.Ready() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

func (f *Front) answerStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f.Status())
}
