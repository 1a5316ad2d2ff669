package rego

import (
	"context"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/signet-mesh/signet/authz"
)

var (
	errTimeout = errors.New("the policy's timeout is over")
	errMany    = errors.New("more than one result")
)

// evaluate builds the input of one reading and asks topdown. The value is nil if the query is undefined.
func (p *Policy) evaluate(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool) (ast.Value, error) {
	input, err := buildInput(s.reads, c, r, decoded)
	if err != nil {
		return nil, err
	}
	return p.run(ctx, s, input, true)
}

// run evaluates the query, with OPA's rule index or without. A panic inside OPA is an error like any other.
func (p *Policy) run(ctx context.Context, s *snapshot, input *ast.Term, indexing bool) (value ast.Value, err error) {
	w := p.watch()
	defer p.release(w)
	defer func() {
		if e := recover(); e != nil {
			value, err = nil, fmt.Errorf("evaluating %s: panic: %v", p.query, e)
		}
	}()
	err = topdown.NewQuery(s.query).WithQueryCompiler(s.queries).WithCompiler(s.compiler).
		WithStore(s.store).WithTransaction(s.txn).WithMetrics(metrics.NoOp()).WithStrictBuiltinErrors(true).
		WithIndexing(indexing).WithCancel(w).WithInput(input).
		Iter(ctx, func(r topdown.QueryResult) error {
			if value != nil {
				return errMany
			}
			if t := r[resultVar]; t != nil {
				value = t.Value
			}
			return nil
		})
	if topdown.IsCancel(err) {
		p.timeouts.Add(1)
		err = fmt.Errorf("%w (%s)", errTimeout, p.timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("evaluating %s: %w", p.query, err)
	}
	return value, nil
}

func isTimeout(err error) bool { return errors.Is(err, errTimeout) }
