// Package portforward reaches a port of a pod through the API server, with the rights of whoever asks: what `kubectl
// port-forward` does, as a net.Conn and without a local port.
//
// It speaks SPDY inside a WebSocket (KEP-4006) and falls back to plain SPDY with an API server or a proxy that knows no other.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	//lint:ignore SA1019 client-go gives and takes these types
	"k8s.io/apimachinery/pkg/util/httpstream"
	//lint:ignore SA1019 client-go gives and takes these types
	httpspdy "k8s.io/apimachinery/pkg/util/httpstream/spdy"
	words "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	streaming "k8s.io/streaming/pkg/httpstream"
)

// pingEvery keeps an idle connection through proxies alive.
const pingEvery = 10 * time.Second

// Dialer dials pods of one cluster. Safe for concurrent use.
type Dialer struct {
	cfg  *rest.Config
	pods rest.Interface
}

// New returns a Dialer with the rights of that configuration.
func New(cfg *rest.Config) (*Dialer, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("building Kubernetes client: %w", err)
	}
	return &Dialer{cfg: cfg, pods: client.CoreV1().RESTClient()}, nil
}

// Dial connects to a port that something in the pod listens on, on its loopback or on all addresses. ctx bounds the dialling
// alone. That nobody listens shows in the first read, with the kubelet's words.
func (d *Dialer) Dial(ctx context.Context, namespace, pod string, port int) (net.Conn, error) {
	u := d.pods.Get().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	session, err := d.websocket(ctx, u)
	if first := err; streaming.IsUpgradeFailure(first) || streaming.IsHTTPSProxyError(first) {
		// Forbidden too: the WebSocket needs the verb get, and SPDY does not.
		if session, err = d.spdy(ctx, u); err != nil {
			err = explain(first, err, namespace, pod)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("forwarding a port of pod %s/%s: %w", namespace, pod, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	c, err := open(session, fmt.Sprintf("pod %s/%s", namespace, pod), port)
	if !stop() && err == nil {
		_ = c.Close()
		err = ctx.Err()
	}
	if err != nil {
		_ = session.Close()
		return nil, fmt.Errorf("forwarding port %d of pod %s/%s: %w", port, namespace, pod, err)
	}
	return c, nil
}

// Transport is an HTTP client's way to one port of one pod: over plain HTTP/1.1, whatever the host of the URL is.
func (d *Dialer) Transport(namespace, pod string, port int) *http.Transport {
	return &http.Transport{
		DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return d.Dial(ctx, namespace, pod, port) },
		MaxIdleConns: 1, MaxConnsPerHost: 1,
	}
}

// websocket is SPDY inside a WebSocket. RFC 6455 section 4.1: the request is a GET.
func (d *Dialer) websocket(ctx context.Context, u *url.URL) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(d.cfg)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(transport, holder, r, words.WebsocketsSPDYTunnelingPrefix+portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	return httpspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("client", conn), pingEvery)
}

func (d *Dialer) spdy(ctx context.Context, u *url.URL) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(d.cfg)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return nil, err
	}
	session, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: transport}, r, portforward.PortForwardProtocolV1Name)
	return session, err
}

// open makes the two streams of one forwarded connection: one for what goes wrong, one for the data.
func open(session httpstream.Connection, pod string, port int) (*conn, error) {
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	failures, err := session.CreateStream(h)
	if err != nil {
		return nil, err
	}
	if err := failures.Close(); err != nil { // nothing is written to it
		return nil, err
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := session.CreateStream(h)
	if err != nil {
		return nil, err
	}
	c := &conn{session: session, data: data, name: address(pod + ":" + strconv.Itoa(port)), done: make(chan struct{})}
	go c.listen(failures)
	return c, nil
}

// explain says what a person can do where both ways were refused. The first refusal is the one that can be read: SPDY's is text.
func explain(first, second error, namespace, pod string) error {
	var upgrade *streaming.UpgradeFailureError
	if errors.As(first, &upgrade) && upgrade.Cause != nil { // it does not unwrap
		first = upgrade.Cause
	}
	switch {
	case apierrors.IsForbidden(first):
		return fmt.Errorf("your credentials need the verb create (and get, for WebSockets) on pods/portforward in namespace %q: %w", namespace, second)
	case apierrors.IsNotFound(first):
		return fmt.Errorf("there is no pod %s/%s: %w", namespace, pod, first)
	}
	return second
}
