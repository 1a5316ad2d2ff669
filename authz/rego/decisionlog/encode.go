package decisionlog

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// wire is an event in OPA's schema (v1/plugins/logs.EventV1).
type wire struct {
	Labels      map[string]string     `json:"labels"`
	DecisionID  string                `json:"decision_id"`
	Bundles     map[string]bundleInfo `json:"bundles,omitempty"`
	Path        string                `json:"path,omitempty"`
	Query       string                `json:"query,omitempty"`
	Input       *any                  `json:"input,omitempty"`
	Result      *any                  `json:"result,omitempty"`
	Erased      []string              `json:"erased,omitempty"`
	Masked      []string              `json:"masked,omitempty"`
	Error       *failure              `json:"error,omitempty"`
	RequestedBy string                `json:"requested_by,omitempty"`
	Timestamp   time.Time             `json:"timestamp"`
	Metrics     map[string]any        `json:"metrics,omitempty"`
}

type bundleInfo struct {
	Revision string `json:"revision,omitempty"`
}

type failure struct {
	Message string `json:"message"`
}

// encode makes an event's JSON, with what must not be in it gone: first what never may, then what the mask rule says.
func (r *Reporter) encode(ctx context.Context, e *Event) ([]byte, error) {
	w, err := r.wireOf(e)
	if err != nil {
		return nil, err
	}
	w.eraseSecrets(e.Secret)
	if err := r.mask(ctx, w); err != nil {
		return nil, fmt.Errorf("masking: %w", err)
	}
	out, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	if len(out) > MaxEvent {
		return nil, fmt.Errorf("event of more than %d bytes", MaxEvent)
	}
	return out, nil
}

// wireOf copies input and result, so that they can be changed.
func (r *Reporter) wireOf(e *Event) (*wire, error) {
	w := &wire{Labels: r.cfg.Labels, DecisionID: e.ID, Path: e.Path, Query: e.Query, RequestedBy: e.RequestedBy, Timestamp: e.Time.UTC(), Metrics: e.Metrics}
	if w.DecisionID == "" {
		w.DecisionID = newID()
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	if e.Bundle != "" {
		w.Bundles = map[string]bundleInfo{e.Bundle: {e.Revision}}
	}
	if e.Error != "" {
		w.Error = &failure{e.Error}
	}
	var err error
	if w.Input, err = plain(e.Input); err != nil {
		return nil, fmt.Errorf("encoding input: %w", err)
	}
	if w.Result, err = plain(e.Result); err != nil {
		return nil, fmt.Errorf("encoding result: %w", err)
	}
	return w, nil
}

func plain(v ast.Value) (*any, error) {
	if v == nil {
		return nil, nil
	}
	x, err := ast.JSON(v)
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// newID is a random UUID (RFC 9562, version 4), as OPA names decisions.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
