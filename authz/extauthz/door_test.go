package extauthz_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz/extauthz"
)

// refusing is a service without endpoints.
type refusing struct{ dials int }

func (r *refusing) dial(context.Context) (net.Conn, error) {
	r.dials++
	return nil, errors.New("no endpoint is healthy")
}

// A service that nobody can connect to: the error says why, and nothing was tried before there was something to ask.
func TestNoEndpoint(t *testing.T) {
	for _, p := range []*meshconfig.MeshConfig_ExtensionProvider{overGRPC(&grpcProvider{}), overHTTP(&httpProvider{})} {
		r := &refusing{}
		c, err := extauthz.New(extauthz.Config{Provider: p, Dial: r.dial})
		if err != nil || r.dials != 0 {
			t.Fatalf("%v, %d dials", err, r.dials)
		}
		if a := c.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Status != 403 || a.Err == nil || !strings.Contains(a.Err.Error(), "no endpoint is healthy") {
			t.Errorf("%+v", a)
		}
		c.Close()
	}
}

// A client that is closed while it connects does not wait for that.
func TestCloseWhileConnecting(t *testing.T) {
	for _, p := range []*meshconfig.MeshConfig_ExtensionProvider{overGRPC(&grpcProvider{}), overHTTP(&httpProvider{})} {
		dialling := make(chan struct{}, 1)
		c, err := extauthz.New(extauthz.Config{Provider: p, Dial: func(ctx context.Context) (net.Conn, error) {
			dialling <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { <-dialling; c.Close() }()
		if a := c.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil || !strings.Contains(a.Err.Error(), "closed") {
			t.Errorf("%+v", a)
		}
	}
}
