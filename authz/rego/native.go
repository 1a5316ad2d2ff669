package rego

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// Lowered decisions that are compared with topdown's: the first of each snapshot, then one of every canaryEvery.
const (
	canaryFirst = 64
	canaryEvery = 4096
)

// native is a policy lowered to native code. Immutable but for its memory and its counts.
type native struct {
	root unit
	// simple says that the value is true or false wherever native code is sure, or undefined.
	simple bool
	frames sync.Pool    // of *frame
	made   atomic.Int32 // frames
	young  atomic.Int32 // decisions that are still to be compared before one of canaryEvery is
}

func newNative(n sizes, root unit, simple bool) *native {
	out := &native{root: root, simple: simple}
	out.frames.New = func() any { return newFrame(n, int(out.made.Add(1))) }
	out.young.Store(canaryFirst)
	return out
}

// run evaluates one reading. ok is false if native code isn't sure. The value is valid until the frame is put back.
func (n *native) run(f *frame) (v value, ok bool) {
	defer func() {
		if e := recover(); e != nil {
			v, ok = value{}, false
		}
	}()
	v = n.root(f)
	return v, !f.bail
}

// quick judges by a lowered policy whose decision is true or false. ok is false if there is more to it.
func (p *Policy) quick(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request) (allowed, ok bool) {
	if !s.native.simple {
		return false, false
	}
	f := s.native.frames.Get().(*frame)
	defer s.native.frames.Put(f)
	for decoded := false; ; decoded = true {
		f.reset(c, r, decoded)
		v, ok := p.trusted(ctx, s, f)
		switch {
		case !ok || v.kind != boolean: // judged again, and counted then
			if ok {
				p.natively.undo(f.shard)
			}
			if decoded {
				p.natively.undo(f.shard)
			}
			return false, false
		case !v.b, decoded, r == nil, r.DecodedPath == "", !s.twice:
			return v.b, true
		}
	}
}

// trusted runs one reading and compares its value with topdown's if its turn has come. ok is false if native code isn't
// sure, or was wrong.
func (p *Policy) trusted(ctx context.Context, s *snapshot, f *frame) (v value, ok bool) {
	if v, ok = s.native.run(f); !ok {
		return v, false
	}
	n := p.natively.add(f.shard)
	young := s.native.young.Load() > 0 && s.native.young.Add(-1) >= 0
	if n%canaryEvery != 0 && !young {
		return v, true
	}
	if !p.agrees(ctx, s, f, v) {
		p.natively.undo(f.shard)
		return v, false
	}
	return v, true
}

// decideNative answers by native code; ok is false if topdown must.
func (p *Policy) decideNative(ctx context.Context, s *snapshot, c *authz.Connection, r *authz.Request, decoded bool) (out verdict, ok bool) {
	f := s.native.frames.Get().(*frame)
	defer s.native.frames.Put(f)
	f.reset(c, r, decoded)
	out.decoded = decoded
	v, ok := p.trusted(ctx, s, f)
	switch {
	case !ok:
		return verdict{}, false
	case v.kind == boolean:
		out.answer.Allowed = v.b
		return out, true
	case v.kind == undefined:
		out.answer = p.answer(nil, nil)
		return out, true
	}
	of := f.toAST(v)
	if of == nil {
		return verdict{}, false
	}
	out.answer = p.answer(of, nil)
	if p.reporter != nil {
		out.value = owned(of)
	}
	return out, true
}

// owned copies a value that may share memory with the request or the frame, for the decision log.
func owned(v ast.Value) ast.Value {
	copied := func(t *ast.Term) *ast.Term { return ast.NewTerm(owned(t.Value)) }
	switch v := v.(type) {
	case ast.String:
		return ast.String(strings.Clone(string(v)))
	case ast.Number:
		return ast.Number(strings.Clone(string(v)))
	case *ast.Array:
		out := make([]*ast.Term, 0, v.Len())
		v.Foreach(func(t *ast.Term) { out = append(out, copied(t)) })
		return ast.NewArray(out...)
	case ast.Set:
		out := ast.NewSet()
		v.Foreach(func(t *ast.Term) { out.Add(copied(t)) })
		return out
	case ast.Object:
		out := ast.NewObject()
		v.Foreach(func(key, member *ast.Term) { out.Insert(copied(key), copied(member)) })
		return out
	}
	return v
}

// agrees compares a lowered decision with that of topdown without its rule index. After the first difference the policy
// is never again judged by native code. A topdown that ran out of time says nothing, nor does a request that it has no
// input of.
func (p *Policy) agrees(ctx context.Context, s *snapshot, f *frame, v value) bool {
	input, err := buildInput(s.reads, f.c, f.r, f.decoded)
	if err != nil {
		return true
	}
	var lowered ast.Value
	if v.kind != undefined {
		if lowered = f.toAST(v); lowered == nil {
			return false
		}
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
