// Package sdsserver is Envoy's Secret Discovery Service v3 over gRPC on a Unix socket of the workload's own user: the
// material of sds, pushed as it changes, state of the world and delta.
package sdsserver

import (
	"errors"
	"log/slog"

	"github.com/signet-mesh/signet/certs"
)

// Limits of what clients may ask. Beyond them: ResourceExhausted or InvalidArgument, named.
const (
	MaxNames       = 1000    // resource names a stream
	MaxNameBytes   = 2048    // a resource name, as SPIFFE-ID section 2.3 bounds an ID
	MaxMessage     = 4 << 20 // bytes a received message
	MaxStreams     = 1024    // streams of all clients together
	MaxConnections = 256     // connections of all clients together
)

// Config is what a Server needs.
type Config struct {
	// Socket is the path of the Unix socket, at most 107 bytes.
	Socket string
	Source certs.Source
	// Log gets subscriptions, NACKs and unknown names; never material. Required.
	Log *slog.Logger
}

// Server serves one workload's secrets.
type Server struct {
	cfg       Config
	listening chan struct{}
}

// New checks the configuration; nothing is opened before Run.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Socket == "":
		return nil, errors.New("making SDS server: no socket path")
	case cfg.Source == nil:
		return nil, errors.New("making SDS server: no certificate source")
	case cfg.Log == nil:
		return nil, errors.New("making SDS server: no log")
	}
	return &Server{cfg: cfg, listening: make(chan struct{})}, nil
}

// Listening is closed when the socket takes connections.
func (s *Server) Listening() <-chan struct{} { return s.listening }
