// Package rego judges requests by RegoPolicies with OPA in process. Policies of simple forms are lowered to native code;
// all others, and a sample of those, are evaluated by OPA's topdown. Undefined, an error or a timeout is a denial.
package rego

import (
	"context"
	"errors"
	"log/slog"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/mesh/policy"
)

// Config is what a Policy is built from.
type Config struct {
	Namespace, Name string
	Spec            *policy.RegoPolicy
	// Builtins are the built-in functions that the operator allows by name beside the harmless ones.
	Builtins []string
	// Workload (NAMESPACE/NAME) labels decision logs.
	Workload string
	// StateDir keeps the last good bundle over restarts; "" keeps it in memory only.
	StateDir string
	Log      *slog.Logger
}

// Policy is one RegoPolicy, ready to judge. It implements authz.Authority; safe for concurrent use.
type Policy struct{}

// New compiles a policy. The error names the field of the spec (Field) and Rego's own position. It does no I/O: a policy
// with a bundle denies until Run has one.
func New(c Config) (*Policy, error) { return nil, errors.New("not built yet") }

// Run fetches bundles and sends decision logs until ctx ends. It returns at once for a policy that has neither.
func (p *Policy) Run(ctx context.Context) error { return nil }

// Ask implements authz.Authority.
func (p *Policy) Ask(ctx context.Context, c *authz.Connection, r *authz.Request) authz.Answer {
	return authz.Answer{}
}

// Needs implements authz.Authority.
func (p *Policy) Needs() authz.Needs { return authz.Needs{} }
