package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/certs"
)

// helloOf is what crypto/tls sends first for a configuration.
func helloOf(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	var out bytes.Buffer
	_ = tls.Client(&fakeConn{w: &out}, cfg).Handshake() // ends at the first read
	if out.Len() == 0 {
		tb.Fatal("crypto/tls wrote no hello")
	}
	return out.Bytes()
}

// goReads is what crypto/tls's server makes of bytes: nil when it takes no hello from them.
func goReads(b []byte) *tls.ClientHelloInfo {
	var got *tls.ClientHelloInfo
	server := tls.Server(&fakeConn{r: bytes.NewReader(b)}, &tls.Config{
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			got = info
			return nil, errors.New("seen enough")
		},
	})
	_ = server.HandshakeContext(context.Background())
	return got
}

// fakeConn reads from r (nothing when nil) and writes to w (nowhere when nil).
type fakeConn struct {
	net.Conn
	r io.Reader
	w io.Writer
}

func (c *fakeConn) Read(b []byte) (int, error) {
	if c.r == nil {
		return 0, io.EOF
	}
	return c.r.Read(b)
}

func (c *fakeConn) Write(b []byte) (int, error) {
	if c.w == nil {
		return len(b), nil
	}
	return c.w.Write(b)
}

func (c *fakeConn) Close() error                     { return nil }
func (c *fakeConn) SetDeadline(time.Time) error      { return nil }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }
func (c *fakeConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *fakeConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// fragmented cuts the handshake bytes of one record into records of n bytes.
func fragmented(record []byte, n int) []byte {
	var out []byte
	for rest := record[5:]; len(rest) > 0; {
		part := rest[:min(n, len(rest))]
		rest = rest[len(part):]
		out = append(out, 22, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func hellos() map[string]*tls.Config {
	long := make([]string, 60)
	for i := range long {
		long[i] = strings.Repeat(string(rune('a'+i%26)), 200)
	}
	return map[string]*tls.Config{
		"bare":         {InsecureSkipVerify: true},
		"server name":  {ServerName: "db.shop.svc.cluster.local"},
		"istio":        {ServerName: "outbound_.80_._.db", NextProtos: []string{"istio-http/1.1", "istio"}},
		"TLS 1.2":      {ServerName: "old.test", MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
		"TLS 1.3 only": {ServerName: "new.test", MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}},
		"address":      {ServerName: "127.0.0.1"},
		"12 kB ALPN":   {ServerName: "long.test", NextProtos: long},
	}
}

func TestReadClientHello(t *testing.T) {
	for name, cfg := range hellos() {
		t.Run(name, func(t *testing.T) {
			record := helloOf(t, cfg)
			want := goReads(record)
			if want == nil {
				t.Fatal("crypto/tls can't read its own hello")
			}
			for _, b := range [][]byte{record, fragmented(record, 300), append(slices.Clone(record), "early data"...)} {
				got, need, err := certs.ReadClientHello(b)
				if need || err != nil {
					t.Fatalf("need %v, error %v", need, err)
				}
				if got.ServerName != want.ServerName || !slices.Equal(got.ALPN, want.SupportedProtos) {
					t.Errorf("got %+v, crypto/tls read %q, %q", got, want.ServerName, want.SupportedProtos)
				}
			}
			for _, whole := range [][]byte{record, fragmented(record, 300)} {
				for n := range whole {
					if _, need, err := certs.ReadClientHello(whole[:n]); !need || err != nil {
						t.Fatalf("%d of %d bytes: need %v, error %v", n, len(whole), need, err)
					}
				}
			}
		})
	}
	hello, _, _ := certs.ReadClientHello(helloOf(t, hellos()["istio"]))
	if !hello.Offers("istio") || hello.Offers("h2") {
		t.Errorf("offers of %+v", hello)
	}
}

func TestReadClientHelloRefuses(t *testing.T) {
	record := helloOf(t, hellos()["istio"])
	change := func(at int, b ...byte) []byte {
		out := slices.Clone(record)
		copy(out[at:], b)
		return out
	}
	for _, c := range []struct {
		name   string
		in     []byte
		notTLS bool
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), true},
		{"one byte of HTTP", []byte("G"), true},
		{"SSH", []byte("SSH-2.0-x"), true},
		{"SSLv2", []byte{0x80, 0x2e, 1, 3, 1}, true},
		{"alert", []byte{21, 3, 1, 0, 2, 2, 40}, true},
		{"record version", []byte{22, 2}, true},
		{"empty record", []byte{22, 3, 1, 0, 0}, true},
		{"record too long", []byte{22, 3, 1, 0x40, 1}, true},
		{"server hello", []byte{22, 3, 3, 0, 50, 2}, true},
		{"second record is no handshake", append(fragmented(record, 100)[:105], 23, 3, 3), true},
		{"message of 16 MB", []byte{22, 3, 1, 0, 200, 1, 0xff, 0xff, 0xff}, false},
		{"message of 16 KiB", []byte{22, 3, 1, 0x40, 0, 1, 0, 0x40, 0}, false},
		{"tiny fragments beyond the limit", fragmented(append([]byte{22, 3, 1, 0, 0, 1, 0, 0x30, 0}, make([]byte, 0x3000)...), 1), false},
		{"session ID beyond the message", change(43, 255), false},
		{"message cut short", change(6, 0, 0, 40), false},
	} {
		_, need, err := certs.ReadClientHello(c.in)
		if err == nil || need {
			t.Errorf("%s: need %v, error %v", c.name, need, err)
		}
		if errors.Is(err, certs.ErrNotTLS) != c.notTLS {
			t.Errorf("%s: %v: is ErrNotTLS %v", c.name, err, !c.notTLS)
		}
	}
}

func FuzzReadClientHello(f *testing.F) {
	for _, cfg := range hellos() {
		f.Add(helloOf(f, cfg))
	}
	f.Add(fragmented(helloOf(f, hellos()["istio"]), 100))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		got, need, err := certs.ReadClientHello(b)
		if !bytes.Equal(b, before) {
			t.Fatal("input was changed")
		}
		if need && (err != nil || len(b) >= certs.MaxClientHello) {
			t.Fatalf("need %v after %d bytes, error %v", need, len(b), err)
		}
		if more, again, _ := certs.ReadClientHello(append(before, 22, 3, 1, 0, 1, 0)); !need && err == nil {
			if again || more.ServerName != got.ServerName || !slices.Equal(more.ALPN, got.ALPN) {
				t.Fatalf("bytes after the hello change it: %+v, then %+v", got, more)
			}
		}
		// What crypto/tls takes we take, and alike: else a PERMISSIVE listener would hand a client of ours to the program.
		want := goReads(b)
		if want == nil || !plainRecords(b) {
			return
		}
		if need || err != nil {
			t.Fatalf("crypto/tls reads %q %q, we: need %v, error %v", want.ServerName, want.SupportedProtos, need, err)
		}
		if got.ServerName != want.ServerName || !slices.Equal(got.ALPN, want.SupportedProtos) {
			t.Fatalf("crypto/tls reads %q %q, we %+v", want.ServerName, want.SupportedProtos, got)
		}
	})
}

// plainRecords reports whether bytes are handshake records of major version 3 only, and few enough for us: crypto/tls
// also skips alerts before the hello, takes other versions, and up to 64 KiB.
func plainRecords(b []byte) bool {
	if len(b) > certs.MaxClientHello {
		return false
	}
	for len(b) >= 5 {
		if b[0] != 22 || b[1] != 3 {
			return false
		}
		b = b[min(len(b), 5+int(binary.BigEndian.Uint16(b[3:]))):]
	}
	return true
}
