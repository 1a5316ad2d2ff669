// Package rls serves Envoy's envoy.service.ratelimit.v3.RateLimitService from the global rules of RateLimitPolicies, so that
// an Envoy outside the mesh counts in the same buckets as the sidecars.
package rls

import (
	"log/slog"
	"time"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"google.golang.org/grpc"
)

// Config is what a Server works with.
type Config struct {
	// Registry compiles the rules and knows the store of global limits. Required; nobody else may compile with it.
	Registry *limit.Registry
	Log      *slog.Logger
	// Now is the clock, time.Now where nil.
	Now func() time.Time
}

// Server answers ShouldRateLimit. Safe for concurrent use.
type Server struct{}

// New builds a Server that knows no domain yet.
func New(cfg Config) *Server { return &Server{} }

// Register serves on s.
func (s *Server) Register(g *grpc.Server) {}

// Update replaces the policies.
func (s *Server) Update(policies []*mesh.Typed[*policy.RateLimitPolicy]) error { return nil }
