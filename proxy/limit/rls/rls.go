// Package rls serves Envoy's envoy.service.ratelimit.v3.RateLimitService from the global rules of RateLimitPolicies, so that
// an Envoy outside the mesh counts in the same buckets as the sidecars.
//
// The domain is NAMESPACE/NAME of a RateLimitPolicy with global rules. Each descriptor is read as one request, which
// limit.Set judges as it does in the corridor; several are all counted, and one that is over its limit is enough. What the
// operator of the Envoy got wrong (a domain that is not there, a key that can't be one) is a gRPC error, after which Envoy's
// failure_mode_deny decides. What a client can bring about (a path that is none, a value that is too long) must not open a
// limit, and is OVER_LIMIT.
//
// Whoever may call this service can say to be any identity and can use limits up: it is for Envoys one trusts.
package rls

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/policy"
	"github.com/signet-mesh/signet/proxy/limit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Limits of a request.
const (
	maxDomain      = 512 // bytes
	maxDescriptors = 16
	maxEntries     = 32   // of a descriptor
	maxKey         = 256  // bytes
	maxValue       = 8192 // bytes
	maxHits        = 1000 // of all descriptors together
)

// Config is what a Server works with.
type Config struct {
	// Registry compiles the rules and knows the store of global limits. Required; it may be the corridor's.
	Registry *limit.Registry
	// Normalization is the mesh's, for paths.
	Normalization mesh.Normalization
}

// Server answers ShouldRateLimit. Safe for concurrent use.
type Server struct {
	ratelimit.UnimplementedRateLimitServiceServer
	cfg     Config
	domains atomic.Pointer[map[string]*limit.Set]
}

// New builds a Server that knows no domain yet.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg}
	s.domains.Store(&map[string]*limit.Set{})
	return s
}

// Register serves on g.
func (s *Server) Register(g *grpc.Server) { ratelimit.RegisterRateLimitServiceServer(g, s) }

// Update replaces the policies. Only those with global rules are domains, and quarantined ones, which refuse everything. A
// policy that does not compile is left as it was, and the error says so (each a *limit.FieldError). Not safe for concurrent
// use with itself.
func (s *Server) Update(policies []*mesh.Typed[*policy.RateLimitPolicy]) error {
	old, next := *s.domains.Load(), map[string]*limit.Set{}
	var failed []error
	for _, p := range policies {
		if len(p.Spec.GetGlobal().GetRules()) == 0 && !p.Quarantined() {
			continue
		}
		domain := p.Namespace + "/" + p.Name
		spec := &policy.RateLimitPolicy{}
		if p.Spec != nil {
			spec = proto.CloneOf(p.Spec)
			spec.Local = nil // counted by each proxy for itself
		}
		set, err := s.cfg.Registry.Compile([]*mesh.Typed[*policy.RateLimitPolicy]{{Meta: p.Meta, Spec: spec}})
		if err != nil {
			failed = append(failed, err)
			set = old[domain]
		}
		if set != nil {
			next[domain] = set
		}
	}
	s.domains.Store(&next)
	return errors.Join(failed...)
}

// ShouldRateLimit is the service's only method.
func (s *Server) ShouldRateLimit(ctx context.Context, r *ratelimit.RateLimitRequest) (*ratelimit.RateLimitResponse, error) {
	if len(r.GetDomain()) > maxDomain || len(r.GetDescriptors()) == 0 || len(r.GetDescriptors()) > maxDescriptors {
		return nil, status.Errorf(codes.InvalidArgument, "a domain of %d bytes with %d descriptors: there are up to %d bytes, and 1 to %d descriptors",
			len(r.GetDomain()), len(r.GetDescriptors()), maxDomain, maxDescriptors)
	}
	set := (*s.domains.Load())[r.GetDomain()]
	if set == nil {
		return nil, status.Errorf(codes.NotFound, "domain %q is not NAMESPACE/NAME of a RateLimitPolicy with global rules", r.GetDomain())
	}
	asked := make([]*question, len(r.GetDescriptors()))
	var total uint64
	for i, d := range r.GetDescriptors() {
		q, err := s.read(d, r.GetHitsAddend())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "descriptor %d: %v", i, err)
		}
		if total += min(q.hits, maxHits+1); total > maxHits {
			return nil, status.Errorf(codes.InvalidArgument, "more than %d hits", maxHits)
		}
		asked[i] = q
	}
	return answer(ctx, set, asked)
}

// answer counts all descriptors, also those after one that is over its limit, as the corridor counts all rules.
func answer(ctx context.Context, set *limit.Set, asked []*question) (*ratelimit.RateLimitResponse, error) {
	out := &ratelimit.RateLimitResponse{OverallCode: ratelimit.RateLimitResponse_OK}
	var tightest limit.Verdict
	for _, q := range asked {
		v, over := q.put(ctx, set)
		if err := ctx.Err(); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		st := describe(&v)
		if over {
			st.Code = ratelimit.RateLimitResponse_OVER_LIMIT
			out.OverallCode = st.Code
		}
		out.Statuses = append(out.Statuses, st)
		if tighter(&v, &tightest) {
			tightest = v
		}
	}
	for _, f := range tightest.AppendFields(nil) {
		out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, &core.HeaderValue{Key: f.Name, Value: f.Value})
	}
	return out, nil
}

// tighter says which of two verdicts a caller should hear of: the longer refusal, else the lower rest.
func tighter(v, than *limit.Verdict) bool {
	switch {
	case v.Refused != nil || than.Refused != nil:
		return v.Refused != nil && (than.Refused == nil || v.Retry > than.Retry)
	case v.Tightest == nil || than.Tightest == nil:
		return v.Tightest != nil
	}
	return v.Grant.Remaining < than.Grant.Remaining
}

func describe(v *limit.Verdict) *ratelimit.RateLimitResponse_DescriptorStatus {
	st := &ratelimit.RateLimitResponse_DescriptorStatus{Code: ratelimit.RateLimitResponse_OK}
	if v.Tightest == nil {
		return st
	}
	b := &v.Tightest.Bucket
	st.CurrentLimit = &ratelimit.RateLimitResponse_RateLimit{Name: fmt.Sprint(v.Tightest.Ref.Namespace, "/", v.Tightest.Ref.Policy), RequestsPerUnit: b.Requests, Unit: unit(b)}
	st.LimitRemaining = v.Grant.Remaining
	st.DurationUntilReset = durationpb.New(v.Grant.Reset)
	return st
}

func unit(b *limit.Bucket) ratelimit.RateLimitResponse_RateLimit_Unit {
	switch {
	case b.Calendar == policy.Limit_Day:
		return ratelimit.RateLimitResponse_RateLimit_DAY
	case b.Calendar == policy.Limit_Month:
		return ratelimit.RateLimitResponse_RateLimit_MONTH
	case b.Period == time.Second:
		return ratelimit.RateLimitResponse_RateLimit_SECOND
	case b.Period == time.Minute:
		return ratelimit.RateLimitResponse_RateLimit_MINUTE
	case b.Period == time.Hour:
		return ratelimit.RateLimitResponse_RateLimit_HOUR
	}
	return ratelimit.RateLimitResponse_RateLimit_UNKNOWN
}
