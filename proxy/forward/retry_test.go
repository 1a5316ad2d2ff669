package forward

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/signet-mesh/signet/proxy/route"
)

// closing is a program that closes every connection right after its first answer, without having said so.
func closing(t *testing.T, seen *atomic.Int64) string {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		seen.Add(1)
		_, _ = io.WriteString(c, hello)
	})
	return addr
}

// Programs that close idle connections at once cost no request: a GET is sent again, a POST never meets a closed connection.
func TestStaleConnections(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PUT"} {
		var seen atomic.Int64
		r := newRig(t, closing(t, &seen), nil)
		const clients, each = 8, 25
		var wg sync.WaitGroup
		for range clients {
			c := r.dial()
			wg.Go(func() {
				for range each {
					body := ""
					if method != "GET" {
						body = "abc"
					}
					c.send(method + " / HTTP/1.1\r\nhost: x\r\ncontent-length: " + string('0'+byte(len(body))) + "\r\n\r\n" + body)
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil {
						t.Errorf("%s: %v", method, err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					if resp.StatusCode != 200 && method != "POST" {
						t.Errorf("%s: %d", method, resp.StatusCode)
					}
				}
			})
		}
		wg.Wait()
		if n := seen.Load(); method == "POST" && n > clients*each || method != "POST" && n < clients*each {
			t.Errorf("%s: the program answered %d requests of %d", method, n, clients*each)
		}
	}
}

// A request that may have been processed and is not idempotent is not sent again, whatever the pool did.
func TestNoSecondPost(t *testing.T) {
	var seen atomic.Int64
	addr, _ := program(t, func(n int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if req.Method == "POST" {
				seen.Add(1)
				return // processed, and no answer
			}
			_, _ = io.WriteString(c, hello)
		}
	})
	retry := route.DefaultRetry()
	r := newRig(t, addr, func(r *rig) { r.retry = &retry })
	c := r.dial()
	c.send(get)
	c.response("GET") // there is an idle connection now
	c.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
	if resp, _ := c.response("POST"); resp.StatusCode != 503 {
		t.Errorf("got %d", resp.StatusCode)
	}
	if n := seen.Load(); n != 1 {
		t.Errorf("the program processed the POST %d times", n)
	}
	if rec := r.recorded(2)[1]; rec.Flag != "UC" {
		t.Errorf("flag %q", rec.Flag)
	}
}

// Nothing is sent again whose body was taken off the client while it was sent.
func TestNoRetryOfAStreamedBody(t *testing.T) {
	var seen atomic.Int64
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		seen.Add(1)
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
	})
	retry := route.Retry{Attempts: 3, On: route.On5xx | route.OnReset, Explicit: true}
	r := newRig(t, addr, func(r *rig) { r.retry = &retry })
	c := r.dial()
	c.send("PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	if resp, _ := c.response("PUT"); resp.StatusCode != 503 || seen.Load() != 1 {
		t.Errorf("%d after %d requests, want 503 after 1", resp.StatusCode, seen.Load())
	}
	seen.Store(0)
	c.send("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
	if resp, _ := c.response("PUT"); resp.StatusCode != 503 || seen.Load() != 4 {
		t.Errorf("%d after %d requests, want 503 after 4", resp.StatusCode, seen.Load())
	}
}
