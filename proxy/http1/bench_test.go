package http1

import (
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// typicalRequest is 200 bytes, typicalResponse about as much.
const (
	typicalRequest = "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: catalog.shop.svc.cluster.local:8080\r\nUser-Agent: curl/8.11.0\r\n" +
		"Accept: */*\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\nX-Request-Id: 0f9a7c55-7d1f\r\n\r\n"
	typicalResponse = "HTTP/1.1 200 OK\r\nServer: gunicorn/23.0\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n" +
		"Content-Length: 1024\r\nAccess-Control-Allow-Origin: *\r\nConnection: keep-alive\r\n\r\n"
	chunkedRequest = "POST /up HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nExpect: 100-continue\r\n" +
		"Connection: TE, X-Private\r\nX-Private: 1\r\n\r\n"
	chunkedBody = "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
)

func BenchmarkParseRequest(b *testing.B) {
	buf := []byte(typicalRequest)
	var h proxy.Head
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := ParseRequest(buf, &h, nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	buf := []byte(typicalResponse)
	var h proxy.Head
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := ParseResponse(buf, &h, "GET", nil); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var h proxy.Head
	if _, err := ParseRequest([]byte(typicalRequest), &h, nil); err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRequest(dst[:0], &h)
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	var h proxy.Head
	if _, err := ParseResponse([]byte(typicalResponse), &h, "GET", nil); err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendResponse(dst[:0], &h)
	}
}

func BenchmarkDecoder(b *testing.B) {
	body := []byte(chunkedBody)
	var d Decoder
	b.ReportAllocs()
	for b.Loop() {
		d.Reset(proxy.BodyChunked, 0, nil)
		for src := body; ; {
			n, _, done, err := d.Next(src)
			if err != nil {
				b.Fatal(err)
			}
			if src = src[n:]; done {
				break
			}
		}
	}
}

// The corridor's promise: a message costs no memory once the head and the buffers have grown.
func TestNoAllocations(t *testing.T) {
	var h proxy.Head
	var d Decoder
	var dst []byte
	for name, run := range map[string]func() error{
		"request": func() error {
			_, err := ParseRequest([]byte(typicalRequest), &h, nil)
			dst = AppendRequest(dst[:0], &h)
			return err
		},
		"chunked request": func() error {
			_, err := ParseRequest([]byte(chunkedRequest), &h, nil)
			dst = AppendRequest(dst[:0], &h)
			d.Reset(h.Body, h.Length, nil)
			for src := []byte(chunkedBody); err == nil; {
				n, data, done, e := d.Next(src)
				dst, src, err = AppendChunk(dst, data), src[n:], e
				if done {
					break
				}
			}
			dst = AppendLastChunk(dst, d.Trailers())
			return err
		},
		"response": func() error {
			_, err := ParseResponse([]byte(typicalResponse), &h, "GET", nil)
			Reframe(&h, 1, false)
			dst = AppendResponse(dst[:0], &h)
			return err
		},
		"incomplete": func() error {
			_, err := ParseRequest([]byte(typicalRequest)[:100], &h, nil)
			return err
		},
	} {
		h.Reset()
		if err := run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n := testing.AllocsPerRun(100, func() {
			if err := run(); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations a message, want 0", name, n)
		}
	}
}
