package rego

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

// Limits of what a decision may say. Beyond them it is no decision: the request is denied.
const (
	MaxEdits       = 64 // headers and query parameters, each
	MaxHeaderName  = authz.MaxHeaderName
	MaxHeaderValue = authz.MaxHeaderValue
	MaxDenialBody  = 64 << 10 // bytes
)

// answer reads the result of a query as opa-envoy-plugin does: a boolean, or an object with allowed. headers go to the
// client with a denial and upstream otherwise; http_status and body belong to a denial, response_headers_to_add,
// request_headers_to_remove and the query's parameters to an approval. dynamic_metadata and unknown members are ignored.
// Anything malformed is an error. Strings are copied: the value may share memory with the request.
func answer(v ast.Value) (authz.Answer, error) {
	switch v := v.(type) {
	case ast.Boolean:
		return authz.Answer{Allowed: bool(v)}, nil
	case ast.Object:
		d := decision{v}
		allowed, ok := d.get("allowed").(ast.Boolean)
		switch {
		case !ok:
			return authz.Answer{}, errors.New("allowed is not a boolean")
		case bool(allowed):
			return d.approve()
		}
		return d.deny()
	}
	return authz.Answer{}, fmt.Errorf("%s is neither a boolean nor an object", ast.ValueName(v))
}

// decision is a decision that is an object.
type decision struct{ ast.Object }

func (d decision) get(key string) ast.Value {
	if t := d.Get(ast.InternedTerm(key)); t != nil {
		return t.Value
	}
	return nil
}

func (d decision) deny() (a authz.Answer, err error) {
	if a.Status, err = d.status(); err != nil {
		return authz.Answer{}, err
	}
	if v := d.get("body"); v != nil {
		body, ok := v.(ast.String)
		if !ok || len(body) > MaxDenialBody {
			return authz.Answer{}, fmt.Errorf("body is not a string of at most %d bytes", MaxDenialBody)
		}
		a.Body = strings.Clone(string(body))
	}
	if a.Client, err = d.headers("headers", authz.SetHeader); err != nil {
		return authz.Answer{}, err
	}
	return a, nil
}

func (d decision) approve() (a authz.Answer, err error) {
	a.Allowed = true
	if a.Upstream, err = d.headers("headers", authz.SetHeader); err != nil {
		return authz.Answer{}, err
	}
	if a.Client, err = d.headers("response_headers_to_add", authz.AppendHeader); err != nil {
		return authz.Answer{}, err
	}
	removed, err := d.strings("request_headers_to_remove")
	if err != nil {
		return authz.Answer{}, err
	}
	for _, name := range removed {
		edit, err := authz.NewHeaderEdit(authz.RemoveHeader, name, "")
		if err != nil {
			return authz.Answer{}, fmt.Errorf("request_headers_to_remove: %w", err)
		}
		a.Upstream = append(a.Upstream, edit)
	}
	if a.RemoveQuery, err = d.strings("query_parameters_to_remove"); err != nil {
		return authz.Answer{}, err
	}
	if a.SetQuery, err = d.parameters("query_parameters_to_set"); err != nil {
		return authz.Answer{}, err
	}
	return a, nil
}

// status is http_status: one that HTTP knows and that ends an exchange; 0 (403) where absent.
func (d decision) status() (int, error) {
	v := d.get("http_status")
	if v == nil {
		return 0, nil
	}
	n, ok := v.(ast.Number)
	if !ok {
		return 0, errors.New("http_status is not a number")
	}
	code, ok := n.Int()
	if !ok || code < 200 || http.StatusText(code) == "" {
		return 0, fmt.Errorf("http_status %q is not a status of a final response", n.String())
	}
	return code, nil
}

func (d decision) strings(key string) ([]string, error) {
	v := d.get(key)
	if v == nil {
		return nil, nil
	}
	list, err := stringsOf(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return list, nil
}

// stringsOf reads an array or a set of strings.
func stringsOf(v ast.Value) ([]string, error) {
	var out []string
	err := each(v, func(t *ast.Term) error {
		s, ok := t.Value.(ast.String)
		if !ok || len(out) == MaxEdits {
			return fmt.Errorf("not at most %d strings", MaxEdits)
		}
		out = append(out, strings.Clone(string(s)))
		return nil
	})
	return out, err
}

func each(v ast.Value, f func(*ast.Term) error) error {
	switch v := v.(type) {
	case *ast.Array:
		return v.Iter(f)
	case ast.Set:
		return v.Iter(f)
	}
	return fmt.Errorf("%s is not an array", ast.ValueName(v))
}

// parameters reads an object whose values are strings or arrays of strings.
func (d decision) parameters(key string) ([]authz.QueryParam, error) {
	v := d.get(key)
	if v == nil {
		return nil, nil
	}
	var out []authz.QueryParam
	err := pairs(v, func(name, value string) error {
		if len(out) == MaxEdits {
			return fmt.Errorf("more than %d parameters", MaxEdits)
		}
		out = append(out, authz.QueryParam{Name: name, Value: value})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return out, nil
}

// headers reads an object of strings or arrays of strings, or an array of such objects. The first value of a name is
// set by first, further ones are appended.
func (d decision) headers(key string, first authz.HeaderOp) ([]authz.HeaderEdit, error) {
	v := d.get(key)
	if v == nil {
		return nil, nil
	}
	var out []authz.HeaderEdit
	one := func(v ast.Value) error {
		return pairs(v, func(name, value string) error {
			op := first
			if slices.ContainsFunc(out, func(e authz.HeaderEdit) bool { return strings.EqualFold(e.Name, name) }) {
				op = authz.AppendHeader
			}
			e, err := authz.NewHeaderEdit(op, name, value)
			if err == nil && len(out) == MaxEdits {
				err = fmt.Errorf("more than %d headers", MaxEdits)
			}
			out = append(out, e)
			return err
		})
	}
	var err error
	if list, ok := v.(*ast.Array); ok {
		err = list.Iter(func(t *ast.Term) error { return one(t.Value) })
	} else {
		err = one(v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return out, nil
}

// pairs calls f for each name and value of an object whose values are strings or arrays of strings.
func pairs(v ast.Value, f func(name, value string) error) error {
	o, ok := v.(ast.Object)
	if !ok {
		return fmt.Errorf("%s is not an object", ast.ValueName(v))
	}
	return o.Iter(func(k, v *ast.Term) error {
		name, ok := k.Value.(ast.String)
		if !ok {
			return errors.New("a name is not a string")
		}
		n := strings.Clone(string(name))
		if s, ok := v.Value.(ast.String); ok {
			return f(n, strings.Clone(string(s)))
		}
		values, err := stringsOf(v.Value)
		if err != nil {
			return fmt.Errorf("%q: %w", n, err)
		}
		for _, s := range values {
			if err := f(n, s); err != nil {
				return err
			}
		}
		return nil
	})
}
