package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/proxy/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a wrapped connection and the plain other end of it.
func pair(t *testing.T) (wrapped net.Conn, other *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return socket.Wrap(c), s.(*net.TCPConn)
}

func TestWrap(t *testing.T) {
	wrapped, other := pair(t)
	if socket.TCP(wrapped) == nil || socket.TCP(other) != other {
		t.Error("TCP does not find the connection under a connection")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if socket.Wrap(a) != a || socket.TCP(a) != nil {
		t.Error("what is no TCP connection must be left alone")
	}
}

// TestBothWays moves more than any socket buffer holds, both ways at once, so that reads and writes wait and go on.
func TestBothWays(t *testing.T) {
	wrapped, other := pair(t)
	there, back := bytes.Repeat([]byte("there"), 1<<20), bytes.Repeat([]byte("back!"), 1<<20)
	var wg sync.WaitGroup
	send := func(c net.Conn, b []byte) {
		if n, err := c.Write(b); n != len(b) || err != nil {
			t.Errorf("wrote %d of %d: %v", n, len(b), err)
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
	}
	receive := func(c net.Conn, want []byte) {
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d of %d bytes: %v", len(got), len(want), err)
		}
	}
	wg.Go(func() { send(wrapped, there) })
	wg.Go(func() { send(other, back) })
	wg.Go(func() { receive(wrapped, back) })
	wg.Go(func() { receive(other, there) })
	wg.Wait()
}

func TestEnds(t *testing.T) {
	one := make([]byte, 1)
	t.Run("end of stream", func(t *testing.T) {
		wrapped, other := pair(t)
		other.Close()
		if n, err := wrapped.Read(one); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v: want io.EOF itself", n, err)
		}
	})
	t.Run("nothing asked for", func(t *testing.T) {
		wrapped, _ := pair(t)
		if n, err := wrapped.Read(nil); n != 0 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		if n, err := wrapped.Write(nil); n != 0 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		wrapped, other := pair(t)
		wrapped.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := wrapped.Read(one)
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("got %v, want a timeout", err)
		}
		wrapped.SetReadDeadline(time.Time{})
		if _, err := other.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := wrapped.Read(one); n != 1 || err != nil || one[0] != 'x' {
			t.Errorf("after the deadline was lifted: read %d, %v", n, err)
		}
	})
	t.Run("deadline while it waits", func(t *testing.T) {
		wrapped, _ := pair(t)
		time.AfterFunc(20*time.Millisecond, func() { wrapped.SetDeadline(time.Unix(1, 0)) })
		if _, err := wrapped.Read(one); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a timeout", err)
		}
	})
	t.Run("write that finds no room", func(t *testing.T) {
		wrapped, _ := pair(t)
		wrapped.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := wrapped.Write(make([]byte, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 64<<20 {
			t.Errorf("wrote %d, %v: want what fits and a timeout", n, err)
		}
	})
	t.Run("closed while it waits", func(t *testing.T) {
		wrapped, _ := pair(t)
		time.AfterFunc(20*time.Millisecond, func() { wrapped.Close() })
		if _, err := wrapped.Read(one); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		if _, err := wrapped.Write(one); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		wrapped, other := pair(t)
		other.SetLinger(0)
		other.Close()
		_, err := wrapped.Read(one)
		var op *net.OpError
		if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "read" {
			t.Errorf("read: %v", err)
		}
		if _, err := wrapped.Write(one); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v", err)
		}
	})
}

// TestSteadyFlow reads often enough without a wait that the ordinary read takes its turns.
func TestSteadyFlow(t *testing.T) {
	wrapped, other := pair(t)
	sent := bytes.Repeat([]byte("0123456789"), 100)
	if _, err := other.Write(sent); err != nil {
		t.Fatal(err)
	}
	other.CloseWrite()
	var got []byte
	for b := make([]byte, 1); ; {
		n, err := wrapped.Read(b)
		got = append(got, b[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("got %q", got)
	}
}

func TestAllocations(t *testing.T) {
	wrapped, other := pair(t)
	b := make([]byte, 16)
	got := testing.AllocsPerRun(200, func() {
		for _, c := range [][2]net.Conn{{wrapped, other}, {other, wrapped}} {
			if _, err := c[0].Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c[1], b); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got != 0 {
		t.Errorf("%v allocations for a read and a write, want none", got)
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, wrap := range []bool{true, false} {
		b.Run(map[bool]string{true: "raw", false: "net"}[wrap], func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			s, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if wrap {
				c, s = socket.Wrap(c), socket.Wrap(s)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer s.Close()
				for buf := make([]byte, 64); ; {
					n, err := s.Read(buf)
					if err != nil {
						return
					}
					_, _ = s.Write(buf[:n])
				}
			}()
			buf := make([]byte, 64)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
			c.Close()
			<-done
		})
	}
}
