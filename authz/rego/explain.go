package rego

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// Explanation is how a policy judges one request, for a person.
type Explanation struct {
	Answer authz.Answer
	// Query is what was asked, Value its value as JSON; "" if it is undefined or failed.
	Query, Value string
	// Decoded says that it is the decoded reading of the path that decided.
	Decoded bool
	Lowered bool
}

// Explain judges by topdown, and says what the query's value was. It counts nothing and may be slow.
func (p *Policy) Explain(ctx context.Context, c *authz.Connection, r *authz.Request) Explanation {
	s := p.current.Load()
	if s == nil {
		return Explanation{Answer: authz.Answer{Err: errNothing}, Query: p.query.String()}
	}
	e := p.explain(ctx, s, c, r, false)
	if e.Answer.Allowed && r != nil && r.DecodedPath != "" && s.twice {
		if other := p.explain(ctx, s, c, r, true); !other.Answer.Allowed {
			return other
		}
	}
	return e
}

func (p *Policy) explain(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool) Explanation {
	e := Explanation{Query: p.query.String(), Decoded: decoded, Lowered: s.native != nil && !p.distrusted.Load()}
	value, err := p.evaluate(ctx, s, c, r, decoded)
	e.Answer = p.read(value, err)
	if value != nil {
		if plain, err := ast.JSON(value); err == nil {
			text, _ := json.Marshal(plain)
			e.Value = string(text)
		}
	}
	return e
}

// Input is the whole input of a request, as JSON for opa eval --input. decoded asks for the decoded reading of the path.
// The request's headers must be a FieldLister.
func Input(c *authz.Connection, r *authz.Request, decoded bool) ([]byte, error) {
	input, err := buildInput(everything, c, r, decoded)
	if err != nil {
		return nil, err
	}
	plain, err := ast.JSON(input.Value)
	if err != nil {
		return nil, fmt.Errorf("rendering the input: %w", err)
	}
	return json.Marshal(plain)
}
