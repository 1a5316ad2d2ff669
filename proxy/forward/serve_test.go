package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/proxy"
)

func TestKeepAliveAndPipelining(t *testing.T) {
	addr, conns := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s%s", len(req.URL.Path)+len(b), req.URL.Path, b)
		}
	})
	r := newRig(t, addr, nil)
	c := r.dial()
	c.send("GET /1 HTTP/1.1\r\nhost: x\r\n\r\nPOST /2 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" +
		"POST /3 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nhost: x\r\n\r\n")
	for _, want := range []string{"/1", "/2abc", "/3de", "/4"} {
		if _, body := c.response("GET"); body != want {
			t.Fatalf("got %q, want %q", body, want)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("the program saw %d connections, want 1", n)
	}
	if n := len(r.recorded(4)); n != 4 {
		t.Errorf("%d records, want 4", n)
	}
}

func TestHTTP10(t *testing.T) {
	addr, _ := answering(t, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	r := newRig(t, addr, nil)
	c := r.dial()
	c.send("GET / HTTP/1.0\r\n\r\n")
	all, err := c.rest()
	if err != nil || !strings.HasSuffix(all, "\r\n\r\nhello") || strings.Contains(all, "chunked") {
		t.Errorf("HTTP/1.0 got %q, %v", all, err)
	}
	addr, _ = answering(t, hello)
	r = newRig(t, addr, nil)
	c = r.dial()
	for range 2 {
		c.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
		resp, body := c.response("GET")
		if body != "hello" || resp.Header.Get("connection") != "keep-alive" {
			t.Fatalf("HTTP/1.0 with keep-alive got %v %q", resp.Header, body)
		}
	}
}

func TestHeadAndBodilessStatuses(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
	} {
		addr, conns := answering(t, answer)
		r := newRig(t, addr, nil)
		c := r.dial()
		for range 3 {
			c.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
			resp, err := http.ReadResponse(c.in, &http.Request{Method: "HEAD"})
			if err != nil || resp.StatusCode >= 400 {
				t.Fatalf("%q: %v, %v", answer, resp, err)
			}
		}
		if n := conns.Load(); n != 1 || c.in.Buffered() != 0 {
			t.Errorf("%q: %d connections to the program, %d bytes after the answer", answer, n, c.in.Buffered())
		}
	}
}

func TestRespond(t *testing.T) {
	for _, status := range []int{200, 204, 304, 403} {
		r := newRig(t, "127.0.0.1:1", func(r *rig) {
			r.handle = func(x *Exchange) *proxy.Failure {
				x.Resp.Reset()
				x.Respond(status, "some words")
				return nil
			}
		})
		c := r.dial()
		for _, method := range []string{"GET", "HEAD", "GET"} {
			c.send(method + " / HTTP/1.1\r\nhost: x\r\n\r\n")
			resp, body := c.response(method)
			want := "some words"
			if method == "HEAD" || status == 204 || status == 304 {
				want = ""
			}
			if resp.StatusCode != status || body != want {
				t.Errorf("%s: %d %q, want %d %q", method, resp.StatusCode, body, status, want)
			}
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	addr, conns := answering(t, hello)
	r := newRig(t, addr, nil)
	tests := []struct {
		name, send string
		status     int
	}{
		{"bare LF", "GET / HTTP/1.1\nhost: x\n\n", 400},
		{"long head", "GET / HTTP/1.1\r\nhost: x\r\nx: " + strings.Repeat("a", 10<<20) + "\r\n\r\n", 431},
		{"long target", "GET /" + strings.Repeat("a", 100<<10) + " HTTP/1.1\r\nhost: x\r\n\r\n", 414},
		{"version", "GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505},
		{"transfer coding", "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	}
	for _, tt := range tests {
		c := r.dial()
		go func() { _, _ = io.WriteString(c, tt.send+get) }()
		resp, _ := c.response("GET")
		if resp.StatusCode != tt.status || !resp.Close {
			t.Errorf("%s: %d (close %v), want %d and the end", tt.name, resp.StatusCode, resp.Close, tt.status)
		}
		if all, err := c.rest(); all != "" || err != nil {
			t.Errorf("%s: after the answer came %q, %v", tt.name, all, err)
		}
	}
	if n := conns.Load(); n != 0 {
		t.Errorf("the program was called %d times", n)
	}
}

// A client that has said all it has to say may close its side and still gets its answer.
func TestHalfClosedClient(t *testing.T) {
	t.Parallel()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			time.Sleep(upstreamWatch + 300*time.Millisecond) // beyond the moment when the client is looked after
			_, _ = io.WriteString(c, hello)
		}
	})
	c := newRig(t, addr, nil).dial()
	c.send(get)
	_ = c.CloseWrite()
	if _, body := c.response("GET"); body != "hello" {
		t.Errorf("got %q", body)
	}
	if all, err := c.rest(); all != "" || err != nil {
		t.Errorf("after the answer: %q, %v", all, err)
	}
}

// A body that nobody wants is not taken for the next request.
func TestRefusalWithBody(t *testing.T) {
	addr, conns := answering(t, hello)
	r := newRig(t, addr, func(r *rig) {
		r.handle = func(x *Exchange) *proxy.Failure { return proxy.Fail(proxy.Denied, "", nil) }
	})
	smuggled := "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
	whole := fmt.Sprintf("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s", len(smuggled), smuggled)
	c := r.dial()
	c.send(whole + get)
	for range 2 {
		if resp, _ := c.response("POST"); resp.StatusCode != 403 {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
	recs := r.recorded(2)
	if len(recs) != 2 || recs[1].Path != "/a" {
		t.Errorf("recorded %+v", recs)
	}
	for _, framing := range []string{"content-length: 1000", "transfer-encoding: chunked", "content-length: 1000\r\nexpect: 100-continue"} {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nhost: x\r\n" + framing + "\r\n\r\n" + smuggled)
		resp, _ := c.response("POST")
		if all, err := c.rest(); resp.StatusCode != 403 || !resp.Close || all != "" || err != nil {
			t.Errorf("%s: %d close=%v, then %q, %v", framing, resp.StatusCode, resp.Close, all, err)
		}
	}
	if conns.Load() != 0 {
		t.Error("the program was called")
	}
}

// A large upload that is refused at once still sees the refusal, whether or not it wanted to keep the connection.
func TestEarlyRefusalIsSeen(t *testing.T) {
	t.Parallel()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, in)
		}
	})
	r := newRig(t, addr, nil)
	for _, connection := range []string{"keep-alive", "close"} {
		c := r.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, "POST / HTTP/1.1\r\nhost: x\r\nconnection: "+connection+"\r\ncontent-length: 33554432\r\n\r\n"+strings.Repeat("a", 32<<20))
			sent <- err
		}()
		if err := <-sent; err != nil {
			t.Fatalf("%s: a client that first writes all could not: %v", connection, err)
		}
		resp, body := c.response("POST")
		if resp.StatusCode != 413 || body != "big" || !resp.Close {
			t.Errorf("%s: %d %q close=%v", connection, resp.StatusCode, body, resp.Close)
		}
	}
}
