package judge

import (
	"context"
	"errors"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
)

var (
	errUnresolved = errors.New("the provider does not exist")
	errEdit       = errors.New("the authority wants to change a field that is not its to change")
)

// ask hands the request to the authorities of one phase whose CUSTOM rules match it. All of them must allow.
func (j Judge) ask(ctx context.Context, k *Case, v *Verdict, handovers []authz.Handover, afterToken bool, t *Trace) *proxy.Failure {
	e := j.Program.Engine()
	for i, h := range handovers {
		if h.Custom.AfterToken != afterToken {
			continue
		}
		rule := e.Handover(i, k.Connection, k.Request)
		if rule == nil {
			continue
		}
		if t.skips(h.Custom) {
			t.handover(h, rule, nil)
			continue
		}
		answer, failure := consult(ctx, k, h.Custom)
		t.handover(h, rule, &answer)
		denied := failure != nil || !answer.Allowed
		if h.DryRun {
			k.Scratch.shadows = append(k.Scratch.shadows, authz.Shadow{Rule: rule, Denied: denied})
			continue
		}
		if failure != nil {
			v.By = h.Custom.Ref
			return failure
		}
		if denied {
			v.By = h.Custom.Ref
			return k.refusal(h.Custom.Ref, &answer)
		}
		if err := k.apply(&answer); err != nil {
			v.By = h.Custom.Ref
			return k.refusal(h.Custom.Ref, &authz.Answer{Err: err})
		}
	}
	return nil
}

// consult reads the body that an authority needs, and asks it.
func consult(ctx context.Context, k *Case, c *authz.Custom) (authz.Answer, *proxy.Failure) {
	if c.Authority == nil {
		return authz.Answer{Err: errUnresolved}, nil
	}
	r := k.Request
	if n := c.Authority.Needs(); n.Body > 0 && r != nil && k.Body != nil {
		body, whole, failure := k.Body.PeekBody(n.Body)
		if failure != nil {
			return authz.Answer{Err: failure}, failure
		}
		if !whole && !n.Partial {
			return authz.Answer{}, proxy.Fail(proxy.BodyTooLarge, "ext_authz_body_too_large", nil)
		}
		r.Body, r.Truncated = body, !whole
		// Neither the next authority nor a later judgement may take it for what it needs.
		defer func() { r.Body, r.Truncated = nil, false }()
	}
	return c.Authority.Ask(ctx, k.Connection, r), nil
}

func deniedBy(ref *authz.RuleRef) string { return "ext_authz_denied{" + ref.By + "}" }

// refusal is the failure of an answer that denies.
func (k *Case) refusal(ref *authz.RuleRef, a *authz.Answer) *proxy.Failure {
	f := &proxy.Failure{Code: proxy.AuthorityDenied, Detail: deniedBy(ref), Status: a.Status, Body: a.Body, Cause: a.Err}
	if a.Err != nil {
		f.Code, f.Detail = proxy.AuthorityFailed, "ext_authz_error{"+ref.By+"}"
	}
	for _, c := range a.Client {
		if c.Op != authz.RemoveHeader && authz.Editable(c.Name) {
			f.Fields = append(f.Fields, proxy.Field{Name: c.Name, Value: c.Value})
		}
	}
	return f
}

// apply makes the changes that an allowing answer asks for.
func (k *Case) apply(a *authz.Answer) error {
	if k.Head == nil {
		return nil
	}
	for _, c := range a.Upstream {
		if !authz.Editable(c.Name) {
			return errEdit
		}
		Edit(k.Head, c)
	}
	for _, c := range a.Client {
		if !authz.Editable(c.Name) {
			return errEdit
		}
	}
	k.Scratch.client = append(k.Scratch.client, a.Client...)
	if len(a.RemoveQuery) > 0 || len(a.SetQuery) > 0 {
		k.Head.Query = editQuery(k.Head.Query, a.RemoveQuery, a.SetQuery)
		k.Request.Query = k.Head.Query
	}
	return nil
}

// Edit makes one change to a head.
func Edit(h *proxy.Head, c authz.HeaderEdit) {
	switch c.Op {
	case authz.SetHeader:
		removeTwins(h, c.Name)
		h.Set(c.Name, c.Value)
	case authz.AppendHeader:
		h.Add(c.Name, c.Value)
	case authz.RemoveHeader:
		h.Del(c.Name)
	case authz.AddHeader:
		if _, _, there := h.HeaderValue(c.Name, 0); !there {
			h.Add(c.Name, c.Value)
		}
	}
}

// removeTwins takes off fields that a program behind CGI or WSGI would read as name, because they differ from it by '_' for
// '-' only: what the mesh states under a name, nobody else may.
func removeTwins(h *proxy.Head, name string) {
	out := h.Fields[:0]
	for _, f := range h.Fields {
		if !twin(f.Name, name) {
			out = append(out, f)
		}
	}
	h.Fields = out
}

func twin(a, b string) bool {
	if len(a) != len(b) || a == b {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x != y && (x != '_' || y != '-') && (x != '-' || y != '_') {
			return false
		}
	}
	return true
}
