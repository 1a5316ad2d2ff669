package rego

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/signet-mesh/signet/authz"
)

// Limits of what of a body a policy sees.
const (
	// MaxBody is how many bytes of a body are read for a policy that reads it.
	MaxBody = 64 << 10
	// MaxBodyDepth is how deep JSON in a body may nest.
	MaxBodyDepth = 128
	// MaxBodyParts is how many parts of a multipart body are read; one with more is refused.
	MaxBodyParts = 256
)

// parseBody is parsed_body and truncated_body, as opa-envoy-plugin makes them by content-type: JSON, a URL-encoded form
// (an object of arrays), multipart/form-data (an object of arrays, parts of application/json parsed), anything else and
// what is truncated null.
func parseBody(r *authz.Request) (body ast.Value, truncated bool, err error) {
	written, _ := joined(r.Headers, "content-type")
	if len(r.Body) == 0 || r.Truncated {
		return ast.NullValue, r.Truncated, nil
	}
	data := bytes.Clone(r.Body)
	kind := strings.ToLower(written) // media types ignore case (RFC 9110, section 8.3.1), boundaries don't
	var v any
	switch {
	case strings.Contains(kind, "application/json"):
		v, err = parseJSON(data)
	case strings.Contains(kind, "application/x-www-form-urlencoded"):
		v, err = parseForm(data)
	case strings.Contains(kind, "multipart/form-data"):
		v, err = parseMultipart(written, data)
	}
	if err != nil {
		return ast.NullValue, false, err
	}
	body, err = ast.InterfaceToValue(v)
	if err != nil {
		return ast.NullValue, false, fmt.Errorf("reading the body: %w", err)
	}
	return body, false, nil
}

// The errors of a body never repeat it: it may hold secrets.
var (
	errJSON      = errors.New("the body is not JSON")
	errDepth     = fmt.Errorf("the body nests deeper than %d", MaxBodyDepth)
	errForm      = errors.New("the body is not a URL-encoded form")
	errMultipart = errors.New("the body is not multipart/form-data")
	errParts     = fmt.Errorf("the body has more than %d parts", MaxBodyParts)
)

func parseJSON(data []byte) (v any, err error) {
	if depth(data) > MaxBodyDepth {
		return nil, errDepth
	}
	if util.UnmarshalJSON(data, &v) != nil {
		return nil, errJSON
	}
	return v, nil
}

// depth is how deep brackets nest, those in strings aside.
func depth(data []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

func parseForm(data []byte) (any, error) {
	values, err := url.ParseQuery(string(data))
	if err != nil {
		return nil, errForm
	}
	return map[string][]string(values), nil
}

func parseMultipart(kind string, data []byte) (any, error) {
	_, params, err := mime.ParseMediaType(kind)
	if err != nil {
		return nil, errMultipart
	}
	boundary, ok := params["boundary"]
	if !ok {
		return nil, nil
	}
	values := map[string][]any{}
	parts := multipart.NewReader(bytes.NewReader(data), boundary)
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return values, nil
		case err != nil:
			return nil, errMultipart
		case n == MaxBodyParts:
			return nil, errParts
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return nil, errMultipart
		}
		name := part.FormName()
		if name == "" {
			continue
		}
		var v any = string(content)
		if strings.Contains(strings.ToLower(part.Header.Get("Content-Type")), "application/json") {
			if v, err = parseJSON(content); err != nil {
				return nil, err
			}
		}
		values[name] = append(values[name], v)
	}
}
