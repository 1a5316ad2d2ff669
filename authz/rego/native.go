package rego

import (
	"context"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// Lowered decisions that are compared with topdown's: the first of each snapshot, then one of every canaryEvery.
const (
	canaryFirst = 64
	canaryEvery = 1024
)

// native is a policy lowered to native code. Immutable but for its memory and its count.
type native struct {
	root   cont
	result int
	frames sync.Pool // of *frame
}

func newNative(slots, result int, root cont) *native {
	return &native{root: root, result: result, frames: sync.Pool{New: func() any { return &frame{slots: make([]value, slots)} }}}
}

// run evaluates one reading. ok is false if native code isn't sure. The value is valid until the frame is put back.
func (n *native) run(f *frame) (v value, ok bool) {
	defer func() {
		if e := recover(); e != nil {
			v, ok = value{}, false
		}
	}()
	n.root(f)
	if f.bail {
		return value{}, false
	}
	if v = f.slots[n.result]; v.kind == unset {
		v.kind = undefined
	}
	return v, true
}

// decideNative answers by native code; ok is false if topdown must. count is the number of the evaluation.
func (p *Policy) decideNative(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool, count uint64) (_ authz.Answer, ok bool) {
	f := s.native.frames.Get().(*frame)
	defer s.native.frames.Put(f)
	f.reset(c, r, decoded)
	v, ok := s.native.run(f)
	if !ok {
		return authz.Answer{}, false
	}
	p.natively.Add(1)
	var value ast.Value
	canary := count-s.since <= canaryFirst || count%canaryEvery == 0
	if v.kind != undefined && (canary || v.kind != boolean) {
		if value = f.toAST(v); value == nil {
			return authz.Answer{}, false
		}
	}
	if canary && !p.agrees(ctx, s, c, r, decoded, value) {
		return authz.Answer{}, false
	}
	if v.kind == boolean {
		return authz.Answer{Allowed: v.b}, true
	}
	return p.answer(value, nil), true
}

// agrees compares a lowered decision with that of topdown without its rule index. After the first difference the policy
// is never again judged by native code. A topdown that ran out of time says nothing, nor does a request that it has no
// input of.
func (p *Policy) agrees(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool, lowered ast.Value) bool {
	input, err := buildInput(s.reads, c, r, decoded)
	if err != nil {
		return true
	}
	asked, err := p.run(ctx, s, input, false)
	switch {
	case isTimeout(err):
		return true
	case err == nil && asked == nil && lowered == nil:
		return true
	case err == nil && asked != nil && lowered != nil && ast.Compare(asked, lowered) == 0:
		return true
	}
	p.differences.Add(1)
	if p.distrusted.CompareAndSwap(false, true) {
		p.log.Error("a lowered decision differs from OPA's; the policy is evaluated by OPA from now on",
			"query", p.query.String(), "revision", s.revision)
	}
	return false
}
