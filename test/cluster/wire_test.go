package cluster_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is what passed between pods, as the node's bridge saw it.
type wire struct {
	fd   int
	mu   sync.Mutex // guards all
	all  []packet
	done chan struct{}
}

// packet is a TCP segment with a payload.
type packet struct {
	from, to netip.AddrPort
	payload  []byte
}

// listenWire records every packet of the pods' bridge until the test ends.
func listenWire(t *testing.T) *wire {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	w := &wire{fd: fd, done: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(w.read)
	t.Cleanup(func() { close(w.done); wg.Wait(); unix.Close(fd) })
	return w
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) read() {
	b := make([]byte, 256<<10)
	for {
		select {
		case <-w.done:
			return
		default:
		}
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			continue
		}
		if p, ok := parseTCP(b[:n]); ok {
			w.mu.Lock()
			w.all = append(w.all, p)
			w.mu.Unlock()
		}
	}
}

// parseTCP reads an Ethernet frame with IPv4 and TCP.
func parseTCP(b []byte) (packet, bool) {
	if len(b) < 34 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IP || b[23] != unix.IPPROTO_TCP {
		return packet{}, false
	}
	ip := b[14:]
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if total > len(ip) || total < head+20 {
		return packet{}, false
	}
	tcp := ip[head:total]
	off := int(tcp[12]>>4) * 4
	if off >= len(tcp) {
		return packet{}, false
	}
	at := func(addr []byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), port)
	}
	return packet{at(ip[12:16], binary.BigEndian.Uint16(tcp)), at(ip[16:20], binary.BigEndian.Uint16(tcp[2:])), bytes.Clone(tcp[off:])}, true
}

// between are the packets to or from an address since the wire was listened to.
func (w *wire) between(addr string) []packet {
	time.Sleep(300 * time.Millisecond)
	ip := netip.MustParseAddr(addr)
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []packet
	for _, p := range w.all {
		if p.from.Addr() == ip || p.to.Addr() == ip {
			out = append(out, p)
		}
	}
	return out
}

func carries(all []packet, text string) bool {
	for _, p := range all {
		if bytes.Contains(p.payload, []byte(text)) {
			return true
		}
	}
	return false
}

// tlsVersion is the version that a ServerHello among the packets selected (RFC 8446 section 4.2.1), 0 for none.
func tlsVersion(all []packet) uint16 {
	for _, p := range all {
		b := p.payload
		if len(b) < 44 || b[0] != 0x16 || b[5] != 0x02 {
			continue
		}
		session := int(b[43])
		i := 44 + session + 3
		if len(b) < i+2 {
			continue
		}
		end := i + 2 + int(binary.BigEndian.Uint16(b[i:]))
		for i += 2; i+4 <= min(end, len(b)); {
			typ, n := binary.BigEndian.Uint16(b[i:]), int(binary.BigEndian.Uint16(b[i+2:]))
			if typ == 43 && n == 2 && i+6 <= len(b) {
				return binary.BigEndian.Uint16(b[i+4:])
			}
			i += 4 + n
		}
		return binary.BigEndian.Uint16(b[9:])
	}
	return 0
}
