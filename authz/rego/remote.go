package rego

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opabundle "github.com/open-policy-agent/opa/v1/bundle"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/rego/bundle"
	"github.com/signet-mesh/signet/authz/rego/decisionlog"
)

// The words of the two rooms below, for Status.
type (
	BundleStatus      = bundle.Status
	DecisionLogStatus = decisionlog.Counters
)

// defaultMask is OPA's rule that masks decision logs.
const defaultMask = "data.system.log.mask"

// remote is what of a policy speaks to servers.
type remote struct {
	bundle   *bundle.Source
	reporter *decisionlog.Reporter
	mask     ast.Ref
	reported string // spec.query as OPA's decision logs write it
}

// connect makes the bundle's source and the decision log; neither does anything before Run.
func (p *Policy) connect(c Config) error {
	name := c.Namespace + "/" + c.Name
	var err error
	if spec := c.Spec.GetBundle(); spec != nil {
		p.bundle, err = bundle.New(bundle.Config{Spec: spec, Name: name, StateDir: c.StateDir, Log: p.log, Activate: p.activate})
		if err != nil {
			return &fault{field: "bundle", cause: err}
		}
	}
	spec := c.Spec.GetDecisionLog()
	if spec == nil {
		return nil
	}
	mask := spec.GetMaskDecision()
	if mask == "" {
		mask = defaultMask
	}
	if p.mask, err = parseQuery(mask); err != nil {
		_, cause := Field(err)
		return &fault{field: "decisionLog.maskDecision", cause: cause}
	}
	p.reported = decisionlog.PathOf(c.Spec.GetQuery())
	p.reporter, err = decisionlog.New(decisionlog.Config{
		Spec: spec, Name: name, Log: p.log, Mask: p.maskOf,
		Labels: map[string]string{"id": c.Workload, "app": "signet-proxy", "policy": name},
	})
	if err != nil {
		return &fault{field: "decisionLog", cause: err}
	}
	return nil
}

// Run fetches bundles and sends decision logs until ctx ends. It returns at once for a policy that has neither.
func (p *Policy) Run(ctx context.Context) error {
	var running sync.WaitGroup
	errs := make([]error, 2)
	if p.bundle != nil {
		running.Go(func() { errs[0] = p.bundle.Run(ctx) })
	}
	if p.reporter != nil {
		running.Go(func() { errs[1] = p.reporter.Run(ctx) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// activate compiles a bundle and puts it in the place of the one before, which stays if that fails.
func (p *Policy) activate(b *opabundle.Bundle) error {
	m := material{parsed: map[string]*ast.Module{}, data: b.Data, revision: b.Manifest.Revision}
	for _, file := range b.Modules {
		m.parsed[file.Path] = file.Parsed
	}
	s, err := p.compile(m)
	if err != nil {
		return fmt.Errorf("compiling the bundle: %w", err)
	}
	p.current.Store(s)
	return nil
}

// maskOf evaluates the rule that masks a logged decision.
func (p *Policy) maskOf(ctx context.Context, event ast.Value) (any, error) {
	s := p.current.Load()
	if s == nil || len(s.compiler.GetRules(p.mask)) == 0 {
		return nil, nil
	}
	query, err := s.compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(p.mask), ast.NewTerm(resultVar))))
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", p.mask, err)
	}
	of := *s
	of.query = query
	v, err := p.run(ctx, &of, ast.NewTerm(event), true)
	if err != nil || v == nil {
		return nil, err
	}
	return ast.JSON(v)
}

// startLog is when a decision that will be logged began; the zero time if none is.
func (p *Policy) startLog() time.Time {
	if p.reporter == nil {
		return time.Time{}
	}
	return time.Now()
}

// record logs one decision with the input that it was made from.
func (p *Policy) record(started time.Time, s *snapshot, c *authz.Connection, r *authz.Request, v verdict) {
	if p.reporter == nil {
		return
	}
	e := &decisionlog.Event{
		Path: p.reported, Result: v.value, RequestedBy: c.SourceIP.String(), Time: started, Revision: s.revision,
		Metrics: map[string]any{"timer_rego_query_eval_ns": time.Since(started).Nanoseconds()},
	}
	if s.revision != "" {
		e.Bundle = p.namespace + "/" + p.name
	}
	if c.Peer.Proven() {
		e.RequestedBy = c.Peer.ID.String()
	}
	if r != nil && r.Token != nil {
		e.Secret = r.Token.Payload
	}
	if v.answer.Err != nil {
		e.Error = v.answer.Err.Error()
	} else if v.value == nil {
		e.Result = ast.Boolean(v.answer.Allowed)
	}
	if input, err := buildInput(s.reads, c, r, v.decoded); err == nil {
		e.Input = input.Value
	}
	p.reporter.Log(e)
}

func (r *remote) status(s *Status) {
	if r.bundle != nil {
		b := r.bundle.Status()
		s.Bundle = &b
	}
	if r.reporter != nil {
		c := r.reporter.Counters()
		s.DecisionLog = &c
	}
}
