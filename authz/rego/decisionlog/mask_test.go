package decisionlog

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

func encoded(t *testing.T, e *Event, mask string) map[string]any {
	t.Helper()
	cfg := config("http://logs.example")
	if mask != "" {
		cfg.Mask = func(context.Context, ast.Value) (any, error) {
			var x any
			return x, json.Unmarshal([]byte(mask), &x)
		}
	}
	out, err := reporter(t, cfg).encode(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func text(t *testing.T, x any) string {
	t.Helper()
	out, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestMask(t *testing.T) {
	const input, result = `{"a": {"b": 1, "c": [1, {"d": 2}, 3]}, "x y": 1, "p%q": 2}`, `{"allowed": true, "body": "no"}`
	for _, c := range []struct{ name, mask, input, result, erased, masked string }{
		{"nothing", `[]`, input, result, `null`, `null`},
		{"undefined", `null`, input, result, `null`, `null`},
		{"member", `["/input/a/b"]`, `{"a":{"c":[1,{"d":2},3]},"p%q":2,"x y":1}`, result, `["/input/a/b"]`, `null`},
		{"element", `["/input/a/c/0"]`, `{"a":{"b":1,"c":[{"d":2},3]},"p%q":2,"x y":1}`, result, `["/input/a/c/0"]`, `null`},
		{"inside", `["/input/a/c/1/d"]`, `{"a":{"b":1,"c":[1,{},3]},"p%q":2,"x y":1}`, result, `["/input/a/c/1/d"]`, `null`},
		{"whole", `["/input", "/result/body"]`, `null`, `{"allowed":true}`, `["/input","/result/body"]`, `null`},
		{"not there", `["/input/z/y", "/input/a/c/9", "/input/a/b/c", "/result/x"]`, input, result, `null`, `null`},
		{"object", `[{"op": "remove", "path": "/input/a"}]`, `{"p%q":2,"x y":1}`, result, `["/input/a"]`, `null`},
		{"upsert", `[{"op": "upsert", "path": "/input/a", "value": "**"}, {"op": "upsert", "path": "/result/new/er", "value": {"k": 1}}]`,
			`{"a":"**","p%q":2,"x y":1}`, `{"allowed":true,"body":"no","new":{"er":{"k":1}}}`, `null`, `["/input/a","/result/new/er"]`},
		{"upsert whole", `[{"op": "upsert", "path": "/result", "value": 1}]`, input, `1`, `null`, `["/result"]`},
		{"upsert element", `[{"op": "upsert", "path": "/input/a/c/2", "value": 9}, {"op": "upsert", "path": "/input/a/c/999999999999/x", "value": 9}]`,
			`{"a":{"b":1,"c":[1,{"d":2},9]},"p%q":2,"x y":1}`, result, `null`, `["/input/a/c/2"]`},
		{"escaped", `["/input/x%20y", "/input/p%25q"]`, `{"a":{"b":1,"c":[1,{"d":2},3]}}`, result, `["/input/x%20y","/input/p%25q"]`, `null`},
		{"cache", `["/nd_builtin_cache"]`, input, result, `null`, `null`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Event{ID: "1", Input: value(t, input), Result: value(t, result), Time: time.Now()}
			got := encoded(t, e, c.mask)
			for field, want := range map[string]string{"input": c.input, "result": c.result, "erased": c.erased, "masked": c.masked} {
				var x any
				if err := json.Unmarshal([]byte(want), &x); err != nil {
					t.Fatal(err)
				}
				if text(t, got[field]) != text(t, x) {
					t.Errorf("%s: %s, want %s", field, text(t, got[field]), text(t, x))
				}
			}
			if e.Input.Compare(value(t, input)) != 0 || e.Result.Compare(value(t, result)) != 0 {
				t.Error("the event itself changed")
			}
		})
	}
}

// The mask rule sees the event in OPA's schema, without the secrets that are erased in any case.
func TestMaskInput(t *testing.T) {
	cfg := config("http://logs.example")
	var seen string
	cfg.Mask = func(_ context.Context, v ast.Value) (any, error) { seen = v.String(); return nil, nil }
	e := &Event{ID: "1", Path: "menu/decision", Input: value(t, `{"headers": {"cookie": "hunter2"}, "n": 1}`), Time: time.Unix(0, 5)}
	if _, err := reporter(t, cfg).encode(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	want := `{"decision_id": "1", "erased": ["/input/headers/cookie"], "input": {"headers": {}, "n": 1}, "labels": {"id": "lab/menu-1", "version": "1.0"}, ` +
		`"path": "menu/decision", "timestamp": "1970-01-01T00:00:00.000000005Z"}`
	if seen != want {
		t.Errorf("got  %s\nwant %s", seen, want)
	}
}

func TestSecrets(t *testing.T) {
	const input = `{"attributes": {"request": {"http": {"method": "GET", "path": "/x?a=1&access_token=hunter2&b=2", "query": "access_token=hunter2",
		"headers": {"authorization": "Bearer hunter2", "Cookie": "hunter2", "proxy-authorization": "hunter2", ":path": "/x?access%5Ftoken=hunter2#f", "x-tier": "free"},
		"raw_body": "name=x&access_token=hunter2"}}},
		"parsed_query": {"access_token": ["hunter2"], "a": ["1"]}, "authorization": "a word like others", "path": "/my_access_token=3"}`
	const result = `{"allowed": true, "headers": {"Authorization": "hunter2", "x": "y"}, "response_headers_to_add": [{"set-cookie": "hunter2"}, {"set-cookie": "hunter2", "z": "1"}]}`
	got := encoded(t, &Event{ID: "1", Input: value(t, input), Result: value(t, result), Time: time.Now()}, "")
	all := text(t, got)
	if strings.Contains(all, "hunter2") {
		t.Errorf("a secret is sent: %s", all)
	}
	for _, want := range []string{`"path":"/x?a=1\u0026access_token=\u0026b=2"`, `"x-tier":"free"`, `"authorization":"a word like others"`, `"path":"/my_access_token=3"`,
		`"parsed_query":{"a":["1"]}`, `"response_headers_to_add":[{},{"z":"1"}]`, `"raw_body":"name=x\u0026access_token="`, `#f`} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not in %s", want, all)
		}
	}
	const erased = `["/input/attributes/request/http/headers/Cookie","/input/attributes/request/http/headers/authorization","/input/attributes/request/http/headers/proxy-authorization",` +
		`"/input/parsed_query/access_token","/result/headers/Authorization","/result/response_headers_to_add/0/set-cookie","/result/response_headers_to_add/1/set-cookie"]`
	if text(t, got["erased"]) != erased {
		t.Errorf("erased %s", text(t, got["erased"]))
	}
	const masked = `["/input/attributes/request/http/headers/:path","/input/attributes/request/http/path","/input/attributes/request/http/query","/input/attributes/request/http/raw_body"]`
	if text(t, got["masked"]) != masked {
		t.Errorf("masked %s", text(t, got["masked"]))
	}
}

// A mask rule may put something in the place of a secret.
func TestSecretReplaced(t *testing.T) {
	e := &Event{ID: "1", Input: value(t, `{"headers": {"authorization": "hunter2"}}`), Time: time.Now()}
	got := encoded(t, e, `[{"op": "upsert", "path": "/input/headers/authorization", "value": "**"}]`)
	if text(t, got["input"]) != `{"headers":{"authorization":"**"}}` || text(t, got["masked"]) != `["/input/headers/authorization"]` {
		t.Errorf("got %v", got)
	}
}

// A token is masked wherever it comes, the caller's by its payload and any other by its looks.
func TestTokens(t *testing.T) {
	const (
		payload = "eyJzdWIiOiJhbGljZSJ9"
		token   = "eyJhbGciOiJIUzI1NiJ9." + payload + ".c2lnbmF0dXJl"
	)
	for _, c := range []struct{ name, secret, input, want, erased, masked string }{
		{"header", payload, `{"headers": {"x-jwt": "Token TOKEN", "a": "b"}}`, `{"headers":{"a":"b","x-jwt":"***"}}`, `null`, `["/input/headers/x-jwt"]`},
		{"parameter", payload, `{"http": {"path": "/a?jwt=TOKEN&b=1"}, "parsed_query": {"jwt": ["TOKEN"], "b": ["1"]}}`,
			`{"http":{"path":"/a?jwt=***\u0026b=1"},"parsed_query":{"b":["1"],"jwt":["***"]}}`, `null`, `["/input/http/path","/input/parsed_query/jwt/0"]`},
		{"target", payload, `{"headers": {":path": "/a?jwt=TOKEN#f"}}`, `{"headers":{":path":"/a?jwt=***#f"}}`, `null`, `["/input/headers/:path"]`},
		{"escaped", payload, `{"path": "/a?x=%zz&jwt=%65yJhbGciOiJIUzI1NiJ9%2e%65%79JzdWIiOiJhbGljZSJ9%2Ec2ln"}`, `{"path":"/a?x=%zz\u0026jwt=***"}`, `null`, `["/input/path"]`},
		{"body", payload, `{"body": "{\"t\":\"TOKEN\"}", "parsed_body": {"t": "TOKEN"}}`, `{"body":"{\"t\":\"***\"}","parsed_body":{"t":"***"}}`, `null`, `["/input/body","/input/parsed_body/t"]`},
		{"payload alone", payload, `{"headers": {"x-payload": "` + payload + `"}}`, `{"headers":{"x-payload":"***"}}`, `null`, `["/input/headers/x-payload"]`},
		{"name", payload, `{"parsed_query": {"TOKEN": [""]}}`, `{"parsed_query":{}}`, `["/input/parsed_query/***"]`, `null`},
		{"unverified", "", `{"headers": {"x-jwt": "TOKEN", "x-other": "jwt-TOKEN"}, "path": "/a?jwt=TOKEN", "parsed_query": {"jwt": ["TOKEN"]}}`,
			`{"headers":{"x-jwt":"***","x-other":"***"},"parsed_query":{"jwt":["***"]},"path":"/a?jwt=***"}`, `null`,
			`["/input/headers/x-jwt","/input/headers/x-other","/input/parsed_query/jwt/0","/input/path"]`},
		{"no tokens", "", `{"headers": {"a": "eyJhbGciOiJIUzI1NiJ9", "b": "eyJhIjoxfQ.eyJhIjoxfQ.e30", "host": "one.two.example", "p": "` + payload + `"}}`,
			`{"headers":{"a":"eyJhbGciOiJIUzI1NiJ9","b":"eyJhIjoxfQ.eyJhIjoxfQ.e30","host":"one.two.example","p":"` + payload + `"}}`, `null`, `null`},
		{"short secret", "e30", `{"headers": {"a": "e30e30e30"}}`, `{"headers":{"a":"e30e30e30"}}`, `null`, `null`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := value(t, strings.ReplaceAll(c.input, "TOKEN", token))
			got := encoded(t, &Event{ID: "1", Input: in, Secret: c.secret, Time: time.Now()}, "")
			if text(t, got["input"]) != c.want || text(t, got["erased"]) != c.erased || text(t, got["masked"]) != c.masked {
				t.Errorf("got %s", text(t, got))
			}
		})
	}
	e := &Event{ID: "1", Result: value(t, `{"headers": {"x": "a `+payload+`"}}`), Error: "reading " + token, Secret: payload, Time: time.Now()}
	got := text(t, encoded(t, e, ""))
	if strings.Contains(got, payload) || !strings.Contains(got, `"reading ***"`) || !strings.Contains(got, `"masked":["/error/message","/result/headers/x"]`) {
		t.Errorf("got %s", got)
	}
}
