package certs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// MaxClientHello is the most bytes of a connection that are looked at for a ClientHello, record headers included.
const MaxClientHello = 16 << 10

// ErrNotTLS says that a connection's first bytes are not a TLS ClientHello.
var ErrNotTLS = errors.New("not a TLS ClientHello")

// ClientHello is what a TLS client says of itself in the clear.
type ClientHello struct {
	// ServerName is the SNI host name, "" for none.
	ServerName string
	// ALPN are the protocols offered, in the client's order.
	ALPN []string
}

// Offers reports whether the client offers a protocol.
func (h ClientHello) Offers(protocol string) bool { return slices.Contains(h.ALPN, protocol) }

// ReadClientHello reads the first bytes of a connection (RFC 8446 sections 4.1.2 and 5.1; the hello may be spread over
// several records). With need it wants more bytes and the rest means nothing; an error is final: ErrNotTLS when the
// bytes are something else, another when they are a ClientHello that is malformed or longer than MaxClientHello. A single
// byte is enough to know that it is not TLS. It does no I/O, keeps nothing of b and never looks past MaxClientHello.
func ReadClientHello(b []byte) (hello ClientHello, need bool, err error) {
	message, need, err := handshakeMessage(b)
	if need || err != nil {
		return ClientHello{}, need, err
	}
	hello, err = parseClientHello(message)
	return hello, false, err
}

const (
	recordHandshake      = 22
	messageClientHello   = 1
	extensionServerName  = 0
	extensionALPN        = 16
	maxRecordPayload     = 1 << 14
	clientHelloSizeBytes = 4 // type and 24-bit length
)

// handshakeMessage joins records until the first handshake message is whole, and gives its body.
func handshakeMessage(b []byte) (body []byte, need bool, err error) {
	b = b[:min(len(b), MaxClientHello)]
	var message []byte
	for used := 0; ; {
		rest := b[min(used, len(b)):]
		if err := checkRecordStart(rest); err != nil {
			return nil, false, err
		}
		if len(rest) < 5 {
			return moreThan(b)
		}
		size := int(binary.BigEndian.Uint16(rest[3:]))
		if size == 0 || size > maxRecordPayload {
			return nil, false, fmt.Errorf("%w: record of %d bytes", ErrNotTLS, size)
		}
		payload := rest[5:min(5+size, len(rest))]
		message = append(message, payload...)
		if len(message) > 0 && message[0] != messageClientHello {
			return nil, false, fmt.Errorf("%w: handshake message of type %d", ErrNotTLS, message[0])
		}
		if len(message) >= clientHelloSizeBytes {
			want := clientHelloSizeBytes + int(message[1])<<16 + int(message[2])<<8 + int(message[3])
			if err := within(want); err != nil {
				return nil, false, err
			}
			if len(message) >= want {
				return message[clientHelloSizeBytes:want], false, nil
			}
		}
		used += 5 + size
		if len(payload) < size {
			return moreThan(b)
		}
	}
}

// moreThan wants more bytes than these, if these are not the limit already.
func moreThan(b []byte) ([]byte, bool, error) {
	err := within(len(b) + 1)
	return nil, err == nil, err
}

func checkRecordStart(b []byte) error {
	switch {
	case len(b) > 0 && b[0] != recordHandshake:
		return fmt.Errorf("%w: record of type %d", ErrNotTLS, b[0])
	case len(b) > 1 && b[1] != 3:
		return fmt.Errorf("%w: record of version %d.x", ErrNotTLS, b[1])
	}
	return nil
}

func within(size int) error {
	if size > MaxClientHello {
		return fmt.Errorf("reading ClientHello: needs %d bytes, the limit is %d", size, MaxClientHello)
	}
	return nil
}

// parseClientHello reads the body of the message.
func parseClientHello(body []byte) (ClientHello, error) {
	r := reader(body)
	r.skip(2 + 32) // legacy_version, random
	r.vector8()    // legacy_session_id
	r.vector16()   // cipher_suites
	r.vector8()    // legacy_compression_methods
	if r == nil {
		return ClientHello{}, malformed("head")
	}
	if len(r) == 0 { // extensions may be absent before TLS 1.3
		return ClientHello{}, nil
	}
	extensions := r.vector16()
	if extensions == nil || r == nil || len(r) != 0 {
		return ClientHello{}, malformed("extensions")
	}
	var hello ClientHello
	seen := map[uint16]bool{}
	for len(extensions) > 0 {
		kind := extensions.uint16()
		data := extensions.vector16()
		if extensions == nil || data == nil || seen[kind] {
			return ClientHello{}, malformed("extensions")
		}
		seen[kind] = true
		var err error
		switch kind {
		case extensionServerName:
			hello.ServerName, err = data.serverName()
		case extensionALPN:
			hello.ALPN, err = data.protocols()
		}
		if err != nil {
			return ClientHello{}, err
		}
	}
	return hello, nil
}

func malformed(what string) error {
	return fmt.Errorf("reading ClientHello: malformed %s", what)
}

// reader takes fields off the front of bytes. It is nil after a field that wasn't whole; what follows then gives nil too.
type reader []byte

func (r *reader) skip(n int) reader {
	if *r == nil || len(*r) < n {
		*r = nil
		return nil
	}
	out := (*r)[:n:n]
	*r = (*r)[n:]
	return out
}

func (r *reader) uint16() uint16 {
	if b := r.skip(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) vector8() reader {
	if b := r.skip(1); b != nil {
		return r.skip(int(b[0]))
	}
	return nil
}

func (r *reader) vector16() reader {
	if b := r.skip(2); b != nil {
		return r.skip(int(binary.BigEndian.Uint16(b)))
	}
	return nil
}

// serverName is RFC 6066 section 3: a list of names of which at most one is a host name.
func (r reader) serverName() (string, error) {
	list := r.vector16()
	if len(list) == 0 || len(r) != 0 {
		return "", malformed("server_name")
	}
	name := ""
	for len(list) > 0 {
		kind := list.skip(1)
		value := list.vector16()
		if kind == nil || len(value) == 0 || list == nil {
			return "", malformed("server_name")
		}
		if kind[0] != 0 {
			continue
		}
		if name != "" {
			return "", malformed("server_name")
		}
		name = string(value)
	}
	return name, nil
}

// protocols is RFC 7301 section 3.1.
func (r reader) protocols() ([]string, error) {
	list := r.vector16()
	if len(list) == 0 || len(r) != 0 {
		return nil, malformed("ALPN")
	}
	var out []string
	for len(list) > 0 {
		p := list.vector8()
		if len(p) == 0 || list == nil {
			return nil, malformed("ALPN")
		}
		out = append(out, string(p))
	}
	return out, nil
}
