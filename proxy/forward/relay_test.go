package forward

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTrailersAndChunksBothWays(t *testing.T) {
	got := make(chan *http.Request, 1)
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		got <- req
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\n"+string(b)+"\r\n0\r\nx-sum: 42\r\ncontent-encoding: evil\r\n\r\n")
		_, _ = in.ReadByte()
	})
	c := newRig(t, addr, nil).dial()
	c.send("POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n2;ext\r\ncd\r\n0\r\nx-check: 7\r\n\r\n")
	resp, body := c.response("POST")
	if body != "abcd" || resp.Trailer.Get("x-sum") != "42" || resp.Trailer.Get("content-encoding") != "" {
		t.Errorf("body %q, trailers %v", body, resp.Trailer)
	}
	if req := <-got; req.Trailer.Get("x-check") != "7" || req.Header.Get("te") != "trailers" {
		t.Errorf("the program got trailers %v, header %v", req.Trailer, req.Header)
	}
}

func TestInterimResponses(t *testing.T) {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if req.Header.Get("expect") != "" {
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			b, _ := io.ReadAll(req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"+(string(b) + "....")[:4])
		}
	})
	r := newRig(t, addr, nil)
	c := r.dial()
	c.send("PUT / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
	if got := c.line() + c.line(); got != "HTTP/1.1 100 Continue" {
		t.Fatalf("got %q", got)
	}
	c.send("body")
	if got := c.line() + c.line() + c.line(); got != "HTTP/1.1 103 Early Hintslink: </x>" {
		t.Fatalf("got %q", got)
	}
	if _, body := c.response("PUT"); body != "body" {
		t.Errorf("got %q", body)
	}
	c = r.dial() // HTTP/1.0 knows no interim responses
	c.send("GET / HTTP/1.0\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("HTTP/1.0 got %d", resp.StatusCode)
	}
}

// What a program says wrong never reaches the client as an answer, and never stays for the next.
func TestProgramsThatMisbehave(t *testing.T) {
	tests := []struct {
		name, answer string
		status       int
	}{
		{"garbage", "\x16\x03\x01 no HTTP\r\n\r\n", 502},
		{"two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc", 502},
		{"length and chunks", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 502},
		{"bare LF", "HTTP/1.1 200 OK\ncontent-length: 2\n\nab", 502},
		{"huge head", "HTTP/1.1 200 OK\r\nx: " + strings.Repeat("a", 200<<10) + "\r\n\r\n", 502},
		{"unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", 502},
		{"nothing", "", 503},
		{"half a head", "HTTP/1.1 200 OK\r\ncontent-le", 502},
	}
	for _, tt := range tests {
		addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err == nil {
				_, _ = io.WriteString(c, tt.answer)
			}
		})
		c := newRig(t, addr, nil).dial()
		c.send(get)
		if resp, _ := c.response("GET"); resp.StatusCode != tt.status || resp.Close {
			t.Errorf("%s: %d, close %v; want %d on a connection that goes on", tt.name, resp.StatusCode, resp.Close, tt.status)
		}
	}
}

// Bytes behind a response end its connection: they are not the answer to anybody's next request.
func TestSurplusBytesAreNobodysAnswer(t *testing.T) {
	poison := "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"
	for name, answer := range map[string]string{
		"length": hello + poison, "none": "HTTP/1.1 204 No Content\r\n\r\n" + poison,
		"chunked": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + poison,
	} {
		addr, conns := answering(t, answer)
		r := newRig(t, addr, nil)
		for i := range 4 {
			c := r.dial()
			c.send(get)
			if _, body := c.response("GET"); body == "poison" {
				t.Errorf("%s: poisoned", name)
			}
			if n := conns.Load(); n != int64(i+1) {
				t.Errorf("%s: request %d went over connection %d", name, i+1, n)
			}
		}
	}
}

// A response that breaks off is seen to be broken, in every framing and HTTP version.
func TestBrokenOffResponses(t *testing.T) {
	for _, head := range []string{
		"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
		"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\nzz\r\n",
	} {
		addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err == nil {
				_, _ = io.WriteString(c, head)
			}
		})
		r := newRig(t, addr, nil)
		for _, version := range []string{"1.1", "1.0"} {
			c := r.dial()
			c.send("GET / HTTP/" + version + "\r\nhost: x\r\n\r\n")
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil {
				if version == "1.0" && errors.Is(err, syscall.ECONNRESET) {
					continue
				}
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("HTTP/%s took %q for the whole of %q", version, b, head)
			}
		}
		if recs := r.recorded(2); recs[0].Flag == "-" {
			t.Errorf("%q: recorded %+v", head, recs[0])
		}
	}
}

// A response that ends with the connection reaches an HTTP/1.1 client in chunks, on a connection that goes on.
func TestUntilCloseResponse(t *testing.T) {
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nall there is")
		}
	})
	c := newRig(t, addr, nil).dial()
	for range 2 {
		c.send(get)
		if resp, body := c.response("GET"); body != "all there is" || resp.Close {
			t.Errorf("got %q, close %v", body, resp.Close)
		}
	}
}

// Response and request flow at the same time, and a response that is complete before its request leaves the connection
// usable where the rest of the request follows soon.
func TestFullDuplex(t *testing.T) {
	addr, conns := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
			b := make([]byte, 3)
			for range 3 {
				if _, err := io.ReadFull(req.Body, b); err != nil {
					return
				}
				_, _ = c.Write(b)
			}
			_, _ = io.Copy(io.Discard, req.Body)
		}
	})
	c := newRig(t, addr, nil).dial()
	for range 2 {
		c.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []string{"abc", "def", "ghi"} {
			c.send("3\r\n" + piece + "\r\n")
			b := make([]byte, 3)
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != piece {
				t.Fatalf("%q, %v", b, err)
			}
		}
		time.Sleep(50 * time.Millisecond) // the response is complete, the request is not
		c.send("0\r\n\r\n")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A reader that takes nothing holds the program back instead of filling memory.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	wrote := make(chan int, 1)
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
		_ = c.SetWriteDeadline(time.Now().Add(700 * time.Millisecond))
		total, block := 0, make([]byte, 64<<10)
		for {
			n, err := c.Write(block)
			total += n
			if err != nil {
				wrote <- total
				return
			}
		}
	})
	c := newRig(t, addr, nil).dial()
	_ = c.SetReadBuffer(64 << 10)
	c.send(get)
	if n := <-wrote; n > 32<<20 {
		t.Errorf("the program could write %d MiB to a reader that takes nothing", n>>20)
	}
}

// The program sees that the client has left, while it thinks and while it streams.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{"thinking": "", "streaming": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"} {
		left := make(chan time.Duration, 1)
		addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, head)
			start := time.Now()
			_, _ = in.ReadByte()
			left <- time.Since(start)
		})
		r := newRig(t, addr, nil)
		c := r.dial()
		c.send(get)
		if head != "" {
			c.line()
		}
		_ = c.SetLinger(0)
		c.Close()
		if d := <-left; d > upstreamWatch+time.Second {
			t.Errorf("%s: a reset was passed on after %v", name, d)
		}
		if rec := r.recorded(1)[0]; rec.Flag != "DC" {
			t.Errorf("%s: flag %q", name, rec.Flag)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	addr, _ := program(t, func(_ int, c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if req.URL.Path == "/body" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
		}
		_, _ = in.ReadByte()
	})
	r := newRig(t, addr, func(r *rig) { r.timeout = 150 * time.Millisecond })
	c := r.dial()
	c.send(get)
	if resp, body := c.response("GET"); resp.StatusCode != 504 || body != "upstream request timeout" || resp.Close {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	c.send("GET /body HTTP/1.1\r\nhost: x\r\n\r\n")
	if all, _ := c.rest(); !strings.HasSuffix(all, "\r\n\r\nsome") {
		t.Errorf("got %q", all)
	}
	if recs := r.recorded(2); recs[0].Flag != "UT" || recs[1].Flag != "UT" {
		t.Errorf("flags %q, %q", recs[0].Flag, recs[1].Flag)
	}
}
