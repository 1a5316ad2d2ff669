package extauthz

import (
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/signet-mesh/signet/authz"
)

func readDenied(d *auth.DeniedHttpResponse) (a authz.Answer, err error) {
	if code := int(d.GetStatus().GetCode()); code != 0 {
		if code < 200 || code > 599 {
			return authz.Answer{}, fmt.Errorf("the status %d ends no exchange", code)
		}
		a.Status = code
	}
	if len(d.GetBody()) > MaxDenialBody {
		return authz.Answer{}, fmt.Errorf("the body has %d bytes, more than %d", len(d.GetBody()), MaxDenialBody)
	}
	a.Body = d.GetBody()
	if a.Client, err = edits("headers", d.GetHeaders(), authz.SetHeader, nil); err != nil {
		return authz.Answer{}, err
	}
	return a, nil
}

// readOK reads what an approval changes. Without append or append_action a header of the request is set, one of the
// response appended, as opa-envoy-plugin relies on. Dynamic metadata is not used by anything and ignored. ok may be nil.
func readOK(ok *auth.OkHttpResponse, r *authz.Request) (a authz.Answer, err error) {
	a.Allowed = true
	if r == nil { // a connection has nothing to change
		return a, nil
	}
	if a.Upstream, err = edits("headers", ok.GetHeaders(), authz.SetHeader, r.Headers); err != nil {
		return authz.Answer{}, err
	}
	if a.Client, err = edits("response_headers_to_add", ok.GetResponseHeadersToAdd(), authz.AppendHeader, nil); err != nil {
		return authz.Answer{}, err
	}
	removed, err := removals(ok.GetHeadersToRemove())
	if err != nil {
		return authz.Answer{}, fmt.Errorf("headers_to_remove: %w", err)
	}
	a.Upstream = append(a.Upstream, removed...)
	if a.RemoveQuery = ok.GetQueryParametersToRemove(); len(a.RemoveQuery) > MaxEdits {
		return authz.Answer{}, fmt.Errorf("query_parameters_to_remove: more than %d", MaxEdits)
	}
	if len(ok.GetQueryParametersToSet()) > MaxEdits {
		return authz.Answer{}, fmt.Errorf("query_parameters_to_set: more than %d", MaxEdits)
	}
	for _, q := range ok.GetQueryParametersToSet() {
		if len(q.GetKey()) > MaxHeaderName || len(q.GetValue()) > MaxHeaderValue {
			return authz.Answer{}, fmt.Errorf("query_parameters_to_set: %.64q is too long", q.GetKey())
		}
		a.SetQuery = append(a.SetQuery, authz.QueryParam{Name: q.GetKey(), Value: q.GetValue()})
	}
	return a, nil
}

// edits reads a list of headers; first is what is done with one that says nothing of appending. there are the fields of the
// message, nil if they are not known yet.
func edits(what string, list []*core.HeaderValueOption, first authz.HeaderOp, there authz.Headers) ([]authz.HeaderEdit, error) {
	if len(list) > MaxEdits {
		return nil, fmt.Errorf("%s: %d headers, more than %d", what, len(list), MaxEdits)
	}
	out := make([]authz.HeaderEdit, 0, len(list))
	for _, o := range list {
		value := o.GetHeader().GetValue()
		if value == "" {
			value = string(o.GetHeader().GetRawValue())
		}
		op, err := operation(o, first)
		if err != nil {
			return nil, fmt.Errorf("%s: %.64q: %w", what, o.GetHeader().GetKey(), err)
		}
		e, err := authz.NewHeaderEdit(op, o.GetHeader().GetKey(), value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		//lint:ignore SA1019 what servers write
		if o.GetAppend() == nil && o.GetAppendAction() == core.HeaderValueOption_OVERWRITE_IF_EXISTS {
			if there == nil {
				return nil, fmt.Errorf("%s: %.64q: OVERWRITE_IF_EXISTS is only possible for headers of the request", what, e.Name)
			}
			if _, _, is := there.HeaderValue(e.Name, 0); !is {
				continue
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// operation is what append, or where it is absent append_action, asks for. APPEND_IF_EXISTS_OR_ADD cannot be told from an
// absent append_action.
func operation(o *core.HeaderValueOption, first authz.HeaderOp) (authz.HeaderOp, error) {
	//lint:ignore SA1019 deprecated, and what servers write
	if said := o.GetAppend(); said.GetValue() {
		return authz.AppendHeader, nil
	} else if said != nil {
		return authz.SetHeader, nil
	}
	switch o.GetAppendAction() {
	case core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
		return first, nil
	case core.HeaderValueOption_ADD_IF_ABSENT:
		return authz.AddHeader, nil
	case core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, core.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return authz.SetHeader, nil
	}
	return 0, fmt.Errorf("append_action %d is unknown", o.GetAppendAction())
}

// removals are headers to remove from a request. Host and pseudo headers are passed over, as Envoy does.
func removals(names []string) ([]authz.HeaderEdit, error) {
	if len(names) > MaxEdits {
		return nil, fmt.Errorf("%d headers, more than %d", len(names), MaxEdits)
	}
	var out []authz.HeaderEdit
	for _, name := range names {
		if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host") {
			continue
		}
		e, err := authz.NewHeaderEdit(authz.RemoveHeader, name, "")
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
