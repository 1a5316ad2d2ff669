package forward

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestSniff(t *testing.T) {
	for _, c := range []struct {
		sent string
		want Spoken
		more bool
	}{
		{"", Silent, true},
		{"\x16\x03\x01", TLS, false},
		{"GET / HTTP/1.1\r\n", HTTP1, false},
		{"get / HTTP/1.0\n", HTTP1, false},
		{"PURGE /x HTTP/1.1\r\n", HTTP1, false},
		{"GET / HTTP/1.1", HTTP1, true},
		{"GET /" + strings.Repeat("x", maxLine), HTTP1, false},
		{"GET http://x/", HTTP1, true},
		{"GE", Other, true},
		{"GET ", Other, true},
		{"GET key\r\n", Other, false}, // Redis, inline
		{"GET /key\r\n", Other, false},
		{"CONNECT a:443 HTTP/1.1\r\n", Other, false},
		{"PRI * HT", HTTP2, true},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00", HTTP2, false},
		{"PRI * HTTP/1.1\r\n", HTTP1, false},
		{"P", HTTP2, true},
		{"POST / HTTP/1.1\r\n", HTTP1, false},
		{"*1\r\n$4\r\nPING\r\n", Other, false},
		{"EHLO mail.example.com\r\n", Other, false},
		{"\x00\x00\x00\x08\x04\xd2\x16\x2f", Other, false},
		{strings.Repeat("a", 33), Other, false},
		{"GET / HTTP/2.0\r\n", Other, false},
		// What lenient servers take for HTTP/1.
		{"\r\nGET / HTTP/1.1\r\n", HTTP1, false},
		{"\r\n\n\r \tGET\t/\tHTTP/1.1 \r\n", HTTP1, false},
		{"\r\n", Other, true},
		{strings.Repeat("\r\n", maxLine/2), HTTP1, false},
		{"GET / http/01.1\r\n", HTTP1, false},
		{"FOO /" + strings.Repeat("x", maxLine), HTTP1, false},
		{"FOO /x", Other, true},
		{"\r\n\x00", Other, false},
		{"HTTP/1.1\r\n", Other, false},
	} {
		s, more := Sniff([]byte(c.sent))
		if s != c.want || more != c.more {
			t.Errorf("%.30q: %v %t, want %v %t", c.sent, s, more, c.want, c.more)
		}
	}
}

// pipe is a connection whose other end sends pieces, one after the other, and may close.
func pipe(t *testing.T, shut bool, pieces ...string) net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, p := range pieces {
			_, _ = io.WriteString(client, p)
			time.Sleep(5 * time.Millisecond)
		}
		if shut {
			client.Close()
		}
	}()
	t.Cleanup(func() { <-done; client.Close(); server.Close() })
	return server
}

func TestDetect(t *testing.T) {
	b, s, err := Detect(pipe(t, false, "G", "ET /"+strings.Repeat("y", 5000), " HTTP/1.1\r\n"), nil, 5*time.Second)
	if s != HTTP1 || err != nil || len(b) != 5005+11 {
		t.Errorf("in pieces: %v %v, %d bytes", s, err, len(b))
	}
	b, s, err = Detect(pipe(t, false, " / HTTP/1.1\r\n"), []byte("GET"), 5*time.Second)
	if s != HTTP1 || err != nil || string(b) != "GET / HTTP/1.1\r\n" {
		t.Errorf("after early bytes: %v %v %q", s, err, b)
	}
	start := time.Now()
	if b, s, err = Detect(pipe(t, false), nil, 50*time.Millisecond); s != Silent || err != nil || len(b) > 0 || time.Since(start) > time.Second {
		t.Errorf("silence: %v %v %q", s, err, b)
	}
	if _, s, err = Detect(pipe(t, false, "GET /slow"), nil, 50*time.Millisecond); s != HTTP1 || err != nil {
		t.Errorf("a request line that takes its time: %v %v", s, err)
	}
	if b, s, err = Detect(pipe(t, true, "US"), nil, time.Second); s != Other || err != nil || string(b) != "US" {
		t.Errorf("an end after a word: %v %v %q", s, err, b)
	}
	if _, _, err = Detect(pipe(t, true), nil, time.Second); !errors.Is(err, io.EOF) {
		t.Errorf("an end before the first byte: %v", err)
	}
}
