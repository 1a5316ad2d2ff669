package http1

import (
	"github.com/signet-mesh/signet/proxy"
)

// message gathers, while a head is read, what its fields say about the message itself. It is judged once all are known.
type message struct {
	h *proxy.Head

	hosts  int
	host   string
	length int64 // -1: no Content-Length
	coding string
	coded  bool // Transfer-Encoding was there

	upgrades int
	upgrade  string
	expect   string

	closing, keepAlive, upgrading bool // options of Connection

	named  [maxNamed]string // further options of Connection: fields to drop
	nnamed int
}

// fields reads the field lines of b up to the empty line. Frame has checked that every line ends in CRLF and that the empty
// line is there.
func (m *message) fields(b []byte, request bool, lim *Limits) *proxy.Failure {
	for count := 0; ; count++ {
		if len(b) < 2 {
			return bad("truncated_head")
		}
		if b[0] == '\r' && b[1] == '\n' {
			return m.drop()
		}
		if count >= lim.fields() {
			return tooLarge("http1.too_many_fields")
		}
		name, value, n, under, f := fieldLine(b)
		if f != nil {
			return f
		}
		b = b[n:]
		if k := classify(name); k != plain {
			if f := m.special(k, value); f != nil {
				return f
			}
			continue
		}
		if under && request && disguised(name) {
			return badValue("disguised_field_name", name)
		}
		m.h.Fields = append(m.h.Fields, proxy.Field{Name: name, Value: value})
	}
}

// special takes a field that Head keeps in members.
func (m *message) special(k kind, value string) *proxy.Failure {
	switch k {
	case host:
		m.hosts++
		if m.hosts > 1 {
			return bad("two_hosts")
		}
		m.host = value
	case contentLength:
		if m.length >= 0 {
			return bad("two_content_lengths")
		}
		n, ok := parseLength(value)
		if !ok {
			return badValue("content_length", value)
		}
		m.length = n
	case transferEncoding:
		if m.coded {
			return bad("two_transfer_encodings")
		}
		m.coded, m.coding = true, value
	case connection:
		return m.options(value)
	case upgrade:
		m.upgrades++
		m.upgrade = value
	case expect:
		if m.expect != "" {
			return proxy.Fail(proxy.ExpectationFailed, "", quoted(value))
		}
		m.expect = value
	case te:
		for value != "" {
			var member string
			if member, value = cut(value); equalFold(member, "trailers") {
				m.h.Trailers = true
			}
		}
	}
	return nil
}

// options reads Connection (RFC 9110 section 7.6.1).
func (m *message) options(list string) *proxy.Failure {
	for list != "" {
		var option string
		option, list = cut(list)
		switch {
		case option == "":
		case equalFold(option, "close"):
			m.closing = true
		case equalFold(option, "keep-alive"):
			m.keepAlive = true
		case equalFold(option, "upgrade"):
			m.upgrading = true
		case !isToken(option):
			return badValue("connection_option", option)
		case m.nnamed == len(m.named):
			return bad("too_many_connection_options")
		default:
			m.named[m.nnamed] = option
			m.nnamed++
		}
	}
	return nil
}

// drop removes the fields that Connection names. A protected one refuses the message: either the sender is confused or it
// wants us to remove what somebody behind us relies on.
func (m *message) drop() *proxy.Failure {
	for _, option := range m.named[:m.nnamed] {
		var buf [64]byte
		if len(option) > len(buf) {
			return badValue("connection_option", option)
		}
		for i := 0; i < len(option); i++ {
			buf[i] = lower[option[i]]
		}
		name := str(buf[:len(option)])
		if protected(name) {
			return badValue("protected_connection_option", option)
		}
		m.h.Del(name)
	}
	return nil
}

// framing judges Content-Length and Transfer-Encoding together (RFC 9112 section 6.3).
func (m *message) framing() *proxy.Failure {
	switch {
	case !m.coded:
		return nil
	case m.length >= 0:
		return bad("content_length_and_transfer_encoding")
	case m.h.Minor == 0:
		return bad("transfer_encoding_in_http10")
	case !equalFold(m.coding, "chunked"):
		return proxy.Fail(proxy.UnsupportedTransferEncoding, "", quoted(m.coding))
	}
	return nil
}

// protocol is what Upgrade may ask for: "" unless Connection names it, in HTTP/1.1, on one line, well formed, and without
// any form of HTTP/2, which is never entered this way.
func (m *message) protocol() (string, *proxy.Failure) {
	if m.upgrades == 0 || !m.upgrading || m.h.Minor == 0 {
		return "", nil
	}
	if m.upgrades > 1 {
		return "", bad("two_upgrades")
	}
	for list := m.upgrade; list != ""; {
		var member string
		member, list = cut(list)
		name, version := member, "1"
		for i := 0; i < len(member); i++ {
			if member[i] == '/' {
				name, version = member[:i], member[i+1:]
				break
			}
		}
		if !isToken(name) || !isToken(version) {
			return "", badValue("upgrade", m.upgrade)
		}
		if equalFold(name, "h2c") || equalFold(name, "h2") || equalFold(name, "http") {
			return "", nil
		}
	}
	return m.upgrade, nil
}

// keeps says whether the sender goes on using the connection (RFC 9112 section 9.3).
func (m *message) keeps() bool {
	return !m.closing && (m.h.Minor == 1 || m.keepAlive)
}

// parseLength reads 1*DIGIT that fits an int64.
func parseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 || n > (1<<63-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}
