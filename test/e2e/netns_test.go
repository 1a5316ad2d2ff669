package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace. What is made in it is gone with the test.
type host struct {
	t    *testing.T
	name string
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	must(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("removing network namespace %s: %v %s", name, err, out)
		}
	})
	return &host{t, name}
}

// command is a command that will run on the host.
func (h *host) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.name, name}, args...)...)
}

// code is the status that curl gets on the host, or "curl N" with its exit code.
func (h *host) code(args ...string) string {
	h.t.Helper()
	cmd := h.command("curl", append([]string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Sprintf("curl %d", cmd.ProcessState.ExitCode())
	}
	return string(out)
}

// enter runs f on a thread that is in the host's network. The sockets that f makes stay there.
func (h *host) enter(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		ns, err := os.Open("/run/netns/" + h.name)
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

func (h *host) listen(address string) (ln net.Listener) {
	h.t.Helper()
	if err := h.enter(func() (err error) { ln, err = net.Listen("tcp", address); return err }); err != nil {
		h.t.Fatal(err)
	}
	return ln
}

func (h *host) dial(address string) (conn net.Conn, err error) {
	err = h.enter(func() (err error) { conn, err = net.Dial("tcp4", address); return err })
	return conn, err
}

// wire is what went over the cable.
type wire struct {
	fd   int
	done chan struct{}

	mu     sync.Mutex
	frames [][]byte
}

// capture copies every frame that the host sends or receives over the cable from now on (packet(7)).
func (h *host) capture() *wire {
	h.t.Helper()
	w := &wire{done: make(chan struct{})}
	err := h.enter(func() (err error) {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		cable, err := net.InterfaceByName("cable")
		if err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: cable.Index})
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	h.t.Cleanup(sync.OnceFunc(func() { <-ended; unix.Close(w.fd) }))
	go func() {
		defer close(ended)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-w.done:
				return
			default:
			}
			n, _, err := unix.Recvfrom(w.fd, buf, 0)
			if err == syscall.EAGAIN || err == syscall.EINTR {
				continue
			}
			if err != nil {
				return
			}
			w.mu.Lock()
			w.frames = append(w.frames, bytes.Clone(buf[:n]))
			w.mu.Unlock()
		}
	}()
	return w
}

// check ends the capture and judges it: TLS 1.3 with the hybrid key exchange, and not a byte of what was said in the clear.
func (w *wire) check(t *testing.T) {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	close(w.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	toPort, serverHello, data := 0, 0, 0
	for _, f := range w.frames {
		for _, clear := range []string{"plaintext-marker", "HTTP/1.1", "X-Forwarded-Client-Cert", "spiffe://"} {
			if bytes.Contains(f, []byte(clear)) {
				t.Errorf("%q went over the wire in the clear", clear)
			}
		}
		src, dst, payload := tcpOf(f)
		switch {
		case dst == 8080 && len(payload) > 5:
			toPort++
			if payload[0] != 22 && payload[0] != 20 && payload[0] != 23 {
				t.Errorf("what went to port 8080 begins with %x", payload[:min(len(payload), 16)])
			}
		case src == 8080 && len(payload) > 100 && payload[0] == 22:
			// RFC 8446 section 4.2.1: supported_versions says TLS 1.3; section 4.2.8: key_share of X25519MLKEM768.
			if bytes.Contains(payload, []byte{0, 0x2b, 0, 2, 3, 4}) && bytes.Contains(payload, []byte{0x11, 0xec}) {
				serverHello++
			}
		case src == 8080 && len(payload) > 5 && payload[0] == 23:
			data++
		}
	}
	if toPort == 0 || serverHello == 0 || data == 0 {
		t.Errorf("of %d frames %d went to port 8080, %d were a ServerHello of TLS 1.3 with X25519MLKEM768, %d answered", len(w.frames), toPort, serverHello, data)
	}
}

// tcpOf finds the TCP segment in an Ethernet frame of IPv4.
func tcpOf(frame []byte) (src, dst uint16, payload []byte) {
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP || frame[23] != unix.IPPROTO_TCP {
		return 0, 0, nil
	}
	ip := frame[14:]
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if total == 0 || total > len(ip) { // segments are cut by the card, which there is none
		total = len(ip)
	}
	if header+20 > total {
		return 0, 0, nil
	}
	tcp := ip[header:total]
	offset := int(tcp[12]>>4) * 4
	if offset > len(tcp) {
		return 0, 0, nil
	}
	return binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:]), tcp[offset:]
}
