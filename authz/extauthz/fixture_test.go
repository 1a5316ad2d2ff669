package extauthz_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/extauthz"
	"github.com/signet-mesh/signet/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	grpcProvider = meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider
	httpProvider = meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider
	bodyInCheck  = meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody
)

// fields are headers in order: name, value, name, value.
type fields []string

func (f fields) HeaderValue(name string, from int) (string, int, bool) {
	for i := from; i+1 < len(f); i += 2 {
		if f[i] == name {
			return f[i+1], i + 2, true
		}
	}
	return "", len(f), false
}

func (f fields) EachField(yield func(name, value string)) {
	for i := 0; i+1 < len(f); i += 2 {
		yield(f[i], f[i+1])
	}
}

// unlisted headers cannot be enumerated.
type unlisted struct{ f fields }

func (u unlisted) HeaderValue(name string, from int) (string, int, bool) {
	return u.f.HeaderValue(name, from)
}

func id(t *testing.T, s string) identity.ID {
	t.Helper()
	out, err := identity.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func caller(t *testing.T) *authz.Connection {
	return &authz.Connection{
		Peer: identity.Peer{ID: id(t, "spiffe://mesh.local/ns/lab/sa/web")}, SNI: "oven.lab",
		SourceIP: netip.MustParseAddr("10.0.0.7"), DestinationIP: netip.MustParseAddr("10.0.0.9"), DestinationPort: 8080,
	}
}

func get(path string, headers ...string) *authz.Request {
	return &authz.Request{Method: "GET", Host: "oven.lab:8080", Path: path, Minor: 1, Headers: fields(headers)}
}

// journal keeps what is logged.
type journal struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// build makes a client of a provider whose service is what listens at the address; it is closed with the test.
func build(t *testing.T, p *meshconfig.MeshConfig_ExtensionProvider, address string, log *journal) *extauthz.Client {
	t.Helper()
	if log == nil {
		log = &journal{}
	}
	self := id(t, "spiffe://mesh.local/ns/lab/sa/oven")
	c, err := extauthz.New(extauthz.Config{
		Provider:  p,
		Principal: func() identity.ID { return self },
		Log:       slog.New(slog.NewTextHandler(log, nil)),
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func overGRPC(p *grpcProvider) *meshconfig.MeshConfig_ExtensionProvider {
	p.Service, p.Port = "lab/judge.lab", 9000
	if p.Timeout == nil {
		p.Timeout = durationpb.New(10 * time.Second)
	}
	return &meshconfig.MeshConfig_ExtensionProvider{Name: "judge", Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc{EnvoyExtAuthzGrpc: p}}
}

func overHTTP(p *httpProvider) *meshconfig.MeshConfig_ExtensionProvider {
	p.Service, p.Port = "judge.lab", 8000
	if p.Timeout == nil {
		p.Timeout = durationpb.New(10 * time.Second)
	}
	return &meshconfig.MeshConfig_ExtensionProvider{Name: "judge", Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{EnvoyExtAuthzHttp: p}}
}

// server is a real ext_authz server over gRPC.
type server struct {
	auth.UnimplementedAuthorizationServer
	address string
	mu      sync.Mutex // guards what follows
	answer  func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)
	seen    []*auth.CheckRequest
}

func (s *server) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	s.mu.Lock()
	s.seen = append(s.seen, r)
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx, r)
}

func (s *server) set(answer func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) last(t *testing.T) *auth.CheckRequest {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == 0 {
		t.Fatal("the authorizer was not asked")
	}
	return s.seen[len(s.seen)-1]
}

// listen serves at the address and returns how to stop.
func (s *server) listen(t *testing.T, address string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	g := grpc.NewServer()
	auth.RegisterAuthorizationServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	stop = sync.OnceFunc(func() { g.Stop(); <-done })
	t.Cleanup(stop)
	return stop
}

func answers(a *auth.CheckResponse) func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) { return a, nil }
}

func okay() *auth.CheckResponse { return &auth.CheckResponse{Status: &rpc.Status{}} }

func newServer(t *testing.T, a *auth.CheckResponse) *server {
	s := &server{answer: answers(a)}
	s.listen(t, "127.0.0.1:0")
	return s
}

// eventually asks until it is so; it fails the test after ten seconds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within ten seconds: " + what)
		}
	}
}
