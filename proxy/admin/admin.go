// Package admin is the sidecar's door for the person on the same machine: HTTP on a 0600 Unix socket. Nothing
// that it answers changes anything.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"
)

// Config is what a Server needs.
type Config struct {
	// Socket is the path of the Unix socket, in a directory that only its owner may enter; one that a dead process left is
	// replaced.
	Socket string
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
	if c, err := net.DialTimeout("unix", s.cfg.Socket, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("opening admin socket %s: another process serves it", s.cfg.Socket)
	}
	if err := os.Remove(s.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replacing admin socket: %w", err)
	}
	ln, err := net.Listen("unix", s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("opening admin socket: %w", err)
	}
	if err := os.Chmod(s.cfg.Socket, 0o600); err != nil {
		ln.Close()
		return fmt.Errorf("closing admin socket to others: %w", err)
	}
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(ln); err != http.ErrServerClosed {
		return fmt.Errorf("serving admin socket: %w", err)
	}
	return nil
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
