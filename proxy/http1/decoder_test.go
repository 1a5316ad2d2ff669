package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// decode feeds src in pieces of step bytes, as a connection would, and returns what came out and what was left over.
func decode(d *Decoder, src string, step int) (body string, rest int, done bool, err error) {
	var buf []byte
	for fed := 0; ; {
		n, data, end, err := d.Next(buf)
		if err != nil {
			return body, 0, false, err
		}
		body += string(data)
		buf = buf[n:]
		switch {
		case end:
			return body, len(buf) + len(src) - fed, true, nil
		case n == 0 && fed == len(src):
			return body, len(buf), false, nil
		case n == 0:
			more := min(step, len(src)-fed)
			buf = append(buf, src[fed:fed+more]...)
			fed += more
		}
	}
}

var bodies = []struct {
	name, raw, want, trailers string
}{
	{"one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", ""},
	{"several", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", ""},
	{"empty", "0\r\n\r\n", "", ""},
	{"hex, both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""},
	{"leading zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello", ""},
	{"data that looks like framing", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n", ""},
	{"extensions dropped", "5;a=b;c=\"d e\";\xff\t\r\nhello\r\n0;x\r\n\r\n", "hello", ""},
	{"trailers", "5\r\nhello\r\n0\r\nX-Sum: 1 \r\nx-b:\r\n\r\n", "hello", `x-sum="1" x-b=""`},
	{"protected trailers dropped", "0\r\nA: 1\r\nAuthorization: x\r\nSet-Cookie: x\r\nX-Forwarded-For: x\r\nContent-Type: x\r\nConnection: a\r\nTrailer: a\r\nx_forwarded_for: y\r\n\r\n", "", `a="1"`},
}

func TestDecodeChunked(t *testing.T) {
	const next = "GET / HTTP/1.1\r\n"
	var d Decoder
	for _, c := range bodies {
		for step := 1; step <= len(c.raw)+len(next); step++ {
			d.Reset(proxy.BodyChunked, 0, nil)
			body, rest, done, err := decode(&d, c.raw+next, step)
			if err != nil || !done || body != c.want || rest != len(next) {
				t.Fatalf("%s by %d: body %q, rest %d, done %v, %v", c.name, step, body, rest, done, err)
			}
			var trailers []string
			for _, f := range d.Trailers() {
				trailers = append(trailers, fmt.Sprintf("%s=%q", f.Name, f.Value))
			}
			if got := strings.Join(trailers, " "); got != c.trailers || !d.CloseOK() {
				t.Fatalf("%s by %d: trailers %s, want %s; close is legal: %v", c.name, step, got, c.trailers, d.CloseOK())
			}
		}
		for end := range c.raw {
			d.Reset(proxy.BodyChunked, 0, nil)
			if _, _, done, err := decode(&d, c.raw[:end], 3); done || err != nil || d.CloseOK() || d.Trailers() != nil {
				t.Fatalf("%s cut at %d: done %v, close is legal %v, %v", c.name, end, done, d.CloseOK(), err)
			}
		}
	}
}

var refusedBodies = []struct {
	name, raw string
	code      proxy.Code
}{
	{"no size", "\r\nhello\r\n", proxy.BadRequest},
	{"0x prefix", "0x5\r\nhello\r\n", proxy.BadRequest},
	{"minus", "-5\r\nhello\r\n", proxy.BadRequest},
	{"plus", "+5\r\nhello\r\n", proxy.BadRequest},
	{"leading space", " 5\r\nhello\r\n", proxy.BadRequest},
	{"trailing space", "5 \r\nhello\r\n", proxy.BadRequest},
	{"space before extension", "5 ;a\r\nhello\r\n", proxy.BadRequest},
	{"not hex", "g\r\n", proxy.BadRequest},
	{"unicode digits", "\xd9\xa5\r\nhello\r\n", proxy.BadRequest},
	{"underscore", "1_0\r\n", proxy.BadRequest},
	{"2^63", "8000000000000000\r\n", proxy.BadRequest},
	{"2^64+5", "10000000000000005\r\nhello\r\n", proxy.BadRequest},
	{"endless zeros", strings.Repeat("0", 257) + "\r\n", proxy.BadRequest},
	{"bare LF after size", "5\nhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"bare CR after size", "5\rhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"bare LF in extension", "5;a\nhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"bare CR in extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"NUL in extension", "5;\x00\r\nhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"extension too long", "5;" + strings.Repeat("a", 256) + "\r\nhello\r\n", proxy.BadRequest},
	{"data longer than size", "4\r\nhello\r\n0\r\n\r\n", proxy.BadRequest},
	{"data without CRLF", "5\r\nhello0\r\n\r\n", proxy.BadRequest},
	{"bare LF after data", "5\r\nhello\n0\r\n\r\n", proxy.BadRequest},
	{"bare LF at the end", "0\r\n\n", proxy.BadRequest},
	{"bare CR at the end", "0\r\n\rX", proxy.BadRequest},
	{"trailer with bare LF", "0\r\nA: b\n\r\n", proxy.BadRequest},
	{"trailer with bare CR", "0\r\nA: b\rc\r\n\r\n", proxy.BadRequest},
	{"trailer with obs-fold", "0\r\nA: b\r\n c\r\n\r\n", proxy.BadRequest},
	{"trailer without colon", "0\r\nAb\r\n\r\n", proxy.BadRequest},
	{"trailer with space before colon", "0\r\nA : b\r\n\r\n", proxy.BadRequest},
	{"Content-Length trailer", "0\r\nContent-Length: 5\r\n\r\n", proxy.BadRequest},
	{"Transfer-Encoding trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n", proxy.BadRequest},
	{"Host trailer", "0\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"too many trailers", "0\r\n" + strings.Repeat("a: b\r\n", 101) + "\r\n", proxy.HeadTooLarge},
	{"trailers too large", "0\r\na: " + strings.Repeat("b", 8<<10) + "\r\n\r\n", proxy.HeadTooLarge},
	{"many long extensions", strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 90), proxy.BadRequest},
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range refusedBodies {
		for _, step := range []int{1, 2, 3, 7, len(c.raw)} {
			var d Decoder
			d.Reset(proxy.BodyChunked, 0, nil)
			body, _, done, err := decode(&d, c.raw, step)
			if err == nil {
				t.Errorf("%s by %d: body %q, done %v", c.name, step, body, done)
				continue
			}
			if code := codeOf(t, err); code != c.code {
				t.Errorf("%s by %d: %v, want code %v", c.name, step, err, c.code)
			}
			if _, _, _, again := d.Next([]byte("0\r\n\r\n")); again == nil || d.CloseOK() {
				t.Errorf("%s: decoding goes on after a failure", c.name)
			}
			d = Decoder{Response: true}
			d.Reset(proxy.BodyChunked, 0, nil)
			if _, _, _, err := decode(&d, c.raw, step); err == nil || codeOf(t, err) != proxy.UpstreamProtocol {
				t.Errorf("%s in a response: %v", c.name, err)
			}
		}
	}
}

// Extensions are paid for by data: a long stream with a short extension on each chunk goes on for ever.
func TestExtensionsPaidByData(t *testing.T) {
	var d Decoder
	d.Reset(proxy.BodyChunked, 0, nil)
	chunk := "20;signature=0123456789\r\n" + strings.Repeat("x", 32) + "\r\n"
	if _, _, _, err := decode(&d, strings.Repeat(chunk, 2000), 4096); err != nil {
		t.Error(err)
	}
}

func TestDecodeOthers(t *testing.T) {
	for _, c := range []struct {
		name          string
		kind          proxy.Body
		length        int64
		src, want     string
		rest          int
		done, closeOK bool
	}{
		{"none", proxy.BodyNone, 0, "next", "", 4, true, true},
		{"length", proxy.BodyLength, 5, "hellonext", "hello", 4, true, true},
		{"length, incomplete", proxy.BodyLength, 5, "hell", "hell", 0, false, false},
		{"length 0", proxy.BodyLength, 0, "next", "", 4, true, true},
		{"until close", proxy.BodyUntilClose, -1, "hello", "hello", 0, false, true},
	} {
		for step := 1; step <= len(c.src); step++ {
			var d Decoder
			d.Reset(c.kind, c.length, nil)
			body, rest, done, err := decode(&d, c.src, step)
			if body != c.want || rest != c.rest || done != c.done || err != nil || d.CloseOK() != c.closeOK {
				t.Errorf("%s by %d: body %q, rest %d, done %v, %v, close is legal %v", c.name, step, body, rest, done, err, d.CloseOK())
			}
		}
	}
}
