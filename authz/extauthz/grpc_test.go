package extauthz_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	httptype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/extauthz"
)

func option(name, value string, action core.HeaderValueOption_HeaderAppendAction) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}, AppendAction: action}
}

func appended(name, value string, yes bool) *core.HeaderValueOption {
	//lint:ignore SA1019 what servers write
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(yes)}
}

func approval(ok *auth.OkHttpResponse) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpc.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}
}

func denial(d *auth.DeniedHttpResponse) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpc.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: d}}
}

func broken(d *auth.DeniedHttpResponse) *auth.CheckResponse {
	return &auth.CheckResponse{Status: &rpc.Status{Code: int32(codes.Internal)}, HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: d}}
}

func setting(options ...*core.HeaderValueOption) *auth.CheckResponse {
	return approval(&auth.OkHttpResponse{Headers: options})
}

func many(n int) (out []*core.HeaderValueOption) {
	for range n {
		out = append(out, option("x-a", "1", 0))
	}
	return out
}

// verdict is an answer without its error.
func verdict(a authz.Answer) authz.Answer {
	a.Err = nil
	return a
}

func TestAnswersOverGRPC(t *testing.T) {
	const (
		absent = core.HeaderValueOption_ADD_IF_ABSENT
		over   = core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		there  = core.HeaderValueOption_OVERWRITE_IF_EXISTS
	)
	set, more, add, remove := authz.SetHeader, authz.AppendHeader, authz.AddHeader, authz.RemoveHeader
	allowed := func(edits ...authz.HeaderEdit) authz.Answer { return authz.Answer{Allowed: true, Upstream: edits} }
	refused := authz.Answer{Status: 503}
	for _, c := range []struct {
		name   string
		answer *auth.CheckResponse
		want   authz.Answer
		err    string
	}{
		{"ok", okay(), allowed(), ""},
		{"ok without a status", &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{}}, allowed(), ""},
		{"nothing at all", &auth.CheckResponse{}, refused, "neither a status"},
		{"ok and denied", &auth.CheckResponse{HttpResponse: &auth.CheckResponse_DeniedResponse{}}, refused, "its status is OK"},
		{"ok and an error", &auth.CheckResponse{HttpResponse: &auth.CheckResponse_ErrorResponse{}}, refused, "its status is OK"},
		{"denied by status", &auth.CheckResponse{Status: &rpc.Status{Code: 7}}, authz.Answer{}, ""},
		{"denied in spite of an ok_response", &auth.CheckResponse{Status: &rpc.Status{Code: 7}, HttpResponse: &auth.CheckResponse_OkResponse{}}, authz.Answer{}, ""},
		{"denied", denial(&auth.DeniedHttpResponse{Status: &httptype.HttpStatus{Code: 401}, Body: "who?", Headers: []*core.HeaderValueOption{option("WWW-Authenticate", "Basic", 0)}}),
			authz.Answer{Status: 401, Body: "who?", Client: []authz.HeaderEdit{{Op: set, Name: "www-authenticate", Value: "Basic"}}}, ""},
		{"denied with an informational status", denial(&auth.DeniedHttpResponse{Status: &httptype.HttpStatus{Code: 100}}), refused, "100 ends no exchange"},
		{"denied with a long body", denial(&auth.DeniedHttpResponse{Body: strings.Repeat("x", extauthz.MaxDenialBody+1)}), refused, "more than 65536"},
		{"denied with too many headers", denial(&auth.DeniedHttpResponse{Headers: many(extauthz.MaxEdits + 1)}), refused, "more than 64"},
		{"an error", broken(&auth.DeniedHttpResponse{Status: &httptype.HttpStatus{Code: 502}, Body: "sorry"}), authz.Answer{Status: 502, Body: "sorry"}, "error_response"},
		{"an error without a status", broken(nil), refused, "error_response"},
		{"a header", setting(option("X-User", " ann ", 0)), allowed(authz.HeaderEdit{Op: set, Name: "x-user", Value: "ann"}), ""},
		{"append true", setting(appended("x-a", "1", true)), allowed(authz.HeaderEdit{Op: more, Name: "x-a", Value: "1"}), ""},
		{"append false", setting(appended("x-a", "1", false)), allowed(authz.HeaderEdit{Op: set, Name: "x-a", Value: "1"}), ""},
		{"if absent", setting(option("x-a", "1", absent)), allowed(authz.HeaderEdit{Op: add, Name: "x-a", Value: "1"}), ""},
		{"overwrite or add", setting(option("x-a", "1", over)), allowed(authz.HeaderEdit{Op: set, Name: "x-a", Value: "1"}), ""},
		{"overwrite what is there", setting(option("x-there", "1", there), option("x-none", "1", there)), allowed(authz.HeaderEdit{Op: set, Name: "x-there", Value: "1"}), ""},
		{"an unknown action", setting(option("x-a", "1", 9)), refused, "append_action 9"},
		{"a raw value", setting(&core.HeaderValueOption{Header: &core.HeaderValue{Key: "x-a", RawValue: []byte("\xff")}}), allowed(authz.HeaderEdit{Op: set, Name: "x-a", Value: "\xff"}), ""},
		{"removals", approval(&auth.OkHttpResponse{HeadersToRemove: []string{"Authorization", ":path", "Host"}}), allowed(authz.HeaderEdit{Op: remove, Name: "authorization"}), ""},
		{"response headers", approval(&auth.OkHttpResponse{ResponseHeadersToAdd: []*core.HeaderValueOption{option("set-cookie", "a", 0), option("x-b", "b", over)}}),
			authz.Answer{Allowed: true, Client: []authz.HeaderEdit{{Op: more, Name: "set-cookie", Value: "a"}, {Op: set, Name: "x-b", Value: "b"}}}, ""},
		{"an impossible response header", approval(&auth.OkHttpResponse{ResponseHeadersToAdd: []*core.HeaderValueOption{option("x-b", "b", there)}}), refused, "only possible for headers of the request"},
		{"the query", approval(&auth.OkHttpResponse{QueryParametersToRemove: []string{"a"}, QueryParametersToSet: []*core.QueryParameter{{Key: "b", Value: "c d"}}}),
			authz.Answer{Allowed: true, RemoveQuery: []string{"a"}, SetQuery: []authz.QueryParam{{Name: "b", Value: "c d"}}}, ""},
		{"too long a parameter", approval(&auth.OkHttpResponse{QueryParametersToSet: []*core.QueryParameter{{Key: strings.Repeat("b", 257)}}}), refused, "too long"},
		{"too many parameters", approval(&auth.OkHttpResponse{QueryParametersToRemove: make([]string, 65)}), refused, "query_parameters_to_remove"},
		{"no name", setting(option("", "1", 0)), refused, "not the name of a header"},
		{"a name with a space", setting(option("x a", "1", 0)), refused, "not the name of a header"},
		{"a pseudo header", setting(option(":path", "/", 0)), refused, "not the name of a header"},
		{"a second line", setting(option("x-a", "1\r\nx-b: 2", 0)), refused, "control character"},
		{"a NUL", setting(option("x-a", "1\x00", 0)), refused, "control character"},
		{"a long value", setting(option("x-a", strings.Repeat("1", extauthz.MaxHeaderValue+1), 0)), refused, "more than 8192"},
		{"the host", setting(option("Host", "evil", 0)), refused, "may not be changed"},
		{"the length", setting(option("content-length", "0", 0)), refused, "may not be changed"},
		{"the framing", setting(option("Transfer-Encoding", "chunked", 0)), refused, "may not be changed"},
		{"the caller", setting(option("x-forwarded-client-cert", "URI=spiffe://x", 0)), refused, "may not be changed"},
		{"the caller taken off", approval(&auth.OkHttpResponse{HeadersToRemove: []string{"x-forwarded-client-cert"}}), refused, "may not be changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, c.answer)
			a := build(t, overGRPC(&grpcProvider{StatusOnError: "503"}), s.address, nil).Ask(t.Context(), caller(t), get("/", "x-there", "0"))
			if got := normal(verdict(a)); !reflect.DeepEqual(got, normal(c.want)) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if (c.err == "") != (a.Err == nil) || a.Err != nil && !strings.Contains(a.Err.Error(), c.err) {
				t.Errorf("error %v, want %q", a.Err, c.err)
			}
			// What an authorizer says but must not never opens, what it says of its own failure does.
			open := build(t, overGRPC(&grpcProvider{FailOpen: true}), s.address, nil).Ask(t.Context(), caller(t), get("/", "x-there", "0"))
			if fails := c.err == "error_response"; open.FailedOpen != fails || open.Allowed != (fails || c.want.Allowed) {
				t.Errorf("with failOpen: %+v", open)
			}
		})
	}
}

// normal makes empty lists nil.
func normal(a authz.Answer) authz.Answer {
	if len(a.Client) == 0 {
		a.Client = nil
	}
	if len(a.Upstream) == 0 {
		a.Upstream = nil
	}
	return a
}

func TestConnectionsOverGRPC(t *testing.T) {
	s := newServer(t, okay())
	c := build(t, overGRPC(&grpcProvider{}), s.address, nil)
	if a := c.Ask(t.Context(), caller(t), nil); !a.Allowed || a.Err != nil {
		t.Errorf("%+v", a)
	}
	if r := s.last(t).GetAttributes(); r.GetRequest() != nil || r.GetSource().GetPrincipal() != "spiffe://mesh.local/ns/lab/sa/web" ||
		r.GetDestination().GetPrincipal() != "spiffe://mesh.local/ns/lab/sa/oven" || r.GetTlsSession().GetSni() != "oven.lab" {
		t.Errorf("asked %v", r)
	}
	s.set(answers(denial(nil)))
	if a := c.Ask(t.Context(), caller(t), nil); a.Allowed {
		t.Errorf("%+v", a)
	}
}

func TestFailuresOverGRPC(t *testing.T) {
	hang := func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, c := range []struct {
		name   string
		answer func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)
		want   string
	}{
		{"it hangs", hang, "no answer "},
		{"it errs", func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
			return nil, status.Error(codes.Internal, "secret-token")
		}, "gRPC status Internal"},
		{"too large an answer", answers(setting(option("x", strings.Repeat("x", extauthz.MaxAnswerBytes), 0))), "gRPC status ResourceExhausted"},
	} {
		for _, open := range []bool{false, true} {
			s, log := newServer(t, nil), &journal{}
			s.set(c.answer)
			p := build(t, overGRPC(&grpcProvider{FailOpen: open, StatusOnError: "500", Timeout: durationpb.New(200 * time.Millisecond)}), s.address, log)
			a := p.Ask(t.Context(), caller(t), get("/"))
			if a.Allowed != open || a.FailedOpen != open || a.Err == nil || !strings.Contains(a.Err.Error(), c.want) || !open && a.Status != 500 {
				t.Errorf("%s, open %v: %+v", c.name, open, a)
			}
			if strings.Contains(log.String()+a.Err.Error(), "secret-token") || !strings.Contains(log.String(), "external authorizer fails") {
				t.Errorf("%s: logged %s", c.name, log)
			}
		}
	}
}

// A caller who gives up says nothing about the authorizer, and opens nothing.
func TestCallerGone(t *testing.T) {
	s, log := newServer(t, nil), &journal{}
	asked := make(chan struct{})
	s.set(func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := build(t, overGRPC(&grpcProvider{FailOpen: true}), s.address, log)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if a := c.Ask(ctx, caller(t), get("/")); a.Allowed || a.Err == nil || log.String() != "" {
		t.Errorf("%+v, logged %s", a, log)
	}
}

func TestRestartOverGRPC(t *testing.T) {
	s, log := &server{answer: answers(okay())}, &journal{}
	stop := s.listen(t, "127.0.0.1:0")
	c := build(t, overGRPC(&grpcProvider{}), s.address, log)
	ask := func() bool { return c.Ask(t.Context(), caller(t), get("/")).Allowed }
	if !ask() {
		t.Fatal("denied")
	}
	stop()
	for range 20 {
		if ask() {
			t.Fatal("allowed by nobody")
		}
	}
	s.listen(t, s.address)
	eventually(t, "the authorizer is back", ask)
	if got := log.String(); strings.Count(got, "external authorizer fails") != 1 || strings.Count(got, "answers again") != 1 {
		t.Errorf("logged %s", got)
	}
}

// A listener that never speaks, and one that ends every connection.
func TestSilentEndpoint(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	held.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			held.Go(func() { io.Copy(io.Discard, conn); conn.Close() })
		}
	})
	c := build(t, overGRPC(&grpcProvider{Timeout: durationpb.New(200 * time.Millisecond)}), l.Addr().String(), nil)
	if a := c.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil || !strings.Contains(a.Err.Error(), "no answer within") {
		t.Errorf("%+v", a)
	}
	c.Close()
	l.Close()
	held.Wait() // its connections ended with the client
}

func TestCloseEndsWhatIsInFlight(t *testing.T) {
	s := newServer(t, nil)
	asked := make(chan struct{}, 1)
	s.set(func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := build(t, overGRPC(&grpcProvider{FailOpen: true}), s.address, nil)
	go func() { <-asked; c.Close() }()
	if a := c.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("in flight: %+v", a)
	}
	if a := c.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("afterwards: %+v", a)
	}
}

func TestUnshowableOverGRPC(t *testing.T) {
	s := newServer(t, okay())
	body := &bodyInCheck{MaxRequestBytes: 1 << 20, AllowPartialMessage: true}
	with := func(r *authz.Request, change func(*authz.Request)) *authz.Request { change(r); return r }
	for _, c := range []struct {
		name   string
		r      *authz.Request
		status int
		want   string
	}{
		{"a header that is not UTF-8", get("/", "x-a", "\xff"), 400, `"x-a" is not UTF-8`},
		{"a path that is not UTF-8", get("/\xff"), 400, "is not UTF-8"},
		{"a host that is not UTF-8", with(get("/"), func(r *authz.Request) { r.Host = "\xff" }), 400, "is not UTF-8"},
		{"a body that is not UTF-8", with(get("/"), func(r *authz.Request) { r.Body = []byte("\xff") }), 400, "packAsBytes"},
		{"headers without a list", with(get("/"), func(r *authz.Request) { r.Headers = unlisted{} }), 0, "cannot list"},
		{"a malformed name", get("/", "x a", ""), 400, "malformed"},
		{"more than a message", get("/", "x-a", strings.Repeat("x", extauthz.MaxCheckBytes)), 400, "more than 4194304"},
	} {
		a := build(t, overGRPC(&grpcProvider{FailOpen: true, IncludeRequestBodyInCheck: body}), s.address, nil).Ask(t.Context(), caller(t), c.r)
		if a.Allowed || a.Status != c.status || a.Err == nil || !strings.Contains(a.Err.Error(), c.want) {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
	if len(s.seen) != 0 {
		t.Errorf("the authorizer was asked %v", s.seen)
	}
}

func TestBodyOverGRPC(t *testing.T) {
	for _, c := range []struct {
		name      string
		packed    bool
		body      string
		truncated bool
		want, raw string
		partial   string
	}{
		{"none", false, "", false, "", "", ""},
		{"whole", false, "né", false, "né", "", "false"},
		{"cut", false, "né"[:2], true, "n", "", "true"},
		{"cut after a character", false, "né", true, "né", "", "true"},
		{"packed", true, "n\xff", true, "", "n\xff", "true"},
	} {
		s := newServer(t, okay())
		p := build(t, overGRPC(&grpcProvider{IncludeRequestBodyInCheck: &bodyInCheck{MaxRequestBytes: 10, AllowPartialMessage: true, PackAsBytes: c.packed}}), s.address, nil)
		if n := p.Needs(); n != (authz.Needs{Body: 10, Partial: true}) {
			t.Errorf("needs %+v", n)
		}
		r := get("/", "x-envoy-auth-partial-body", "forged")
		r.Method, r.Body, r.Truncated = http.MethodPost, []byte(c.body), c.truncated
		if a := p.Ask(t.Context(), caller(t), r); !a.Allowed {
			t.Errorf("%s: %+v", c.name, a)
		}
		h := s.last(t).GetAttributes().GetRequest().GetHttp()
		if h.Body != c.want || string(h.RawBody) != c.raw || h.Headers["x-envoy-auth-partial-body"] != c.partial {
			t.Errorf("%s: %v", c.name, h)
		}
	}
}
