package plane

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/signet-mesh/signet/identity/turn"
)

// Limits of connections to the control port. What is not proven yet is as good as anonymous: it holds little and not for long.
const (
	handshakeTimeout = 10 * time.Second
	// Connections that shake hands, or came without a certificate: in all and from one address.
	maxAnonymous          = 4096
	maxAnonymousPerSource = 1024 // a node whose pods share its address starts them all at once
	// Connections with a certificate, as well.
	maxProven          = 16_384
	maxProvenPerSource = 4096
)

// entrance accepts the connections of the control port, lets them shake hands, and passes those with a client certificate to one
// listener and those without to another, so that who proved nothing meets a server of smaller measures.
type entrance struct {
	listener          net.Listener
	tls               credentials.TransportCredentials
	proven, anonymous *passed
	shareProven       *turn.Share
}

func newEntrance(l net.Listener, tls credentials.TransportCredentials) *entrance {
	return &entrance{
		listener: &turn.Listener{Listener: l, Share: turn.NewShare(maxAnonymous, maxAnonymousPerSource)}, tls: tls,
		proven: newPassed(l.Addr()), anonymous: newPassed(l.Addr()), shareProven: turn.NewShare(maxProven, maxProvenPerSource),
	}
}

// run accepts until close; handshakes have ended when it returns.
func (e *entrance) run(ctx context.Context) error {
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	for {
		c, err := e.listener.Accept()
		switch {
		case err == nil:
			handshakes.Go(func() { e.admit(ctx, c.(*turn.Conn)) })
		case errors.Is(err, net.ErrClosed):
			return nil
		default: // as many files are open as may be
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// admit shakes hands and passes the connection on.
func (e *entrance) admit(ctx context.Context, c *turn.Conn) {
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	secured, info, err := e.tls.ServerHandshake(c)
	if err != nil {
		_ = c.Close()
		return
	}
	if ctx.Err() != nil {
		_ = secured.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	if len(info.(credentials.TLSInfo).State.PeerCertificates) == 0 {
		e.anonymous.pass(&shaken{secured, info})
		return
	}
	c.Leave()
	who := turn.Source(c.RemoteAddr().String())
	if !e.shareProven.Take(who, 1) {
		_ = secured.Close()
		return
	}
	leave := sync.OnceFunc(func() { e.shareProven.Give(who, 1) })
	e.proven.pass(&shaken{&turn.Conn{Conn: secured, Leave: leave}, info})
}

// shaken is a connection whose handshake is over.
type shaken struct {
	net.Conn
	info credentials.AuthInfo
}

// shook are the credentials of a gRPC server that gets shaken connections.
type shook struct {
	credentials.TransportCredentials
}

// ServerHandshake is part of credentials.TransportCredentials.
func (shook) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s, ok := c.(*shaken)
	if !ok {
		return nil, nil, errors.New("the connection was not accepted by the entrance")
	}
	return s, s.info, nil
}

// Clone is part of credentials.TransportCredentials.
func (s shook) Clone() credentials.TransportCredentials { return s }

// passed is a net.Listener of connections that another accepted.
type passed struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPassed(addr net.Addr) *passed {
	return &passed{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// pass hands a connection to Accept, or closes it when the listener is.
func (p *passed) pass(c net.Conn) {
	select {
	case p.conns <- c:
	case <-p.closed:
		_ = c.Close()
	}
}

// Accept is part of net.Listener.
func (p *passed) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close is part of net.Listener.
func (p *passed) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is part of net.Listener.
func (p *passed) Addr() net.Addr { return p.addr }
