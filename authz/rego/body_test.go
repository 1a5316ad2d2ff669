package rego

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-mesh/signet/authz"
)

const parts = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n" +
	"--b\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: application/json\r\n\r\n{\"x\": 2}\r\n--b--\r\n"

func TestParseBody(t *testing.T) {
	many := strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n", MaxBodyParts+1) + "--b--\r\n"
	for _, c := range []struct {
		kind, body string
		truncated  bool
		want       string
		err        error
	}{
		{kind: "application/json", body: `{"a": [1, "b", 1.50]}`, want: `{"a": [1, "b", 1.50]}`},
		{kind: "application/json; charset=utf-8", body: `null`, want: `null`},
		{kind: "Application/JSON", body: `{"a": 1}`, want: `{"a": 1}`},
		{kind: "APPLICATION/JSON ; Charset=UTF-8", body: `{"a": 1}`, want: `{"a": 1}`},
		{kind: "Application/json", body: `{"a": 1`, err: errJSON},
		{kind: "Application/X-WWW-Form-URLEncoded", body: `a=1`, want: `{"a": ["1"]}`},
		{kind: "Multipart/Form-Data; Boundary=B", body: strings.ReplaceAll(strings.ReplaceAll(parts, "--b", "--B"), "application/json", "Application/Json"), want: `{"a": ["1", {"x": 2}]}`},
		{kind: "application/json", body: ``, want: `null`},
		{kind: "application/json", body: `{"a": 1`, truncated: true, want: `null`},
		{kind: "application/json", body: `{"a": 1`, err: errJSON},
		{kind: "application/json", body: `{} {}`, err: errJSON},
		{kind: "application/json", body: strings.Repeat("[", MaxBodyDepth) + strings.Repeat("]", MaxBodyDepth), want: strings.Repeat("[", MaxBodyDepth) + strings.Repeat("]", MaxBodyDepth)},
		{kind: "application/json", body: strings.Repeat("[", MaxBodyDepth+1) + strings.Repeat("]", MaxBodyDepth+1), err: errDepth},
		{kind: "application/json", body: `"` + strings.Repeat(`[\"`, MaxBodyDepth+1) + `"`, want: `"` + strings.Repeat(`[\"`, MaxBodyDepth+1) + `"`},
		{kind: "application/x-www-form-urlencoded", body: `a=1&b=2&a=%20`, want: `{"a": ["1", " "], "b": ["2"]}`},
		{kind: "application/x-www-form-urlencoded", body: `a=%`, err: errForm},
		{kind: "multipart/form-data; boundary=b", body: parts, want: `{"a": ["1", {"x": 2}]}`},
		{kind: "multipart/form-data; boundary=b", body: many, err: errParts},
		{kind: "multipart/form-data; boundary=b", body: parts[:20], err: errMultipart},
		{kind: "multipart/form-data", body: parts, want: `null`},
		{kind: "application/grpc", body: "\x00\x00\x00\x00\x00", want: `null`},
		{body: `{"a": 1}`, want: `null`},
	} {
		r := &authz.Request{Headers: fields{"content-type", c.kind}, Body: []byte(c.body), Truncated: c.truncated}
		got, truncated, err := parseBody(r)
		if !errors.Is(err, c.err) || truncated != c.truncated {
			t.Errorf("%s %.40q: %v, %v", c.kind, c.body, truncated, err)
		}
		if err == nil {
			if want := ast.MustParseTerm(c.want).Value; ast.Compare(got, want) != 0 {
				t.Errorf("%s %.40q: %v, want %v", c.kind, c.body, got, want)
			}
		}
	}
}

// TestBadBody is answered 400 where the policy reads the body, and the error does not repeat it.
func TestBadBody(t *testing.T) {
	p := made(t, "package m\nallow if not input.parsed_body.a", "data.m.allow")
	r := &authz.Request{Method: "POST", Path: "/", Headers: fields{"content-type", "application/json"}, Body: []byte(`{"secret`)}
	a := p.Ask(t.Context(), peer(t, ""), r)
	if a.Allowed || a.Status != 400 || a.Err == nil || strings.Contains(fmt.Sprint(a.Err), "secret") {
		t.Errorf("%+v", a)
	}
}
