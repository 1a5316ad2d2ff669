// Package admin is the sidecar's door for the person: HTTP on a 0600 Unix socket or, in a pod, on a port of the loopback
// interface, which the API server's port-forward reaches. Nothing that it answers by itself changes anything.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/netutil"
)

// Config is what a Server needs.
type Config struct {
	// Socket is the path of the Unix socket, in a directory that only its owner may enter; one that a dead process left is
	// replaced.
	Socket string
	// Address is the loopback host:port to serve instead of Socket.
	Address string
	// Status gives the document of GET /status, any JSON value without secrets.
	Status func() any
	// Handlers answer further requests, by pattern of http.ServeMux.
	Handlers map[string]http.Handler
}

// Server is the admin door.
type Server struct{ cfg Config }

// New builds a server; nothing is opened before Run.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Run serves until ctx ends, then removes the socket.
func (s *Server) Run(ctx context.Context) error {
	open := s.openSocket
	if s.cfg.Address != "" {
		open = s.openPort
	}
	ln, err := open()
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(ln); err != http.ErrServerClosed {
		return fmt.Errorf("serving admin requests at %s: %w", ln.Addr(), err)
	}
	return nil
}

func (s *Server) openSocket() (net.Listener, error) {
	if c, err := net.DialTimeout("unix", s.cfg.Socket, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("opening admin socket %s: another process serves it", s.cfg.Socket)
	}
	if err := os.Remove(s.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replacing admin socket: %w", err)
	}
	ln, err := net.Listen("unix", s.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("opening admin socket: %w", err)
	}
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("closing admin socket to others: %w", err)
	}
	return ln, nil
}

// maxConnections bounds those to a port, which every process of the pod can reach.
const maxConnections = 64

func (s *Server) openPort() (net.Listener, error) {
	at, err := netip.ParseAddrPort(s.cfg.Address)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("opening admin port %q: want a loopback address and a port", s.cfg.Address)
	}
	ln, err := net.Listen("tcp", s.cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("opening admin port: %w", err)
	}
	return netutil.LimitListener(ln, maxConnections), nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(s.cfg.Status())
	})
	for pattern, h := range s.cfg.Handlers {
		mux.Handle(pattern, h)
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
