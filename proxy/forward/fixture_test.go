package forward

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/route"
	"github.com/signet-mesh/signet/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a corridor that lets everything through to one program, and what it recorded.
type rig struct {
	t       *testing.T
	addr    string
	cluster *upstream.Cluster
	retry   *route.Retry
	timeout time.Duration
	// handle, where it is set, decides in place of forwarding.
	handle func(*Exchange) *proxy.Failure
	fl     *Listener
	end    func() // ends the listener and waits for it

	mu      sync.Mutex
	records []proxy.Record
}

func (r *rig) Handle(x *Exchange) *proxy.Failure {
	if r.handle != nil {
		return r.handle(x)
	}
	x.Judged = authz.Request{Method: x.Req.Method, Headers: &x.Req}
	x.InFlight()
	return x.Forward(authz.Egress(), &Plan{Cluster: r.cluster, Retry: r.retry, Timeout: r.timeout})
}

func (r *rig) Begin(x *Exchange) {
	x.Rec.Source, x.Rec.Destination, x.Rec.Service = &proxy.Party{}, &proxy.Party{}, &proxy.Destination{}
}

func (r *rig) Recorder() proxy.Recorder { return r }

func (r *rig) Record(rec *proxy.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := *rec
	out.Method, out.Path, out.Detail = strings.Clone(rec.Method), strings.Clone(rec.Path), strings.Clone(rec.Detail)
	r.records = append(r.records, out)
}

func (r *rig) Opened(*proxy.Record)                           {}
func (r *rig) Refused(_, _ netip.AddrPort, _ string, _ error) {}

// recorded waits for n records and returns them.
func (r *rig) recorded(n int) []proxy.Record {
	r.t.Helper()
	var out []proxy.Record
	eventually(r.t, "records", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		out = append([]proxy.Record(nil), r.records...)
		return len(out) >= n
	})
	return out
}

// newRig serves the program at target. change may alter the rig before it runs.
func newRig(t *testing.T, target string, change func(*rig)) *rig {
	t.Helper()
	set := upstream.NewSet(nil, upstream.Options{})
	clusters := set.Update([]upstream.Spec{{Name: "inbound|80||", Targets: []upstream.Target{{Address: target}}, ConnectTimeout: 2 * time.Second}})
	r := &rig{t: t, cluster: clusters["inbound|80||"]}
	if change != nil {
		change(r)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	r.fl = NewListener(ln, func(c net.Conn, live *Live) { New(c, live, nil, r).Serve(ctx) })
	done := make(chan struct{})
	go func() { _ = r.fl.Run(ctx); close(done) }()
	r.end = func() { cancel(); <-done }
	t.Cleanup(func() { r.end(); set.Update(nil) })
	return r
}

// program serves every connection with talk; n counts from 0. It ends with the test.
func program(t *testing.T, talk func(n int, c net.Conn, in *bufio.Reader)) (addr string, conns *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = &atomic.Int64{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			n := int(conns.Add(1)) - 1
			wg.Go(func() { defer c.Close(); talk(n, c, bufio.NewReader(c)) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String(), conns
}

// answering is a program that answers each request with the same bytes, on connections that it keeps.
func answering(t *testing.T, answer string) (addr string, conns *atomic.Int64) {
	return program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
}

// client is a raw connection to the rig.
type client struct {
	t *testing.T
	*net.TCPConn
	in *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return &client{r.t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// response reads one response with its body.
func (c *client) response(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("reading response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("reading body of %d after %q: %v", resp.StatusCode, body, err)
	}
	return resp, string(body)
}

// line reads one line.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading line: %v (%q)", err, s)
	}
	return strings.TrimRight(s, "\r\n")
}

// rest reads until the end of the connection.
func (c *client) rest() (string, error) {
	b, err := io.ReadAll(c.in)
	return string(b), err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

const get = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n"

const hello = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
