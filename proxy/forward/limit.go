package forward

import (
	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/limit"
)

// limited is the memory of Limit; it belongs to the exchange.
type limited struct {
	fields  []limit.Field
	edits   []authz.HeaderEdit
	shadows []proxy.Shadow
}

// Limit counts the request, as Auth and Judged show it, and adds to Edits what the response is to say of its limits. A
// refusal is the failure RateLimited.
func (x *Exchange) Limit(limits *limit.Set) *proxy.Failure {
	if limits == nil {
		return nil
	}
	m := &x.limited
	v := limits.Take(x.life, &x.Auth, &x.Judged)
	m.fields = v.AppendFields(m.fields[:0])
	if v.Shadow != nil {
		m.shadows = append(append(m.shadows[:0], x.Rec.Shadows...), proxy.Shadow{By: v.Shadow.By, Denied: true})
		x.Rec.Shadows = m.shadows
	}
	if v.Refused != nil {
		x.Rec.DeniedBy = v.Refused.By
		f := proxy.Fail(proxy.RateLimited, v.Detail()+"{"+v.Refused.By+"}", nil)
		for _, field := range m.fields {
			f.Fields = append(f.Fields, proxy.Field{Name: field.Name, Value: field.Value})
		}
		return f
	}
	if len(m.fields) > 0 {
		m.edits = append(m.edits[:0], x.Edits...)
		for _, field := range m.fields {
			m.edits = append(m.edits, authz.HeaderEdit{Op: authz.AppendHeader, Name: field.Name, Value: field.Value})
		}
		x.Edits = m.edits
	}
	return nil
}
