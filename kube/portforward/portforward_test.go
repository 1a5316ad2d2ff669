package portforward_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	//lint:ignore SA1019 client-go gives and takes these types
	"k8s.io/apimachinery/pkg/util/httpstream"
	//lint:ignore SA1019 client-go gives and takes these types
	httpspdy "k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientforward "k8s.io/client-go/tools/portforward"

	"github.com/signet-mesh/signet/kube/kubetest"
	"github.com/signet-mesh/signet/kube/portforward"
)

var admin *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { admin = cfg }) }

const protocol = clientforward.PortForwardProtocolV1Name

// kubelet is the far end of forwarded connections: real SPDY, inside a WebSocket or not. It answers HTTP on one port of every
// pod, and says of any other what a kubelet says.
type kubelet struct {
	t         *testing.T
	websocket bool // else such an upgrade is refused, as old API servers do
	serve     http.Handler
	group     sync.WaitGroup

	mu    sync.Mutex // guards paths
	paths []string
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.paths = append(k.paths, r.Method+" "+r.URL.Path)
	k.mu.Unlock()
	streams := make(chan httpstream.Stream, 2)
	opened := func(s httpstream.Stream, _ <-chan struct{}) error { streams <- s; return nil }
	var session httpstream.Connection
	if r.Method == http.MethodGet {
		if !k.websocket {
			http.Error(w, "no such upgrade", http.StatusBadRequest)
			return
		}
		up := gorilla.Upgrader{Subprotocols: []string{"SPDY/3.1+" + protocol}}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		if session, err = httpspdy.NewServerConnection(clientforward.NewTunnelingConnection("server", c), opened); err != nil {
			k.t.Error(err)
			return
		}
	} else {
		if _, err := httpstream.Handshake(r, w, []string{protocol}); err != nil {
			return
		}
		if session = httpspdy.NewResponseUpgrader().UpgradeResponse(w, r, opened); session == nil {
			return
		}
	}
	k.group.Add(1)
	go k.forward(session, streams)
}

func (k *kubelet) forward(session httpstream.Connection, streams <-chan httpstream.Stream) {
	defer k.group.Done()
	defer session.Close()
	var failures, data httpstream.Stream
	for data == nil || failures == nil {
		select {
		case s := <-streams:
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				failures = s
			} else {
				data = s
			}
		case <-session.CloseChan():
			return
		}
	}
	if data.Headers().Get(corev1.PortHeader) != "15000" {
		_, _ = io.WriteString(failures, "error forwarding port: connection refused")
		_ = failures.Close()
		_ = data.Close()
		<-session.CloseChan()
		return
	}
	near, far := net.Pipe()
	var g sync.WaitGroup
	g.Go(func() { _, _ = io.Copy(near, data); _ = near.Close() })
	g.Go(func() { _, _ = io.Copy(data, near); _ = data.Close() })
	l := &once{c: make(chan net.Conn, 1), done: make(chan struct{})}
	l.c <- far
	srv := &http.Server{Handler: k.serve}
	g.Go(func() { _ = srv.Serve(l) })
	<-session.CloseChan()
	_ = srv.Close()
	_ = near.Close()
	g.Wait()
}

// once is a listener of one connection.
type once struct {
	c    chan net.Conn
	done chan struct{}
	end  sync.Once
}

func (o *once) Accept() (net.Conn, error) {
	select {
	case c := <-o.c:
		return c, nil
	case <-o.done:
		return nil, net.ErrClosed
	}
}
func (o *once) Close() error   { o.end.Do(func() { close(o.done) }); return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

func start(t *testing.T, websocket bool) (*kubelet, *portforward.Dialer) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	k := &kubelet{t: t, websocket: websocket, serve: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.Method+" "+r.URL.Path+" "+string(b))
	})}
	s := httptest.NewTLSServer(k)
	t.Cleanup(func() {
		s.Close()
		k.group.Wait()
		// An ended session of spdystream lingers for a second where closing the socket failed.
		goleak.VerifyNone(t, ignore, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
	})
	d, err := portforward.New(&rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	return k, d
}

// A pod's port answers HTTP, many exchanges on one forwarded connection, by either way.
func TestHTTP(t *testing.T) {
	for _, websocket := range []bool{true, false} {
		k, d := start(t, websocket)
		c := &http.Client{Transport: d.Transport("shop", "cart-1", 15000), Timeout: 5 * time.Second}
		body := strings.Repeat("x", 300_000)
		for range 3 {
			resp, err := c.Post("http://admin/why", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Fatalf("websocket %v: %v", websocket, err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || string(b) != "POST /why "+body {
				t.Errorf("websocket %v: %d bytes, %v", websocket, len(b), err)
			}
		}
		c.CloseIdleConnections()
		const path = " /api/v1/namespaces/shop/pods/cart-1/portforward"
		want := []string{"GET" + path}
		if !websocket {
			want = append(want, "POST"+path)
		}
		k.mu.Lock()
		if got := strings.Join(k.paths, ","); got != strings.Join(want, ",") {
			t.Errorf("websocket %v: asked %s", websocket, got)
		}
		k.mu.Unlock()
	}
}

// The kubelet's reason is the error.
func TestNobodyListens(t *testing.T) {
	for _, websocket := range []bool{true, false} {
		_, d := start(t, websocket)
		c := &http.Client{Transport: d.Transport("shop", "cart-1", 15014), Timeout: 5 * time.Second}
		if _, err := c.Get("http://admin/status"); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("websocket %v: %v", websocket, err)
		}
	}
}

// Whoever lacks a right is told which, by a real API server.
func TestForbidden(t *testing.T) {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "forward-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.CopyConfig(admin)
	cfg.Impersonate.UserName = "mallory"
	d, err := portforward.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Dial(t.Context(), ns.Name, "cart-1", 15000)
	if err == nil || !strings.Contains(err.Error(), "need the verb create") || !strings.Contains(err.Error(), `pods/portforward in namespace "`+ns.Name+`"`) || !strings.Contains(err.Error(), "mallory") {
		t.Errorf("got %v", err)
	}
	if d, err = portforward.New(admin); err != nil {
		t.Fatal(err)
	}
	if _, err = d.Dial(t.Context(), ns.Name, "cart-1", 15000); err == nil || !strings.Contains(err.Error(), "there is no pod "+ns.Name+"/cart-1") {
		t.Errorf("no pod: %v", err)
	}
}

// A context that ends ends the dialling.
func TestCancelled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := portforward.New(&rest.Config{Host: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := d.Dial(ctx, "shop", "cart-1", 15000); err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}
