package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBadInput sends what no client should, to the programs' proxy and, as a workload, directly to an inbound port.
func TestBadInput(t *testing.T) {
	t.Parallel()
	d := newDataPlane(t)
	doors := map[string]func(*testing.T) *client{
		"outbound": func(t *testing.T) *client { return dialRaw(t, d.web) },
		"inbound":  func(t *testing.T) *client { return d.dialAs(t, "web", d.inbound(portHTTP), "istio-http/1.1") },
	}
	for name, door := range doors {
		t.Run(name, func(t *testing.T) {
			t.Run("smuggling", func(t *testing.T) { testSmuggling(t, d, door) })
			t.Run("answered", func(t *testing.T) { testAnswered(t, d, door) })
			t.Run("limits", func(t *testing.T) { testLimits(t, d, door) })
		})
	}
	t.Run("slow", func(t *testing.T) { testSlow(t, doors["outbound"]) })
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: api.shop\r\n\r\n"

// smugglers are requests that two parsers could read differently. Each is followed by one that must never be served.
var smugglers = []struct {
	name, send string
	status     int
}{
	{"length and chunks", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", 400},
	{"chunks and length", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"two lengths", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", 400},
	{"two equal lengths", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nX", 400},
	{"length list", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 1, 1\r\n\r\nX", 400},
	{"signed length", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: +1\r\n\r\nX", 400},
	{"negative length", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: -1\r\n\r\n", 400},
	{"hexadecimal length", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 0x1\r\n\r\nX", 400},
	{"length overflow", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 18446744073709551616\r\n\r\n", 400},
	{"empty length", "POST / HTTP/1.1\r\nHost: api.shop\r\nContent-Length:\r\n\r\n", 400},
	{"obs-fold", "GET / HTTP/1.1\r\nHost: api.shop\r\nX: a\r\n b\r\n\r\n", 400},
	{"folded coding", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
	{"bare LF in head", "GET / HTTP/1.1\r\nHost: api.shop\r\nX: a\n\r\n", 400},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: api.shop\r\n\n", 400},
	{"bare CR", "GET / HTTP/1.1\r\nHost: api.shop\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", 400},
	{"space before colon", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
	{"space before name", "GET / HTTP/1.1\r\n Host: api.shop\r\nHost: api.shop\r\n\r\n", 400},
	{"NUL in value", "GET / HTTP/1.1\r\nHost: api.shop\r\nX: a\x00b\r\n\r\n", 400},
	{"coding list", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501},
	{"chunked last missing", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501},
	{"two codings", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400},
	{"odd coding", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
	{"coding with vertical tab", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
	{"coding in underscores", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"chunk size overflow", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nX\r\n0\r\n\r\n", 400},
	{"chunk size sign", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nX\r\n0\r\n\r\n", 400},
	{"chunk size prefix", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nX\r\n0\r\n\r\n", 400},
	{"chunk size space", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nX\r\n0\r\n\r\n", 400},
	{"chunk ends late", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nXY\r\n0\r\n\r\n", 400},
	{"chunk ends in LF", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nX\n0\r\n\r\n", 400},
	{"LF in chunk extension", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nX\r\n0\r\n\r\n", 400},
	{"endless chunk extension", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 1000) + "\r\nX\r\n0\r\n\r\n", 400},
	{"length in trailer", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", 400},
	{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two hosts", "GET / HTTP/1.1\r\nHost: api.shop\r\nHost: api.shop\r\n\r\n", 400},
	{"host with a path", "GET / HTTP/1.1\r\nHost: api.shop/x\r\n\r\n", 400},
	{"host with user", "GET / HTTP/1.1\r\nHost: a@api.shop\r\n\r\n", 400},
	{"connection names length", "POST / HTTP/1.1\r\nHost: api.shop\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\nX", 400},
	{"connection names XFCC", "GET / HTTP/1.1\r\nHost: api.shop\r\nConnection: x-forwarded-client-cert\r\n\r\n", 400},
	{"space in target", "GET /a b HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400},
	{"tab after method", "GET\t/ HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400},
	{"HTTP/0.9", "GET /\r\n\r\n", 400},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
	{"lower-case version", "GET / http/1.1\r\nHost: api.shop\r\n\r\n", 400},
	{"body on TRACE", "TRACE / HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 1\r\n\r\nX", 400},
	{"bad expectation", "POST / HTTP/1.1\r\nHost: api.shop\r\nExpect: the worst\r\nContent-Length: 1\r\n\r\nX", 417},
	{"NUL in path", "GET /a%00b HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400},
	{"malformed escape", "GET /a%zz HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400},
	{"TLS to plaintext", "\x16\x03\x01\x00\x05hello", 400},
}

func testSmuggling(t *testing.T, d *dataPlane, door func(*testing.T) *client) {
	var mu sync.Mutex
	var paths []string
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the request was never whole
		}
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
	})
	for _, tt := range smugglers {
		c := door(t)
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		c.send(tt.send + smuggled)
		all, err := c.rest()
		if err != nil {
			t.Errorf("%s: the connection did not end well: %v after %q", tt.name, err, all)
		}
		if want := fmt.Sprintf("HTTP/1.1 %d ", tt.status); !strings.HasPrefix(all, want) || strings.Count(all, "HTTP/1.1") != 1 {
			t.Errorf("%s: got %q, want one %d", tt.name, all, tt.status)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, p := range paths {
		t.Errorf("the program was asked for %q", p)
	}
}

// Odd, but the RFC has one answer: it is given, and the connection goes on.
func testAnswered(t *testing.T, d *dataPlane, door func(*testing.T) *client) {
	d.answer(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s %d", r.Method, r.Host, r.URL.Path, n)
	})
	for name, tt := range map[string][2]string{
		"absolute-form against Host": {"GET http://api.shop/x HTTP/1.1\r\nHost: other.shop\r\n\r\n", "GET api.shop /x 0"},
		"leading empty line":         {"\r\nGET /x HTTP/1.1\r\nHost: api.shop\r\n\r\n", "GET api.shop /x 0"},
		"chunk extensions":           {"POST /x HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: CHUNKED\r\n\r\n1;a=\"b\"\r\nX\r\n0;z\r\n\r\n", "POST api.shop /x 1"},
		"leading zeros":              {"POST /x HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n0001\r\nX\r\n000\r\n\r\n", "POST api.shop /x 1"},
		"GET with a body":            {"GET /x HTTP/1.1\r\nHost: api.shop\r\nContent-Length: 42\r\n\r\n" + smuggled, "GET api.shop /x 42"},
		"connection names a field":   {"GET /x HTTP/1.1\r\nHost: api.shop\r\nConnection: x-gone\r\nX-Gone: 1\r\n\r\n", "GET api.shop /x 0"},
		"unknown upgrade":            {"GET /x HTTP/1.1\r\nHost: api.shop\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "GET api.shop /x 0"},
	} {
		c := door(t)
		for range 2 {
			c.send(tt[0])
			if resp, body := c.response("GET"); resp.StatusCode != 200 || body != tt[1] {
				t.Errorf("%s: %d %q, want %q", name, resp.StatusCode, body, tt[1])
				break
			}
		}
	}
}

func testLimits(t *testing.T, d *dataPlane, door func(*testing.T) *client) {
	served := d.served.Load()
	var many strings.Builder
	for i := range 200 {
		fmt.Fprintf(&many, "X-%d: 1\r\n", i)
	}
	for _, tt := range []struct {
		name, send string
		status     int
	}{
		{"10 MB header", "GET / HTTP/1.1\r\nHost: api.shop\r\nX: " + strings.Repeat("a", 10<<20) + "\r\n\r\n", 431},
		{"10 MB of headers", "GET / HTTP/1.1\r\nHost: api.shop\r\n" + strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 10_000) + "\r\n", 431},
		{"too many headers", "GET / HTTP/1.1\r\nHost: api.shop\r\n" + many.String() + "\r\n", 431},
		{"1 MB target", "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: api.shop\r\n\r\n", 414},
		{"long method", strings.Repeat("A", 1<<20) + " / HTTP/1.1\r\nHost: api.shop\r\n\r\n", 400},
		{"trailers", "POST / HTTP/1.1\r\nHost: api.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", 431},
	} {
		c := door(t)
		sent := make(chan struct{})
		go func() { defer close(sent); _, _ = io.WriteString(c, tt.send) }()
		if resp, _ := c.response("GET"); resp.StatusCode != tt.status || !resp.Close {
			t.Errorf("%s: %d, close %v; want %d and the end", tt.name, resp.StatusCode, resp.Close, tt.status)
		}
		if all, err := c.rest(); all != "" || err != nil {
			t.Errorf("%s: then %q, %v", tt.name, all, err)
		}
		<-sent
	}
	if n := d.served.Load() - served; n > 1 { // the one with trailers had begun
		t.Errorf("%d requests reached the program", n)
	}
}

// A head that comes in drops is given ten seconds, however steadily they fall.
func testSlow(t *testing.T, door func(*testing.T) *client) {
	c := door(t)
	begin := time.Now()
	c.send("GET / HTTP/1.1\r\nHost: api.shop\r\n")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = io.WriteString(c, "X: 1\r\n")
			}
		}
	}()
	resp, _ := c.response("GET")
	if took := time.Since(begin); resp.StatusCode != 408 || !resp.Close || took < 9*time.Second || took > 12*time.Second {
		t.Errorf("%d, close %v after %v", resp.StatusCode, resp.Close, took)
	}
}

// A program behind an upgrade or an early answer can't make its connection speak to others.
func TestBadPrograms(t *testing.T) {
	d := newDataPlane(t)
	c := dialRaw(t, d.web)
	for name, says := range map[string]string{
		"unasked upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
		"endless head":    "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"split header":    "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
		"obs-fold":        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"status":          "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
		"coding list":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/2":          "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		d.speak(func(c net.Conn, in *bufio.Reader) {
			if _, err := http.ReadRequest(in); err == nil {
				_, _ = io.WriteString(c, says)
				_, _ = in.ReadByte()
			}
		})
		c.send("GET / HTTP/1.1\r\nHost: api.shop:81\r\n\r\n")
		if resp, body := c.response("GET"); resp.StatusCode != 502 || !strings.Contains(body, "protocol error") {
			t.Errorf("%s: %d %q", name, resp.StatusCode, body)
		}
	}
	// An answer before the request is whole, and a second one in its shadow.
	d.speak(func(c net.Conn, in *bufio.Reader) {
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
		}
	})
	for range 10 {
		c := dialRaw(t, d.web)
		c.send("POST / HTTP/1.1\r\nHost: api.shop:81\r\nContent-Length: 100\r\n\r\nsome\n")
		if _, body := c.response("POST"); body != "early" {
			t.Errorf("got %q", body)
		}
		c.Close()
	}
	d.speak(func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
		}
	})
	for range 10 {
		c.send("GET / HTTP/1.1\r\nHost: api.shop:81\r\n\r\n")
		if _, body := c.response("GET"); body != "mine" {
			t.Errorf("got somebody else's %q", body)
		}
	}
}
