package rego

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

type native struct{}

func lower(s *snapshot, query ast.Ref) (*native, error) { return nil, errors.New("not yet") }

func (p *Policy) decideNative(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool, n uint64) (authz.Answer, bool) {
	return authz.Answer{}, false
}
