// Package extauthz asks external authorizers, as MeshConfig.extensionProviders names them: Envoy's ext_authz v3 over gRPC,
// and plain HTTP.
//
// An authorizer that cannot be reached, does not answer in time, or answers with an error (a gRPC status, an error_response,
// HTTP 5xx) has failed: the request is denied with statusOnError, or allowed if the provider has failOpen. What a client
// could bring about (a request that cannot be shown to the authorizer) and what an authorizer says but must not (a header
// that is not its to change) never opens anything: it is denied, failOpen or not.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity"
)

// Config is what a Client is built from.
type Config struct {
	// Provider is an envoyExtAuthzGrpc or envoyExtAuthzHttp.
	Provider *meshconfig.MeshConfig_ExtensionProvider
	// Dial opens a connection to one endpoint of the provider's service, through the mesh (mTLS where it has an identity).
	Dial func(ctx context.Context) (net.Conn, error)
	// Principal is the workload's own identity now, shown over gRPC as destination.principal. Optional.
	Principal func() identity.ID
	// Log is told when an authorizer begins to fail and when it answers again. Optional.
	Log *slog.Logger
}

// Client implements authz.Authority; safe for concurrent use. The zero value and nil deny.
type Client struct {
	way      way
	door     *door
	health   *health
	needs    authz.Needs
	timeout  time.Duration
	failOpen bool
	status   int // of a denial because the authorizer failed
}

// way is how an authorizer is asked.
type way interface {
	// ask returns the authorizer's answer, or with a fault none. The answer of a fault that failed may hold the status,
	// body and headers that the authorizer wants to be answered.
	ask(ctx context.Context, c *authz.Connection, r *authz.Request) (authz.Answer, *fault)
	// close ends what way runs itself; connections are the door's.
	close()
}

// settings are what providers over gRPC and HTTP have in common.
type settings interface {
	GetService() string
	GetPort() uint32
	GetTimeout() *durationpb.Duration
	GetFailOpen() bool
	GetStatusOnError() string
	GetIncludeRequestBodyInCheck() *meshconfig.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody
}

// New builds a client; it connects when it is first asked. It runs nothing before.
func New(c Config) (*Client, error) {
	if c.Dial == nil {
		return nil, errors.New("building external authorizer: nothing to dial with")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	out := &Client{door: &door{dial: c.Dial}, health: &health{log: c.Log, provider: c.Provider.GetName()}}
	var common settings
	switch p := c.Provider.GetProvider().(type) {
	case *meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc:
		common = p.EnvoyExtAuthzGrpc
		out.way = newGRPC(p.EnvoyExtAuthzGrpc, c.Principal, out.door)
	case *meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp:
		common = p.EnvoyExtAuthzHttp
		out.way = newHTTP(p.EnvoyExtAuthzHttp, out.door)
	default:
		return nil, fmt.Errorf("building external authorizer %q: neither envoyExtAuthzGrpc nor envoyExtAuthzHttp", c.Provider.GetName())
	}
	if err := out.configure(common); err != nil {
		return nil, fmt.Errorf("building external authorizer %q: %w", c.Provider.GetName(), err)
	}
	return out, nil
}

func (c *Client) configure(s settings) error {
	if s.GetService() == "" || s.GetPort() == 0 {
		return errors.New("service and port are required")
	}
	if c.timeout = s.GetTimeout().AsDuration(); s.GetTimeout() == nil {
		c.timeout = defaultTimeout
	}
	if c.timeout <= 0 {
		return fmt.Errorf("timeout %v is none", c.timeout)
	}
	c.failOpen, c.status = s.GetFailOpen(), http.StatusForbidden
	if text := s.GetStatusOnError(); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 400 || n > 599 {
			return fmt.Errorf("statusOnError %q is not a status from 400 to 599", text)
		}
		c.status = n
	}
	if body := s.GetIncludeRequestBodyInCheck(); body != nil {
		c.needs = authz.Needs{Body: int(body.GetMaxRequestBytes()), Partial: body.GetAllowPartialMessage()}
	}
	return nil
}

// Close ends its connections; what is in flight fails, and whatever is asked afterwards is denied.
func (c *Client) Close() {
	c.door.close()
	c.way.close()
}

// Needs implements authz.Authority.
func (c *Client) Needs() authz.Needs { return c.needs }

// errNobody is the answer of a client that New did not build.
var errNobody = errors.New("there is no external authorizer to ask")

// Ask implements authz.Authority.
func (c *Client) Ask(ctx context.Context, conn *authz.Connection, r *authz.Request) authz.Answer {
	if c == nil || c.way == nil {
		return authz.Answer{Err: errNobody}
	}
	within, cancel := context.WithTimeoutCause(ctx, c.timeout, &late{c.timeout})
	defer cancel()
	a, f := c.way.ask(within, conn, r)
	if f == nil {
		c.health.good()
		return a
	}
	return c.settle(ctx, a, f)
}

// settle is the answer where there was no proper one.
func (c *Client) settle(ctx context.Context, a authz.Answer, f *fault) authz.Answer {
	out := authz.Answer{Status: c.status, Err: f.cause}
	switch {
	case f.kind == unshowable:
		out.Status = f.status
		return out
	case ctx.Err() != nil: // it is the caller who went away, or has no more time
		out.Err = fmt.Errorf("asking external authorizer: %w", context.Cause(ctx))
		return out
	case c.door.over():
		out.Err = errClosed
		return out
	}
	c.health.bad(f.cause)
	if f.kind == improper {
		return out
	}
	if c.failOpen {
		return authz.Answer{Allowed: true, FailedOpen: true, Err: f.cause}
	}
	if a.Status != 0 {
		out.Status = a.Status
	}
	out.Body, out.Client = a.Body, a.Client
	return out
}
