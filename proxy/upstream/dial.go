package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/socket"
)

// unixScheme begins the address of a Unix socket.
const unixScheme = "unix://"

// line is how one target is dialled. Immutable once its pool is built.
type line struct {
	target           string // as configured
	network, address string // as package net wants them
	remote           netip.AddrPort
	local            netip.Addr // the zero value: any
	dialer           net.Dialer
	tls              *tls.Config // nil: plain
	broken           error       // the target is no address
	private          string      // Options.Private
}

// newLine reads the target. One that is neither IP:port nor a Unix socket fails whenever it is dialled, and is never
// looked up as a name.
func newLine(target string, local netip.Addr) *line {
	l := &line{target: target, network: "tcp", address: target}
	if path, ok := strings.CutPrefix(target, unixScheme); ok {
		l.network, l.address = "unix", path
		return l
	}
	remote, err := netip.ParseAddrPort(target)
	if err != nil {
		l.broken = fmt.Errorf("reading target %q: want IP:port or unix:///path: %w", target, err)
		return l
	}
	l.remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	l.dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
	if local = local.Unmap(); local.IsValid() && local.Is4() == l.remote.Addr().Is4() {
		l.local = local
		l.dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		l.dialer.Control = bindWithoutPort
	}
	return l
}

// open makes a connection within timeout and until deadline (zero: none), TLS handshake included.
func (l *line) open(ctx context.Context, deadline time.Time, timeout time.Duration) (*Conn, *proxy.Failure) {
	if l.broken != nil {
		return nil, proxy.Fail(proxy.UpstreamConnect, "", l.broken)
	}
	until, expired := time.Now().Add(timeout), proxy.UpstreamConnect
	if !deadline.IsZero() && deadline.Before(until) {
		until, expired = deadline, proxy.UpstreamTimeout
	}
	dialing, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	c, err := l.connect(dialing)
	if err == nil {
		return c, nil
	}
	code := proxy.UpstreamConnect
	switch {
	case context.Cause(ctx) == errLeft:
		err = fmt.Errorf("%w (%w)", err, errLeft)
	case ctx.Err() != nil:
		code = proxy.ShuttingDown
	case certs.ReasonOf(err) == certs.UnexpectedIdentity:
		code = proxy.UpstreamIdentity
	case dialing.Err() != nil:
		code = expired
		err = fmt.Errorf("%w (no connection within %v)", err, timeout)
	}
	return nil, proxy.Fail(code, "", err)
}

func (l *line) connect(ctx context.Context) (*Conn, error) {
	dialled, err := l.dialer.DialContext(ctx, l.network, l.address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %q: %w", l.target, l.explain(err))
	}
	if _, ok := dialled.(*net.UnixConn); ok && l.private != "" && within(l.private, dialled.RemoteAddr().String()) {
		_ = dialled.Close()
		return nil, fmt.Errorf("connecting to %q: a socket of the sidecar itself is not called", l.target)
	}
	plain := socket.Wrap(dialled)
	c := newConn(plain)
	if l.tls == nil {
		return c, nil
	}
	c.wire = &wire{Conn: plain}
	secured := tls.Client(c.wire, l.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = plain.Close() // the handshake's error is the one that counts
		return nil, fmt.Errorf("TLS handshake with %q: %w", l.target, err)
	}
	c.Conn = secured
	c.peer, err = certs.PeerOf(secured.ConnectionState())
	if err != nil {
		c.shut()
		return nil, fmt.Errorf("TLS handshake with %q: %w", l.target, err)
	}
	return c, nil
}

// within reports whether a path is below a directory. The kernel says by which path a socket was bound, not by which it was
// found: links lead to no other answer.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// explain says in words when it is our own address that is at fault.
func (l *line) explain(err error) error {
	var call *os.SyscallError
	if !l.local.IsValid() || !errors.As(err, &call) {
		return err
	}
	switch {
	case call.Syscall == "bind":
		return fmt.Errorf("local address %q is not usable on this host: %w", l.local, err)
	case errors.Is(call.Err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("no free port left on local address %q: %w", l.local, err)
	}
	return err
}
