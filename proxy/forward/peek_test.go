package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/proxy"
)

// peeked is what a look at a body gave.
type peeked struct {
	body    string
	whole   bool
	failure *proxy.Failure
}

// looking is a rig whose corridor looks at max bytes of each body, twice, before it forwards; its program answers with what
// it got.
func looking(t *testing.T, max int, change func(*rig)) (*rig, chan peeked) {
	t.Helper()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			b, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			out := fmt.Sprintf("%s %s expect=%q length=%d chunked=%v x=%s %s", req.Method, req.URL.Path, req.Header.Get("expect"), req.ContentLength,
				len(req.TransferEncoding) > 0, req.Header.Get("x-kept"), b)
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(out), out); err != nil {
				return
			}
		}
	})
	saw := make(chan peeked, 16)
	return newRig(t, addr, func(r *rig) {
		r.handle = func(x *Exchange) *proxy.Failure {
			var failure *proxy.Failure
			for range 2 {
				var p peeked
				var body []byte
				body, p.whole, failure = x.PeekBody(max)
				p.body, p.failure = string(body), failure
				saw <- p
				if failure != nil {
					return failure
				}
			}
			x.Judged = authz.Request{Method: x.Req.Method, Headers: &x.Req}
			x.InFlight()
			return x.Forward(authz.Egress(), &Plan{Cluster: r.cluster})
		}
		if change != nil {
			change(r)
		}
	}), saw
}

// sawTwice checks both looks at one body.
func sawTwice(t *testing.T, name string, saw chan peeked, body string, whole bool) {
	t.Helper()
	for range 2 {
		if got := <-saw; got.body != body || got.whole != whole || got.failure != nil {
			t.Errorf("%s: saw %d bytes %.40q, whole %v, %v; want %d bytes, whole %v", name, len(got.body), got.body, got.whole, got.failure, len(body), whole)
		}
	}
}

// inChunks is a body in chunks of n bytes.
func inChunks(body string, n int) string {
	var out strings.Builder
	for len(body) > 0 {
		piece := body[:min(n, len(body))]
		body = body[len(piece):]
		fmt.Fprintf(&out, "%x\r\n%s\r\n", len(piece), piece)
	}
	return out.String() + "0\r\n\r\n"
}

// A body that was looked at is forwarded as if nobody had, and so is what follows it on the connection.
func TestPeekedBodyIsForwarded(t *testing.T) {
	const max = 1000
	for name, length := range map[string]int{"empty": 0, "short": 10, "to the byte": max, "a byte more": max + 1, "long": 300 << 10} {
		body := strings.Repeat("0123456789", length/10+1)[:length]
		for framing, text := range map[string]string{
			"length":       fmt.Sprintf("content-length: %d\r\n\r\n%s", length, body),
			"chunks":       "transfer-encoding: chunked\r\n\r\n" + inChunks(body, 700),
			"small chunks": "transfer-encoding: chunked\r\n\r\n" + inChunks(body, 3),
		} {
			r, saw := looking(t, max, nil)
			for _, pieces := range []int{1 << 30, 997} {
				what := fmt.Sprintf("%s, %s, in pieces of %d", name, framing, pieces)
				c := r.dial()
				send := "POST /" + strings.Repeat("p", 500) + " HTTP/1.1\r\nhost: x\r\nx-kept: " + strings.Repeat("k", 500) + "\r\n" + text + "GET /next HTTP/1.1\r\nhost: x\r\n\r\n"
				go func() {
					for rest := send; rest != ""; {
						n := min(pieces, len(rest))
						if _, err := io.WriteString(c, rest[:n]); err != nil {
							return
						}
						rest = rest[n:]
					}
				}()
				sawTwice(t, what, saw, body[:min(length, max)], length <= max)
				_, got := c.response("POST")
				head, tail, _ := strings.Cut(got, " x=")
				if tail != strings.Repeat("k", 500)+" "+body || !strings.HasPrefix(head, "POST /"+strings.Repeat("p", 500)+" ") {
					t.Errorf("%s: the program got %.100q... of %d bytes", what, got, len(got))
				}
				if isChunked := strings.Contains(head, "chunked=true"); isChunked != (framing != "length") {
					t.Errorf("%s: framed otherwise: %s", what, head)
				}
				sawTwice(t, what+", next", saw, "", true)
				if _, got := c.response("GET"); !strings.HasPrefix(got, "GET /next ") {
					t.Errorf("%s: the next request got %q", what, got)
				}
				c.Close()
			}
		}
	}
}

// A client that waits for leave to send gets it once, from here; the server is not asked again.
func TestPeekContinues(t *testing.T) {
	for framing, body := range map[string]string{"content-length: 5": "hello", "transfer-encoding: chunked": "5\r\nhello\r\n0\r\n\r\n"} {
		r, saw := looking(t, 100, nil)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n" + framing + "\r\n\r\n")
		if got := c.line() + c.line(); got != "HTTP/1.1 100 Continue" {
			t.Fatalf("%s: %q", framing, got)
		}
		c.send(body)
		sawTwice(t, framing, saw, "hello", true)
		resp, got := c.response("POST")
		if resp.StatusCode != 200 || !strings.Contains(got, `expect="" `) || !strings.HasSuffix(got, " hello") {
			t.Errorf("%s: %d %q", framing, resp.StatusCode, got)
		}
		// Whoever doesn't wait is not kept waiting, and needs no interim answer to what is there.
		c.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello")
		sawTwice(t, framing+", at once", saw, "hello", true)
		if resp, got := c.response("POST"); resp.StatusCode == 100 {
			resp, got = c.response("POST")
			if !strings.HasSuffix(got, " hello") {
				t.Errorf("%s: %d %q", framing, resp.StatusCode, got)
			}
		} else if !strings.HasSuffix(got, " hello") {
			t.Errorf("%s: %d %q", framing, resp.StatusCode, got)
		}
	}
}

func TestPeekFails(t *testing.T) {
	for name, tt := range map[string]struct {
		max    int
		send   string
		leave  bool // the client closes
		status int  // 0: nothing is answered
		code   proxy.Code
	}{
		"the client leaves":                {100, "content-length: 10\r\n\r\nhello", true, 0, proxy.DownstreamGone},
		"the client leaves a chunk":        {100, "transfer-encoding: chunked\r\n\r\na\r\nhello", true, 0, proxy.DownstreamGone},
		"a bad chunk":                      {100, "transfer-encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", false, 400, proxy.BadRequest},
		"a chunk that is no number":        {100, "transfer-encoding: chunked\r\n\r\nx\r\n", false, 400, proxy.BadRequest},
		"more framing than what it frames": {64 << 10, "transfer-encoding: chunked\r\n\r\n" + strings.Repeat("0000000000000001\r\nX\r\n", 60_000), false, 413, proxy.BodyTooLarge},
	} {
		r, saw := looking(t, tt.max, nil)
		c := r.dial()
		go func() {
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nhost: x\r\n"+tt.send)
			if tt.leave {
				c.CloseWrite()
			}
		}()
		if got := <-saw; got.failure == nil || got.failure.Code != tt.code || got.body != "" {
			t.Errorf("%s: %q, %v", name, got.body, got.failure)
		}
		if tt.status == 0 {
			if all, _ := c.rest(); all != "" {
				t.Errorf("%s: answered %q", name, all)
			}
		} else if resp, _ := c.response("POST"); resp.StatusCode != tt.status || !resp.Close {
			t.Errorf("%s: %d close=%v, want %d and the end", name, resp.StatusCode, resp.Close, tt.status)
		}
		c.Close()
		if rec := r.recorded(1)[0]; rec.UpstreamCluster != "" {
			t.Errorf("%s: the program was asked", name)
		}
	}
}

// sleepy is a connection whose reads time out from some moment on.
type sleepy struct {
	net.Conn
	asleep   atomic.Bool
	deadline atomic.Pointer[time.Time]
}

func (s *sleepy) Read(b []byte) (int, error) {
	if s.asleep.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return s.Conn.Read(b)
}

func (s *sleepy) SetReadDeadline(at time.Time) error {
	if s.asleep.Load() && !at.IsZero() {
		s.deadline.Store(&at)
	}
	return s.Conn.SetReadDeadline(at)
}

// A body that doesn't come within peekTime is answered 408.
func TestPeekTimesOut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var conn *sleepy
	r := &rig{t: t, addr: ln.Addr().String()}
	r.handle = func(x *Exchange) *proxy.Failure {
		conn.asleep.Store(true)
		before := time.Now()
		_, _, failure := x.PeekBody(100)
		if by := conn.deadline.Load(); by == nil || by.Before(before.Add(peekTime-time.Second)) || by.After(time.Now().Add(peekTime)) {
			t.Errorf("it waits until %v from %v", by, before)
		}
		conn.asleep.Store(false)
		return failure
	}
	l := NewListener(ln, func(c net.Conn, live *Live) {
		conn = &sleepy{Conn: c}
		New(conn, live, nil, r).Serve(ctx)
	})
	done := make(chan struct{})
	go func() { _ = l.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhello")
	if resp, _ := c.response("POST"); resp.StatusCode != 408 || !resp.Close {
		t.Errorf("%d close=%v", resp.StatusCode, resp.Close)
	}
	if rec := r.recorded(1)[0]; rec.Detail != "request_body_timeout" {
		t.Errorf("%+v", rec)
	}
	c.Close()
}

// A request that is refused after a look at its body does not let its body be taken for the next request.
func TestPeekThenRefuse(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
	for framing, again := range map[string]bool{
		fmt.Sprintf("content-length: %d\r\n\r\n%s", len(smuggled), smuggled):      true,
		fmt.Sprintf("content-length: %d\r\n\r\n%s", len(smuggled)+1000, smuggled): false,
		"transfer-encoding: chunked\r\n\r\n" + inChunks(smuggled, 1000):           false,
	} {
		r := newRig(t, "127.0.0.1:1", func(r *rig) {
			r.handle = func(x *Exchange) *proxy.Failure {
				if _, _, failure := x.PeekBody(10); failure != nil {
					return failure
				}
				return proxy.Fail(proxy.AuthorityDenied, "", nil)
			}
		})
		c := r.dial()
		c.send("POST /first HTTP/1.1\r\nhost: x\r\n" + framing + get)
		if resp, _ := c.response("POST"); resp.StatusCode != 403 || resp.Close == again {
			t.Errorf("%.30q: %d close=%v", framing, resp.StatusCode, resp.Close)
		}
		if again {
			if resp, _ := c.response("GET"); resp.StatusCode != 403 {
				t.Errorf("%.30q: then %d", framing, resp.StatusCode)
			}
		} else if all, _ := c.rest(); all != "" {
			t.Errorf("%.30q: then %q", framing, all)
		}
		c.Close()
		r.end()
		for _, rec := range r.recorded(1) {
			if rec.Path == "/smuggled" {
				t.Errorf("%.30q: the body was taken for a request", framing)
			}
		}
	}
}
