package inbound

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
	"github.com/signet-mesh/signet/proxy/forward"
)

// Reasons for which a connection is refused before it becomes an exchange, beside those of certs.Verify.
const (
	reasonPlaintext = "plaintext_under_strict"
	reasonNoBytes   = "no_first_bytes"
	reasonHandshake = "tls_handshake"
	reasonNotTLS    = "not_tls"           // begins like TLS, and is none
	reasonALPN      = "alpn"              // none of the protocols offered is spoken here
	reasonVersion   = "tls_version"       // the client does not speak TLS 1.3
	reasonByPeer    = "refused_by_client" // the client sent an alert: it does not take our certificate, mostly
	reasonTimeout   = "tls_handshake_timeout"
	reasonGone      = "closed_in_handshake"
	reasonHello     = "bad_client_hello"
	reasonLateHTTP  = "http_after_detection" // a request on a port that declares nothing whose beginning passed as TCP
)

// recordHandshake is the first byte of every TLS connection (RFC 8446 section 5.1).
const recordHandshake = 0x16

// maxHello bounds what is read of a ClientHello before deciding whose connection it is.
const maxHello = 16<<10 + 512

var errPlaintext = errors.New("first byte is not a TLS handshake")

// identify is step 2. It returns the connection to go on with, bytes that were read of it already and whether to speak HTTP.
func (l *Listener) identify(raw net.Conn, c *Config, s *session) (conn net.Conn, preread []byte, http, ok bool) {
	switch c.Mode {
	case Disable:
		s.security = proxy.SecurityNone
		if c.Protocol == mesh.TCP {
			return raw, nil, false, true
		}
		first, ok := l.firstBytes(raw, s, c)
		if !ok || len(first) == 0 { // silent where TCP may be spoken
			return raw, nil, false, ok
		}
		preread, http, ok = l.class(raw, first, c, s)
		return raw, preread, http, ok
	case Permissive:
		return l.detect(raw, c, s)
	}
	return l.secured(raw, c, s)
}

// detect tells the mesh's connections from plaintext and from TLS that is the program's own.
func (l *Listener) detect(raw net.Conn, c *Config, s *session) (conn net.Conn, preread []byte, http, ok bool) {
	s.security = proxy.SecurityNone
	first, ok := l.firstBytes(raw, s, c)
	if !ok {
		return nil, nil, false, false
	}
	if len(first) == 0 { // nothing came in time on a port that may be TCP: the server may speak first
		return raw, nil, false, true
	}
	if first[0] != recordHandshake {
		preread, http, ok = l.class(raw, first, c, s)
		return raw, preread, http, ok
	}
	hello, ours, err := l.readHello(raw, first)
	if err != nil {
		l.rec.Refused(s.local, s.remote, reasonHello, err)
		return nil, nil, false, false
	}
	if !ours {
		return raw, hello, false, true
	}
	return l.secured(&replayed{Conn: raw, early: hello}, c, s)
}

// secured is a connection that must be mutual TLS. Of a port that declares nothing the caller's sidecar says by ALPN what it
// found the connection to be; where nobody did, the first bytes inside say it. That it is TCP is not believed: see guard.
func (l *Listener) secured(raw net.Conn, c *Config, s *session) (conn net.Conn, preread []byte, http, ok bool) {
	secured, ok := l.handshake(raw, s)
	if !ok {
		return nil, nil, false, false
	}
	if c.Protocol == mesh.Detect {
		switch secured.ConnectionState().NegotiatedProtocol {
		case ALPNHTTP1:
			return secured, nil, true, true
		case ALPNTCP:
			return secured, nil, false, true
		}
	}
	preread, http, ok = l.class(secured, nil, c, s)
	if !ok {
		_ = secured.Close()
	}
	return secured, preread, http, ok
}

// class says whether a connection is HTTP: as its port declares, else as its first bytes say. early are those read of it.
func (l *Listener) class(conn net.Conn, early []byte, c *Config, s *session) (preread []byte, http, ok bool) {
	switch {
	case c.Protocol == mesh.TCP || len(early) > 0 && early[0] == recordHandshake:
		return early, false, true
	case c.Protocol == mesh.HTTP:
		return early, true, true
	}
	b, spoken, err := forward.Detect(conn, early, c.Detection)
	if err != nil && !errors.Is(err, io.EOF) {
		l.rec.Refused(s.local, s.remote, reasonNoBytes, err)
		return nil, false, false
	}
	return b, spoken == forward.HTTP1, true
}

// firstBytes waits for the first bytes of a connection. On a TCP port none in time is an answer; on an HTTP one it is the end.
func (l *Listener) firstBytes(raw net.Conn, s *session, c *Config) ([]byte, bool) {
	_ = raw.SetReadDeadline(time.Now().Add(c.Detection))
	b := make([]byte, 2048)
	n, err := raw.Read(b)
	_ = raw.SetReadDeadline(time.Time{})
	if n > 0 {
		return b[:n], true
	}
	if (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF)) && c.Protocol != mesh.HTTP {
		return nil, true
	}
	if !errors.Is(err, io.EOF) {
		l.rec.Refused(s.local, s.remote, reasonNoBytes, err)
	}
	return nil, false
}

// readHello reads on until the ClientHello is whole. ours: it offers an istio ALPN.
func (l *Listener) readHello(raw net.Conn, b []byte) (hello []byte, ours bool, err error) {
	_ = raw.SetReadDeadline(time.Now().Add(handshakeTimeout))
	defer raw.SetReadDeadline(time.Time{})
	for {
		h, need, err := certs.ReadClientHello(b)
		if err != nil {
			// Not a TLS that we know: the program's.
			return b, false, nil
		}
		if !need {
			return b, slices.Contains(h.ALPN, ALPNHTTP1) || slices.Contains(h.ALPN, ALPNTCP), nil
		}
		if len(b) >= maxHello {
			return b, false, nil
		}
		b = slices.Grow(b, 4096)
		n, err := raw.Read(b[len(b):min(cap(b), maxHello)])
		b = b[:len(b)+n]
		if n == 0 && err != nil {
			return nil, false, err
		}
	}
}

// handshake makes the connection a mutual TLS one and learns its peer. A connection that starts in plaintext is closed
// without an answer.
func (l *Listener) handshake(raw net.Conn, s *session) (*tls.Conn, bool) {
	conn := tls.Server(&opening{Conn: raw}, l.tls)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.life), handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		l.rec.Refused(s.local, s.remote, reasonOf(err), err)
		_ = raw.Close()
		return nil, false
	}
	state := conn.ConnectionState()
	peer, err := certs.PeerOf(state)
	if err != nil {
		l.rec.Refused(s.local, s.remote, reasonOf(err), err)
		_ = raw.Close()
		return nil, false
	}
	s.auth.Peer, s.auth.SNI = peer, state.ServerName
	s.security = proxy.SecurityMTLS
	s.xfcc = "By=" + s.config().ID.String() + ";Hash=" + hex.EncodeToString(peer.LeafHash[:]) + `;Subject="";URI=` + peer.ID.String()
	return conn, true
}

func reasonOf(err error) string {
	var v *certs.VerifyError
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &v):
		return string(v.Reason)
	case errors.Is(err, errPlaintext):
		return reasonPlaintext
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return reasonTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return reasonGone
	case errors.As(err, &header):
		return reasonNotTLS
	case errors.As(err, &op) && op.Op == "remote error":
		return reasonByPeer
	}
	return wordOf(err.Error())
}

// wordOf reads the errors for which crypto/tls has no type.
func wordOf(s string) string {
	switch {
	case strings.Contains(s, "didn't provide a certificate"):
		return string(certs.NoCertificate)
	case strings.Contains(s, "unsupported application protocols"):
		return reasonALPN
	case strings.Contains(s, "unsupported versions"):
		return reasonVersion
	}
	return reasonHandshake
}

// opening looks at the first byte of a connection: what does not begin as TLS fails the handshake before anything is written.
type opening struct {
	net.Conn
	seen bool
}

// NetConn is the connection under it, as tls.Conn has it.
func (o *opening) NetConn() net.Conn { return o.Conn }

func (o *opening) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if !o.seen && n > 0 {
		o.seen = true
		if b[0] != recordHandshake {
			return 0, errPlaintext
		}
	}
	return n, err
}

// replayed gives bytes back that were read to look at them.
type replayed struct {
	net.Conn
	early []byte
}

// NetConn is the connection under it, as tls.Conn has it.
func (r *replayed) NetConn() net.Conn { return r.Conn }

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(b, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}
