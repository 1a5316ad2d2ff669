package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestHTTP sends every form of HTTP/1.1 and TCP through two real sidecars.
func TestHTTP(t *testing.T) {
	d := newDataPlane(t)
	for _, tt := range []struct {
		name string
		f    func(*testing.T, *dataPlane)
	}{
		{"bodies", testBodies}, {"continue", testContinue}, {"curl upload", testCurlUpload}, {"interim", testInterim},
		{"head", testHead}, {"pipelining", testPipelining}, {"HTTP/1.0", testHTTP10}, {"websocket", testWebSocket},
		{"full duplex", testFullDuplex}, {"early answer", testEarlyAnswer}, {"programs that misbehave", testMisbehaving},
		{"programs that close", testClosing}, {"half-closed", testHalfClosed}, {"memory", testMemory}, {"leaving", testLeaving},
		{"proxy forms", testProxyForms}, {"connect", testConnect}, {"forbidden", testForbidden}, {"registry only", testRegistryOnly},
		{"tcp", testTCP}, {"policy", testPolicyCloses}, {"removal", testRemoval},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.answer(nil)
			d.speak(nil)
			tt.f(t, d)
		})
	}
}

const apiHost = "Host: api.shop\r\n"

func testBodies(t *testing.T, d *dataPlane) {
	trailers := make(chan string, 1)
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		trailers <- r.Trailer.Get("X-Check")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(200)
		for len(b) > 0 {
			n := min(len(b), 3)
			_, _ = w.Write(b[:n])
			w.(http.Flusher).Flush()
			b = b[n:]
		}
		w.Header().Set("X-Sum", "42")
	})
	c := dialRaw(t, d.web)
	c.send("POST / HTTP/1.1\r\n" + apiHost + "TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.send("4;ext=1\r\nabcd\r\n3\r\nefg\r\n0\r\nX-Check: 7\r\n\r\n")
	resp, body := c.response("POST")
	if body != "abcdefg" || resp.Trailer.Get("X-Sum") != "42" || <-trailers != "7" {
		t.Errorf("body %q, trailers %v", body, resp.Trailer)
	}
	d.answer(nil)
	c.send("POST /next HTTP/1.1\r\n" + apiHost + "Content-Length: 4\r\n\r\nwxyz") // the connection goes on
	if _, body := c.response("POST"); !strings.HasPrefix(body, "POST /next\n") || !strings.HasSuffix(body, "\nwxyz") {
		t.Errorf("got %q", body)
	}
}

func testContinue(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // net/http says 100 at the first read
		fmt.Fprintf(w, "got\n%s", b)
	})
	c := dialRaw(t, d.web)
	c.send("PUT / HTTP/1.1\r\n" + apiHost + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if got := c.line() + c.line(); got != "HTTP/1.1 100 Continue" {
		t.Fatalf("got %q", got)
	}
	c.send("body")
	if _, body := c.response("PUT"); !strings.HasSuffix(body, "\nbody") {
		t.Errorf("got %q", body)
	}
	d.answer(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusExpectationFailed) })
	c.send("PUT / HTTP/1.1\r\n" + apiHost + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if resp, _ := c.response("PUT"); resp.StatusCode != 417 {
		t.Errorf("got %d", resp.StatusCode)
	}
}

func testCurlUpload(t *testing.T, d *dataPlane) {
	file := filepath.Join(t.TempDir(), "upload")
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- b
	})
	for _, more := range [][]string{{"-H", "Expect: 100-continue"}, {"-H", "Transfer-Encoding: chunked"}, {"-H", "Expect:"}, {"-0"}} {
		if c := code(t, append(more, "-T", file, "-x", "http://"+d.web, "http://api.shop/up")...); c != "200" {
			t.Fatalf("%v: %s", more, c)
		}
		if b := <-got; !bytes.Equal(b, want) {
			t.Errorf("%v: the program got %d bytes of %d", more, len(b), len(want))
		}
	}
}

func testInterim(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "done")
	})
	out, _ := curl(t, "-x", "http://"+d.web, "http://api.shop/")
	if !strings.HasPrefix(out, "HTTP/1.1 103 Early Hints\r\nlink: </style.css>") || !strings.HasSuffix(out, "done") {
		t.Errorf("got %q", out)
	}
}

func testHead(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(204)
		case "/same":
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "1000")
		}
	})
	c := dialRaw(t, d.web)
	for path, want := range map[string]int{"/": 200, "/none": 204, "/same": 304} {
		for _, method := range []string{"HEAD", "GET"} {
			if method == "GET" && path == "/" {
				continue
			}
			c.send(method + " " + path + " HTTP/1.1\r\n" + apiHost + "\r\n")
			resp, body := c.response(method)
			if resp.StatusCode != want || body != "" || path == "/" && resp.ContentLength != 1000 {
				t.Errorf("%s %s: %d %q, length %d", method, path, resp.StatusCode, body, resp.ContentLength)
			}
		}
	}
}

func testPipelining(t *testing.T, d *dataPlane) {
	c := dialRaw(t, d.web)
	var all strings.Builder
	for i := range 50 {
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\n%sContent-Length: 2\r\n\r\n%02d", i, apiHost, i)
	}
	c.send(all.String())
	for i := range 50 {
		if _, body := c.response("POST"); !strings.HasPrefix(body, fmt.Sprintf("POST /%d\n", i)) || !strings.HasSuffix(body, fmt.Sprintf("\n%02d", i)) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

func testHTTP10(t *testing.T, d *dataPlane) {
	c := dialRaw(t, d.web)
	c.send("GET /one HTTP/1.0\r\n" + apiHost + "\r\n")
	if all, err := c.rest(); err != nil || !strings.Contains(all, "\r\n\r\nGET /one\n") || strings.Contains(all, "chunked") {
		t.Errorf("%q, %v", all, err)
	}
	c = dialRaw(t, d.web)
	for range 2 {
		c.send("GET /two HTTP/1.0\r\n" + apiHost + "Connection: keep-alive\r\n\r\n")
		if resp, _ := c.response("GET"); resp.Header.Get("Connection") != "keep-alive" {
			t.Fatalf("%v", resp.Header)
		}
	}
}

// frame is a WebSocket text frame (RFC 6455 section 5.2) of less than 64 KiB, masked as a client's must be.
func frame(text string, masked bool) []byte {
	b := []byte{0x81}
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	if len(text) < 126 {
		b = append(b, bit|byte(len(text)))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(len(text)))
	}
	if !masked {
		return append(b, text...)
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(text) {
		b = append(b, text[i]^mask[i%4])
	}
	return b
}

// readFrame reads the text of one such frame.
func readFrame(in *bufio.Reader) (string, error) {
	var h [2]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return "", err
	}
	n := int(h[1] & 0x7f)
	if n == 126 {
		var l [2]byte
		if _, err := io.ReadFull(in, l[:]); err != nil {
			return "", err
		}
		n = int(binary.BigEndian.Uint16(l[:]))
	}
	var mask [4]byte
	if h[1]&0x80 != 0 {
		if _, err := io.ReadFull(in, mask[:]); err != nil {
			return "", err
		}
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return "", err
	}
	for i := range b {
		b[i] ^= mask[i%4]
	}
	return string(b), nil
}

// socketEcho is a WebSocket server: it greets at once and then repeats what it hears.
func socketEcho(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n%s",
		base64.StdEncoding.EncodeToString(sum[:]), frame("welcome", false))
	for {
		text, err := readFrame(rw.Reader)
		if err != nil {
			return
		}
		if _, err := c.Write(frame(text, false)); err != nil {
			return
		}
	}
}

// openSocket makes a WebSocket through the proxy, with a first message that does not wait for the answer.
func openSocket(t *testing.T, d *dataPlane, path string) *client {
	t.Helper()
	c := dialRaw(t, d.web)
	c.send("GET " + path + " HTTP/1.1\r\n" + apiHost + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + string(frame("early", true)))
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, want := range []string{"welcome", "early"} {
		if got, err := readFrame(c.in); got != want || err != nil {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	return c
}

func testWebSocket(t *testing.T, d *dataPlane) {
	d.answer(socketEcho)
	c := openSocket(t, d, "/socket")
	for _, text := range []string{"one", strings.Repeat("long", 10_000), "two"} {
		c.send(string(frame(text, true)))
		if got, err := readFrame(c.in); got != text || err != nil {
			t.Fatalf("%d bytes, %v; want %d", len(got), err, len(text))
		}
	}
}

func testFullDuplex(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})
	c := dialRaw(t, d.web)
	for range 2 {
		c.send("POST / HTTP/1.1\r\n" + apiHost + "Transfer-Encoding: chunked\r\n\r\n")
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 3)
		for _, piece := range []string{"abc", "def", "ghi"} {
			c.send("3\r\n" + piece + "\r\n")
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != piece {
				t.Fatalf("%q, %v", b, err)
			}
		}
		c.send("0\r\n\r\n")
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Fatalf("%q, %v", rest, err)
		}
	}
}

// A server that answers before it has read the body is heard.
func testEarlyAnswer(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	})
	file := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		out, exit := curl(t, "-H", "Expect:", "-T", file, "-x", "http://"+d.web, "http://api.shop/up")
		if exit != 0 || !strings.HasPrefix(out, "HTTP/1.1 413") || !strings.Contains(out, "too much") {
			t.Errorf("exit %d: %q", exit, out)
		}
	}
}

func testMisbehaving(t *testing.T, d *dataPlane) {
	for name, tt := range map[string]struct {
		says string
		want string
	}{
		"garbage":             {"\x16\x03\x01\x00 this is no HTTP\r\n\r\n", "502"},
		"two content lengths": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", "502"},
		"length and chunks":   {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "502"},
		"nothing at all":      {"", "503"},
		"closes in its body":  {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome", "curl 18"},
		"closes in a chunk":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nsome", "curl 18"},
	} {
		d.speak(func(c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err == nil {
				_, _ = io.WriteString(c, tt.says)
			}
		})
		if got := code(t, "-x", "http://"+d.web, "http://api.shop:81/"); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	d.speak(func(c net.Conn, in *bufio.Reader) { // resets
		_, _ = in.ReadByte()
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	if got := code(t, "-x", "http://"+d.web, "http://api.shop:81/"); got != "503" {
		t.Errorf("reset: %s", got)
	}
	// A second answer that nobody asked for is nobody's.
	d.speak(func(c net.Conn, in *bufio.Reader) {
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
		}
	})
	c := dialRaw(t, d.web)
	for range 20 {
		c.send("GET / HTTP/1.1\r\nHost: api.shop:81\r\n\r\n")
		if _, body := c.response("GET"); body != "ok" {
			t.Fatalf("got %q", body)
		}
	}
}

// A server that closes its idle connections at once costs no request.
func testClosing(t *testing.T, d *dataPlane) {
	d.speak(func(c net.Conn, in *bufio.Reader) {
		if req, err := http.ReadRequest(in); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 4 {
		c := dialRaw(t, d.web)
		wg.Go(func() {
			for range 100 {
				c.send("GET / HTTP/1.1\r\nHost: api.shop:81\r\n\r\n")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != 200 {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 400 GETs failed", n)
	}
}

func testHalfClosed(t *testing.T, d *dataPlane) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(300 * time.Millisecond)
		fmt.Fprint(w, "slow")
	})
	c := dialRaw(t, d.web)
	c.send("GET / HTTP/1.1\r\n" + apiHost + "\r\n")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if _, body := c.response("GET"); body != "slow" {
		t.Errorf("got %q", body)
	}
	if all, err := c.rest(); all != "" || err != nil {
		t.Errorf("then %q, %v", all, err)
	}
	c = dialRaw(t, d.web) // half a head, and no more to come
	c.send("GET / HTTP/1.1\r\n")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if all, err := c.rest(); all != "" || err != nil {
		t.Errorf("half a head got %q, %v", all, err)
	}
}

// Large bodies flow in both directions, and readers stall, at constant memory of both sidecars.
func testMemory(t *testing.T, d *dataPlane) {
	const size = 200 << 20
	block := make([]byte, 256<<10)
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n))
		for sent := 0; sent < size; sent += len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	web, api := d.sidecar(t, "shop/web"), d.sidecar(t, "shop/api")
	c := dialRaw(t, d.web)
	c.send("GET /warm HTTP/1.1\r\n" + apiHost + "\r\n")
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	before := [2]int{memory(t, web, "VmHWM"), memory(t, api, "VmHWM")}
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size-1<<20 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	go func() {
		fmt.Fprintf(c, "POST /up HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n", apiHost, size)
		for sent := 0; sent < size; sent += len(block) {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}()
	if resp, err = http.ReadResponse(c.in, nil); err != nil || resp.Header.Get("X-Got") != fmt.Sprint(size) {
		t.Fatalf("%v, %v", resp, err)
	}
	c.Close()
	for range 8 { // readers that take nothing
		c := dialRaw(t, d.web)
		c.send("GET /stall HTTP/1.1\r\n" + apiHost + "\r\n")
	}
	time.Sleep(500 * time.Millisecond)
	for i, pid := range []int{web, api} {
		if grown := memory(t, pid, "VmHWM") - before[i]; grown > 24 {
			t.Errorf("sidecar %d grew by %d MiB from %d MiB", i, grown, before[i])
		}
	}
}

// The program sees that a client has left; nothing of it stays.
func testLeaving(t *testing.T, d *dataPlane) {
	var inside, left atomic.Int64
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ok" {
			return
		}
		inside.Add(1)
		if r.URL.Path == "/stream" {
			fmt.Fprint(w, "a")
			w.(http.Flusher).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		left.Add(1)
	})
	web, api := d.sidecar(t, "shop/web"), d.sidecar(t, "shop/api")
	idle := func() [4]int {
		return [4]int{descriptors(t, web), descriptors(t, api), d.goroutines(t, "shop/web"), d.goroutines(t, "shop/api")}
	}
	if c := code(t, "-x", "http://"+d.web, "http://api.shop/ok"); c != "200" {
		t.Fatal(c)
	}
	var before [4]int
	eventually(t, 10*time.Second, func() string { // what earlier tests left ends
		last := before
		before = idle()
		if last != before {
			time.Sleep(200 * time.Millisecond)
			return "not at rest"
		}
		return ""
	})
	const clients = 12
	var open []*client
	for i := range clients {
		c := dialRaw(t, d.web)
		switch i % 3 {
		case 0:
			c.send("GET /think HTTP/1.1\r\n" + apiHost + "\r\n")
		case 1:
			c.send("GET /stream HTTP/1.1\r\n" + apiHost + "\r\n")
		case 2:
			c.send("POST /body HTTP/1.1\r\n" + apiHost + "Content-Length: 1000\r\n\r\nsome")
		}
		open = append(open, c)
	}
	eventually(t, 5*time.Second, func() string {
		if inside.Load() == clients {
			return ""
		}
		return "not all requests have arrived"
	})
	for i, c := range open {
		if i%2 == 0 {
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
		}
		c.Close()
	}
	eventually(t, 20*time.Second, func() string {
		if n := left.Load(); n != clients {
			return fmt.Sprintf("the program noticed %d of %d clients leave", n, clients)
		}
		return ""
	})
	eventually(t, 10*time.Second, func() string {
		now := idle()
		for i := range now {
			if now[i] > before[i]+3 {
				return fmt.Sprintf("descriptors and goroutines of web and api: %v, before %v", now, before)
			}
		}
		return ""
	})
}
